"""Learners that use curvature: Newton, Gauss-Newton and their relatives."""
