"""A step along a direction by a line search: what quasi-Newton and conjugate-gradient methods share."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from altprop import Batch, Problem
from altprop.algorithms.second_order.line_search import Backtracking, Found, StrongWolfe

Place = tuple[Tensor, Tensor]
"""The objective, a scalar, and its gradient, (D,)."""


class Moved(NamedTuple):
    """What a step came to.

    Attributes:
        loss: the objective before.
        gradient: before, (D,).
        direction: that was searched along, (D,): minus the gradient where the other one did not descend.
        step: factor on it; 0 where no decrease was found, and nothing moved.
        slope: of the objective along the direction, before.
        after: objective and gradient at the new place, on the same batch and under the same noise; None at step 0.
        restarted: whether the direction was minus the gradient because the one asked for did not descend.
        evaluations: of the search.
    """

    loss: Tensor
    gradient: Tensor
    direction: Tensor
    step: float
    slope: float
    after: Place | None
    restarted: bool
    evaluations: int

    @property
    def scalars(self) -> dict[str, float]:
        """What a step tells of its search."""
        return {"step": self.step, "evaluations": float(self.evaluations), "restarted": float(self.restarted)}


def evaluated(problem: Problem, batch: Batch) -> Place:
    """Return the objective and its gradient as one vector."""
    loss, grads = problem.gradient(batch)
    return loss, problem.flatten(grads)


class Along:
    """The objective along a direction from the present parameters: step -> (value, slope).

    Args:
        problem, batch: of the objective.
        direction: (D,).
    """

    def __init__(self, problem: Problem, batch: Batch, direction: Tensor) -> None:
        self._problem, self._batch, self._direction = problem, batch, direction
        self._start = problem.flat()
        self.seen: dict[float, Place] = {}

    def __call__(self, step: float) -> tuple[float, float]:
        self._problem.assign(self._start + step * self._direction, update=False)
        loss, gradient = self.seen[step] = evaluated(self._problem, self._batch)
        with self._problem.ledger.work("slopes", per="call"):
            return float(loss), float(gradient.dot(self._direction))

    def end(self, step: float) -> None:
        """Write the parameters at a step, or those of the start."""
        self._problem.assign(self._start + step * self._direction if step > 0 else self._start, update=step > 0)


def descend(
    problem: Problem,
    batch: Batch,
    known: Place | None,
    directed: Callable[[Tensor], Tensor],
    search: Backtracking | StrongWolfe,
    first: Callable[[float, float, bool], float],
) -> Moved:
    """Take a step along a direction, or along minus the gradient where that does not descend.

    Everything is evaluated under one noise. Where the search finds no decrease, or the gradient is 0 or not finite,
    nothing moves.

    Args:
        problem, batch: of the objective.
        known: objective and gradient here, where the step before evaluated them on this very function.
        directed: gradient (D,) -> direction (D,).
        search: how far to go.
        first: (slope, |gradient|, restarted) -> the first trial.
    """
    with problem.same_noise():
        loss, gradient = evaluated(problem, batch) if known is None else known
        direction = directed(gradient)
        with problem.ledger.work("slopes", per="call", calls=2):
            slope, size = float(gradient.dot(direction)), float(gradient.dot(gradient)) ** 0.5
        restarted = not slope < 0
        if restarted:
            direction, slope = -gradient, -(size**2)
        if not -float("inf") < slope < 0:
            return Moved(loss, gradient, direction, 0.0, slope, None, restarted, 0)
        along = Along(problem, batch, direction)
        found = _search(search, along, float(loss), slope, first(slope, size, restarted))
        along.end(found.step)
    after = along.seen[found.step] if found.step > 0 else None
    return Moved(loss, gradient, direction, found.step, slope, after, restarted, found.evaluations)


def _search(search: Backtracking | StrongWolfe, along: Along, value: float, slope: float, initial: float) -> Found:
    if isinstance(search, StrongWolfe):
        return search.search(along, value, slope, initial)
    return search.search(lambda step: along(step)[0], value, slope, initial)


def repeats(problem: Problem, full: bool) -> bool:
    """Return whether the next step sees the very function of this one: all rows and no noise."""
    return full and problem.uncounted.noise is None


def unit_first(slope: float, size: float, restarted: bool) -> float:
    """Return 1, the step that quasi-Newton directions are made for, or at a restart what moves by at most 1."""
    return min(1.0, 1.0 / size) if restarted else 1.0
