"""Identical tasks under interchangeable learning algorithms."""

__version__ = "0.1.0"
