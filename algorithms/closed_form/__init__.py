"""Learners that solve for weights in closed form, in place of descending a loss."""
