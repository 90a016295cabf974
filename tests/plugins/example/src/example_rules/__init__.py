"""Somebody else's plugins for altprop."""
