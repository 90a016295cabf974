"""Learners that send the error back along fixed feedback weights instead of the forward ones."""
