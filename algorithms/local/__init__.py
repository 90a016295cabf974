"""Learners in which every layer has an objective of its own: no error goes from one layer to the one below."""
