"""Credit assignment through time."""
