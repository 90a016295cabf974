"""Learners whose layers have states of their own, which settle to an energy's minimum before weights learn."""
