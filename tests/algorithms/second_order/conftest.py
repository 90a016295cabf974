"""Functions of a bare point, as problems."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from altprop.data import Batch, ModelSpec
from altprop.ledger import Ledger
from altprop.losses import Loss
from altprop.models.point import Point
from altprop.noise import NoiseClock
from altprop.problem import Problem
from altprop.randomness import Random, generator_for


class Function(Loss):
    """f(theta) as a loss, with derivatives by torch.func."""

    name = "function"

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        self.f = f

    def per_element(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([self.f(row) for row in outputs])

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(self.f))(outputs)

    def curvature_product(self, outputs: Tensor, vector: Tensor) -> Tensor:
        hessian = torch.func.jacrev(torch.func.grad(self.f))
        return torch.stack([hessian(o) @ v for o, v in zip(outputs, vector, strict=True)])

    def sample_targets(self, outputs: Tensor, random: Random) -> Tensor:
        raise NotImplementedError


def point(loss: Loss, start: tuple[float, ...]) -> tuple[Problem, Batch]:
    spec = ModelSpec((0,), len(start), start=start)
    model = Point(spec, generator=generator_for(0))
    problem = Problem(model, loss, spec, Ledger(), Random(0, "cpu", torch.float64), NoiseClock(0), model.offers)
    return problem, Batch(torch.zeros(1, 0), torch.zeros(1, 0), torch.zeros(1, dtype=torch.int64))


@pytest.fixture(name="point")
def _point() -> Any:
    """(f or a loss, start) -> (problem, batch)."""
    return lambda f, start: point(f if isinstance(f, Loss) else Function(f), start)
