"""Population learners: evolution strategies and genetic algorithms."""
