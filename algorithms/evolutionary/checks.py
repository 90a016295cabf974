"""What holds for every population learner that uses ranks alone: measured errors for `oracles()` and the tests."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from altprop import Algorithm, Batch, Capability, Descriptor, Oracle, Problem, Random
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


def of_ranks(make: Maker) -> tuple[Oracle, ...]:
    """Return what holds for every learner that uses ranks alone, on fresh fitness."""
    return (
        Oracle("f and 7 log1p(f) - 3 give one run", lambda: rank_difference(make, squashed), 0.0),
        Oracle("not f and -f give one run", lambda: rank_difference(make, negated), 1e-3, differs=True),
        Oracle("the origin may lie anywhere", lambda: translation_difference(make), 1e-10),
        Oracle("fitness is of the present batch", lambda: staleness(make), 1e-14),
    )


def pose(problem: Problem, function: Transform) -> None:
    """Let the fitness be a function of the parameters alone, (P, D) -> (P,)."""

    def handed_out(flat: Tensor, batch: Batch) -> Tensor:
        return function(flat)

    problem.population_objective = handed_out  # type: ignore[method-assign,assignment]


def sphere(flat: Tensor) -> Tensor:
    """Return |theta|^2 of each row (P, D)."""
    return flat.square().sum(-1)


def ellipsoid(flat: Tensor) -> Tensor:
    """Return the sum of 10^(6 i / (D - 1)) theta_i^2 of each row (P, D), i from 0: a condition of 1e6."""
    size = flat.shape[-1]
    powers = torch.arange(size, dtype=flat.dtype, device=flat.device) * (6 / (size - 1))
    return (10**powers * flat.square()).sum(-1)


def rosenbrock(flat: Tensor) -> Tensor:
    """Return Rosenbrock's function of each row (P, D); its minimum is 0 at (1, ..., 1)."""
    x, y = flat[..., :-1], flat[..., 1:]
    return (100 * (y - x.square()).square() + (1 - x).square()).sum(-1)


def evaluations(
    make: Maker, function: Transform, seed: int, *, start: float = 1.0, size: int = 10, limit: int = 20000
) -> int:
    """Return how many evaluations a learner takes to f < 1e-8 from (start, ..., start), the last generation whole."""
    problem, batch = toy_point([0.0] * size, [start] * size, seed=seed)
    counted = 0

    def watched(flat: Tensor) -> Tensor:
        nonlocal counted
        counted += len(flat)
        return function(flat)

    pose(problem, watched)
    learner = make()
    learner.setup(problem)
    while counted < limit and float(learner.step(batch).scalars["best_fitness"]) >= 1e-8:
        pass
    return counted


class Seen(NamedTuple):
    """What a learner evaluated in one step.

    Attributes:
        flat: (P, D).
        values: (P,).
        behaviour: (P, K).
    """

    flat: Tensor
    values: Tensor
    behaviour: Tensor


def behaving(
    *, seed: int = 0, shift: float = 0.0, transform: Transform | None = None, view: Transform | None = None
) -> tuple[Problem, Batch, list[Seen]]:
    """Return a sphere of 6 coordinates whose first two are the behaviour, its batch, and a list of what is evaluated.

    Args:
        seed: of the streams.
        shift: of behaviour and its bounds.
        transform: of the values.
        view: of the behaviour.
    """
    problem, batch = toy_point([0.0] * 6, [1.0] * 6, seed=seed)
    problem.offers |= {Capability.BEHAVIOUR}
    problem.descriptor = Descriptor(("x", "y"), (shift - 2.0, shift - 3.0), (shift + 2.0, shift + 1.0))
    problem.describe = lambda outputs, batch: shift + (outputs[:, 0, :2] if view is None else view(outputs[:, 0, :2]))
    plain, seen = problem.population_behaviour, list[Seen]()

    def watched(flat: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        values, behaviour = plain(flat, batch)
        seen.append(Seen(flat, values if transform is None else transform(values), behaviour))
        return seen[-1].values, behaviour

    problem.population_behaviour = watched  # type: ignore[method-assign,assignment]
    return problem, batch, seen


def behaved(make: Maker, steps: int = 30, **how: Any) -> tuple[Algorithm, Problem, list[Seen]]:
    """Return a learner after some steps on `behaving`, its problem, and what it evaluated."""
    problem, batch, seen = behaving(**how)
    learner = make()
    learner.setup(problem)
    for _ in range(steps):
        learner.step(batch)
    return learner, problem, seen
