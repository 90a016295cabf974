"""Learners that disturb weights or units and see what becomes of the loss: no error goes backwards through a layer."""
