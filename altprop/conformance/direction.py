"""Rules about what a learner calls a gradient, and the gradient checker behind `altprop-check --gradient`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from altprop.capabilities import Capability
from altprop.conformance.case import NotApplicable, Target, by_name, make, on_task, smallest, steps, suitable_task
from altprop.conformance.gradients import check_gradient
from altprop.conformance.noises import at
from altprop.data import Batch
from altprop.errors import Refused
from altprop.harness.building import Parts
from altprop.noise import SITES
from altprop.optim import Updater
from altprop.problem import Grads

# Worst relative error of what may be called a gradient, in float64.
EXACT = 1e-6


@dataclass(frozen=True)
class Direction:
    """The first direction of a learner against central differences.

    Attributes:
        origin: "gradient" or "other", as it was handed to the optimizer, or "change" for the first step's own.
        errors: layer -> worst relative error.
    """

    origin: str
    errors: Mapping[str, float]

    @property
    def worst(self) -> float:
        """The worst relative error of all layers; NaN counts as infinite."""
        return max((e if e == e else float("inf") for e in self.errors.values()), default=0.0)

    @property
    def exact(self) -> bool:
        """Whether it is the gradient."""
        return self.worst <= EXACT

    @property
    def honest(self) -> bool:
        """Whether it is the gradient, or is not sold as one."""
        return self.exact or self.origin != "gradient"

    @property
    def what(self) -> str:
        """What was compared, in words."""
        if self.origin == "change":
            return "the change of its first step, scaled to the gradient"
        return "the first direction that it hands to the optimizer"

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        if self.exact:
            return f"it is the gradient: no error above {EXACT:g}"
        if self.honest:
            return "it is not the gradient, and is not handed over as one"
        return "it is handed over as a gradient, and is none"


@contextmanager
def _watched(parts: Parts, seen: list[tuple[str, Grads, Grads]], batch: list[Batch | None]) -> Iterator[None]:
    """Write down (kind, direction, true gradient) of each update of the whole model."""
    original = Updater.apply

    def spy(self: Updater, direction: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> None:
        if self._module is parts.model and batch[0] is not None:
            with parts.problem.observing():
                true = parts.problem.gradient(batch[0])[1]
            kept = {name: value.detach().clone() for name, value in direction.items() if value is not None}
            seen.append((self.direction, kept, {name: value.clone() for name, value in true.items()}))
        original(self, direction, *args, **kwargs)

    Updater.apply = spy  # type: ignore[method-assign]
    try:
        yield
    finally:
        Updater.apply = original  # type: ignore[method-assign]


def gradient_is_exact(target: Target) -> str | None:
    """A direction that is handed to the optimizer as a gradient is one."""
    worst = _worst(make(target))
    if worst is None:
        raise NotApplicable("it hands no direction to an optimizer as a gradient")
    if not worst <= EXACT:
        return (
            f"it hands a direction to the optimizer as a gradient that is off by {worst:.2g} of its norm; "
            'leave out gradient_is_exact, or make the updater with direction="other"'
        )
    return None


def gradient_is_exact_under_noise(target: Target) -> str | None:
    """It is one under noise too, at whichever site of the model the noise acts."""
    without = _worst(make(target))
    if without is None or not without <= EXACT:
        raise NotApplicable("it hands no gradient to an optimizer where there is no noise")
    tried = 0
    for site in sorted(SITES):
        try:
            parts = make(target, *at(site))
        except Refused:  # the model has no such site, or the learner covers no such noise
            continue
        with parts.problem.same_noise():
            worst = _worst(parts)
        tried += 1
        if worst is not None and not worst <= EXACT:
            return (
                f"under noise at the site {site!r} what it hands over as a gradient is off by {worst:.2g} of its norm; "
                "take the noise along (Problem.cell_step, Problem.walk, block.forward), or refuse it"
            )
    if not tried:
        raise NotApplicable("it runs under no noise")
    return None


def _worst(parts: Parts) -> float | None:
    """Return the worst distance from the gradient of what is sold as one in three steps, or None where nothing is."""
    batch: list[Batch | None] = [None]
    seen: list[tuple[str, Grads, Grads]] = []
    with _watched(parts, seen, batch):
        for position in range(3):
            batch[0] = parts.feed.batch(position)
            if parts.algorithm.step(batch[0]).done:
                break
    return max((_distance(direction, true) for kind, direction, true in seen if kind == "gradient"), default=None)


def _distance(direction: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> float:
    """Norm of the difference over the norm of the true gradient, both over all parameters."""
    nothing = {name: torch.zeros_like(value) for name, value in true.items()}
    gap = torch.cat([((nothing | dict(direction))[name] - value).flatten() for name, value in true.items()])
    norm = torch.cat([value.flatten() for value in true.values()]).norm()
    found = float(gap.norm() / norm.clamp(min=1e-12))
    return found if found == found else float("inf")


def first_direction(target: Target) -> Direction:
    """Hold the first direction of a learner against central differences, layer by layer.

    A learner with an optimizer is asked for what it hands over; of any other, the change of its first step is taken,
    scaled to the gradient by least squares.

    Raises:
        NotApplicable: for a learner that changes no weight of the model, or is fed no batch.
    """
    parts = make(target)
    problem = parts.problem
    batch = parts.feed.batch(0)
    if batch is None:
        raise NotApplicable("it is fed no batch")
    start = problem.flat()
    seen: list[tuple[str, Grads, Grads]] = []
    with _watched(parts, seen, [batch]):
        parts.algorithm.step(batch)
    change = start - problem.flat()
    problem.assign(start)
    if seen:
        origin, direction, true = seen[0]
        direction = {name: torch.zeros_like(value) for name, value in true.items()} | direction
    else:
        if not bool(change.any()):
            raise NotApplicable("its first step changes no weight of the model")
        gradient = problem.flatten(problem.gradient(batch)[1])
        scale = float(change @ gradient / (gradient @ gradient))
        origin, direction = "change", problem.unflatten(change / (scale or 1.0))
    return Direction(origin, check_gradient(problem, batch, direction))


def changes_nothing_without_an_error(target: Target) -> str | None:
    """Where its outputs are already the targets, it leaves the weights alone."""
    parts = _solved(target)
    start = parts.problem.flat()
    steps(parts, 1)
    if parts.algorithm._predictor() is not None:
        raise NotApplicable("it learns a predictor of its own")
    if parts.problem.ledger.calls("population"):
        raise NotApplicable("it evaluates other weights than the present ones")
    moved = float((parts.problem.flat() - start).norm() / start.norm())
    if not moved <= 1e-9:
        return f"where every output is its target already, a step moves the weights by {moved:.2g} of their norm"
    return None


def _solved(target: Target) -> Parts:
    """Build the target on a least-squares task whose targets are what the model gives."""
    if target.control:
        raise NotApplicable("it is a control")
    smallest(target)
    wanted = frozenset({Capability.LEAST_SQUARES, Capability.SUPERVISED})
    task = suitable_task(target.requires, wanted, target.folders, target.kind)
    if task is None:
        raise NotApplicable("it runs on no task with a least-squares objective")
    parts = make(target, *on_task(task), "task.batch_size=full", "optimizer=sgd")
    batch = parts.feed.batch(0)
    if batch is None:
        raise NotApplicable("it is fed no batch")
    with parts.problem.observing(), torch.no_grad():
        outputs = parts.problem.outputs(batch)
    batch.targets.copy_(outputs.reshape(batch.targets.shape))
    return parts


DIRECTION = by_name(gradient_is_exact, gradient_is_exact_under_noise, changes_nothing_without_an_error)
