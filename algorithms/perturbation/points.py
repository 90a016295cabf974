"""What rules share that evaluate the objective at other weights: differences along moves of all parameters at once."""

import torch
from torch import Tensor

from altprop import Batch, Problem, check_name

DRAWS = ("normal", "rademacher")


def drawn(problem: Problem, draw: str, samples: int, size: int) -> Tensor:
    """Return directions (K, D) whose elements have mean 0 and variance 1."""
    return problem.random.normal(samples, size) if draw == "normal" else problem.random.rademacher(samples, size)


def check_draw(draw: str) -> str:
    """Return the name of a distribution if it is known."""
    return check_name(draw, "algorithm.draw", DRAWS)


def differences(problem: Problem, batch: Batch, moves: Tensor) -> Tensor:
    """Return the objective at theta + m minus that at theta - m, (K,), for the rows m of moves (K, D).

    All points are evaluated on one batch and under one noise. A difference that is no number counts as none.
    """
    centre = problem.flat()
    values = problem.population_objective(torch.cat([centre + moves, centre - moves]), batch)
    return finite(values[: len(moves)] - values[len(moves) :])


def finite(difference: Tensor) -> Tensor:
    """Return differences with 0 where one is no finite number: a point beyond which the objective breaks down."""
    return torch.where(difference.isfinite(), difference, 0.0)


def refresh_statistics(problem: Problem, batch: Batch) -> Tensor | None:
    """Let running statistics (batch normalisation) see the batch, where the model has any; return the objective."""
    return problem.objective(batch) if any(True for _ in problem.model.buffers()) else None
