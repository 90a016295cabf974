"""Noise plugins: stochastic layers, one kind a module."""
