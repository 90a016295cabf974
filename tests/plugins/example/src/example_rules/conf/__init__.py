"""What this distribution offers, as Hydra groups."""
