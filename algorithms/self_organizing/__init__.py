"""Learners that build a structure of their own, such as maps of prototypes."""
