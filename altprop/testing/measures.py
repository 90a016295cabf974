"""The distances that oracles measure, for all families of learners."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from altprop.algorithm import Algorithm
from altprop.data import Batch
from altprop.direction import DirectionAlgorithm
from altprop.optim import OptimizerFactory
from altprop.problem import Problem
from altprop.randomness import Random

Learner = TypeVar("Learner", bound=Algorithm)


def set_up(learner: Learner, problem: Problem) -> Learner:
    """Bind a learner to a problem and return it."""
    learner.setup(problem)
    return learner


def sgd(lr: float = 0.1) -> OptimizerFactory:
    """Return the recipe for plain gradient descent, whose update is the direction itself but for a factor."""
    return OptimizerFactory("torch.optim.SGD", lr=lr)


def central_differences(problem: Problem, batch: Batch, step: float = 1e-5) -> Tensor:
    """Return the gradient (D,) of the objective by central differences; the parameters are put back.

    Each evaluation sees the noise of the present phase. The error of a smooth objective is of the order of step^2.
    """
    start = problem.flat()
    measured = torch.empty_like(start)
    with problem.same_noise():
        for i in range(start.numel()):
            values = []
            for sign in (1.0, -1.0):
                moved = start.clone()
                moved[i] += sign * step
                problem.assign(moved)
                values.append(problem.objective(batch))
            measured[i] = (values[0] - values[1]) / (2 * step)
        problem.assign(start)
    return measured


def relative_error(found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """Return the largest difference over the parameters, each in units of the reference's norm.

    A parameter whose gradient is 0 but for rounding, a bias before batch normalisation, is measured against a
    thousandth of the whole gradient.
    """
    whole = math.sqrt(sum(float(value.square().sum()) for value in reference.values()))
    return max(
        float((found[name] - value).norm()) / max(float(value.norm()), 1e-3 * whole)
        for name, value in reference.items()
    )


def against_backprop(learner: DirectionAlgorithm, batch: Batch) -> float:
    """Return the relative error of a learner's direction against the gradient of its problem, parameter by parameter.

    Both are taken under the masks of one phase.
    """
    problem = learner.problem
    with problem.same_noise():
        return relative_error(learner.direction(batch)[1], problem.gradient(batch)[1])


def step_error(learner: Algorithm, batch: Batch, expected: Tensor) -> float:
    """Return the largest absolute difference of a parameter from `expected` (D,) after one step."""
    learner.step(batch)
    return float((learner.problem.flat() - expected).abs().max())


def ended_apart(first: Problem, second: Problem) -> float:
    """Return the largest absolute difference between the parameters of two problems."""
    return float((first.flat() - second.flat()).abs().max())


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine between two tensors of one shape."""
    return float((a.flatten() @ b.flatten()) / (a.norm() * b.norm()))


def monte_carlo(
    draw: Callable[[], Tensor], expected: Tensor, draws: int, *, projections: int = 8, precision: float = 0.05
) -> float:
    """Return the largest abs z-score of the mean of random estimates against what it must be.

    The mean is looked at along fixed random unit directions, which see every error but one that is orthogonal to all
    of them. Hold it against 4; a negative control (a flipped sign, a dropped term) must exceed 4 on the same draws.

    Args:
        draw: () -> one estimate, shaped like `expected`.
        expected: the mean that is claimed.
        draws: number of estimates.
        projections: number of directions.
        precision: the largest standard error of the mean, in units of |expected|, at which the score says anything.

    Raises:
        ValueError: where the draws are too few for that precision: a z-score of a wide estimate passes anything.
    """
    directions = Random(7, expected.device, expected.dtype).normal(projections, expected.numel())
    directions = directions / directions.norm(dim=1, keepdim=True)
    found = torch.stack([directions @ draw().flatten() for _ in range(draws)])
    error = found.std(0) / math.sqrt(draws)
    if float(error.max()) > precision * float(expected.norm()):
        share = float(error.max()) / float(expected.norm())
        raise ValueError(f"{draws} draws leave a standard error of {share:.2f} of the norm; {precision} is asked for")
    return float(((found.mean(0) - directions @ expected.flatten()) / error).abs().max())
