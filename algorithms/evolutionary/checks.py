"""What holds for every population learner that uses ranks alone: measured errors for `oracles()` and the tests."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from altprop import Algorithm, Batch, Problem, Random
from altprop.testing import toy, toy_point

Maker = Callable[[], Algorithm]
Transform = Callable[[Tensor], Tensor]


def squashed(values: Tensor) -> Tensor:
    """Return 7 log1p(f) - 3, which is monotone: no rank changes."""
    return 7 * values.log1p() - 3


def negated(values: Tensor) -> Tensor:
    """Return -f, which turns every rank around: the negative control."""
    return -values


def transformed(problem: Problem, transform: Transform) -> None:
    """Let the problem hand out transformed fitness."""
    plain = problem.population_objective

    def handed_out(flat: Tensor, batch: Batch) -> Tensor:
        return transform(plain(flat, batch))

    problem.population_objective = handed_out  # type: ignore[method-assign,assignment]


def rank_difference(make: Maker, transform: Transform, steps: int = 15) -> float:
    """Return the largest difference of parameters between runs on f and on a transform of f."""
    ends = []
    for change in (None, transform):
        problem, batch = toy(seed=1)
        if change is not None:
            transformed(problem, change)
        learner = make()
        learner.setup(problem)
        for _ in range(steps):
            learner.step(batch)
        ends.append(problem.flat())
    return float((ends[0] - ends[1]).abs().max())


def translation_difference(make: Maker, steps: int = 40) -> float:
    """Return the largest difference between a run on a sphere and one on the sphere moved with its start."""
    shift = Random(3, "cpu", torch.float64).normal(6)
    ends = []
    for offset in (torch.zeros_like(shift), shift):
        problem, batch = toy_point(offset.tolist(), (offset + 1).tolist())
        learner = make()
        learner.setup(problem)
        for _ in range(steps):
            learner.step(batch)
        ends.append(problem.flat() - offset)
    return float((ends[0] - ends[1]).abs().max())


def staleness(make: Maker, steps: int = 6) -> float:
    """Return the largest difference between recorded best fitness and a fresh one, over batches that change.

    Each batch has other targets, so a fitness kept from an earlier batch is wrong by about 1.
    """
    problem, batch = toy(seed=2)
    learner = make()
    seen: list[Tensor] = []
    plain = problem.population_objective

    def watched(flat: Tensor, batch: Batch) -> Tensor:
        seen.append(flat.clone())
        return plain(flat, batch)

    problem.population_objective = watched  # type: ignore[method-assign,assignment]
    learner.setup(problem)
    worst = 0.0
    for shift in range(steps):
        present = replace(batch, targets=(batch.targets + shift) % 3)
        seen.clear()
        scalars = learner.step(present).scalars
        fresh = plain(torch.cat(seen), present)
        worst = max(worst, abs(float(fresh.min() - scalars["best_fitness"])))
        worst = max(worst, abs(float(fresh.mean() - scalars["mean_fitness"])))
    return worst


def rise(make: Maker, steps: int = 30) -> float:
    """Return the largest rise of the model's objective from one generation to the next, on one full batch."""
    problem, batch = toy(seed=4)
    learner = make()
    learner.setup(problem)
    values = [float(problem.objective(batch))]
    for _ in range(steps):
        learner.step(batch)
        values.append(float(problem.objective(batch)))
    return max(after - before for before, after in pairwise(values))
