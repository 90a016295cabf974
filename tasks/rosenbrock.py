"""Rosenbrock's banana valley: easy to find, slow to follow."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from altprop.checks import check_whole
from altprop.tasks.points import PointLoss, PointTask, start_of


class RosenbrockFunction(PointLoss):
    """f(theta) = sum_i 100 (theta_(i+1) - theta_i^2)^2 + (1 - theta_i)^2; the minimum is 0 at (1, ..., 1)."""

    name = "rosenbrock"

    def per_element(self, outputs: Tensor, targets: Tensor) -> Tensor:
        x, y = outputs[..., :-1], outputs[..., 1:]
        return (100 * (y - x.square()).square() + (1 - x).square()).sum(-1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        x, y = outputs[..., :-1], outputs[..., 1:]
        along_x = -400 * x * (y - x.square()) - 2 * (1 - x)
        along_y = 200 * (y - x.square())
        return _padded(along_x, right=True) + _padded(along_y, right=False)

    def curvature_product(self, outputs: Tensor, vector: Tensor) -> Tensor:
        x, y = outputs[..., :-1], outputs[..., 1:]
        u, v = vector[..., :-1], vector[..., 1:]
        along_x = (1200 * x.square() - 400 * y + 2) * u - 400 * x * v
        along_y = 200 * v - 400 * x * u
        return _padded(along_x, right=True) + _padded(along_y, right=False)


class Rosenbrock(PointTask):
    """Rosenbrock's function, by default in 2 dimensions from the classical start (-1.2, 1).

    The function is element-wise, so it costs 0 FLOPs by the field's convention: budgets count forward-equivalents.

    Args:
        dimension: D, at least 2. From 4 on there is a local minimum near (-1, 1, ..., 1).
        start: a number for all coordinates, or D numbers; by default -1.2 and 1 in turn.
        common: see `PointTask`.

    Raises:
        AltpropError: for values outside these.

    Paper: Rosenbrock 1960, An automatic method for finding the greatest or least value of a function.
    """

    losses: ClassVar[tuple[str, ...]] = ("rosenbrock",)

    def __init__(self, *, dimension: int = 2, start: Any = None, **common: Any) -> None:
        begin = start_of(start, dimension, (-1.2, 1.0))
        check_whole(dimension, "task.dimension", 2)
        super().__init__(begin, "Rosenbrock's function", view=((-2.0, 2.0), (-1.0, 3.0)), **common)

    def _make_loss(self, name: str) -> RosenbrockFunction:
        return RosenbrockFunction()


def _padded(values: Tensor, *, right: bool) -> Tensor:
    """Return `values` (..., D - 1) as (..., D), with a zero at one end."""
    zero = torch.zeros_like(values[..., :1])
    return torch.cat([values, zero] if right else [zero, values], dim=-1)
