"""What oracles are made of: small problems in float64, and the distances that oracles measure.

Nothing here is part of a run: it changes the hash of oracle checks, never the key of a run.
"""

from altprop.testing.measures import (
    against_backprop,
    central_differences,
    cosine,
    ended_apart,
    monte_carlo,
    relative_error,
    set_up,
    sgd,
    step_error,
)
from altprop.testing.problems import make_problem, toy, toy_point, toy_sequence

__all__ = [
    "against_backprop",
    "central_differences",
    "cosine",
    "ended_apart",
    "make_problem",
    "monte_carlo",
    "relative_error",
    "set_up",
    "sgd",
    "step_error",
    "toy",
    "toy_point",
    "toy_sequence",
]
