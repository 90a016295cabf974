"""Functions of many local minima: Rastrigin's and Schaffer's, in any dimension."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from altprop import check_name
from altprop.checks import check_whole
from altprop.tasks.classical import Classic, ClassicalFunction, Coordinates
from altprop.tasks.points import PointTask, start_of


def _rastrigin(x: Coordinates) -> list[Tensor]:
    every = torch.stack(x)
    return [every, math.sqrt(20) * (math.pi * every).sin()]


def _schaffer(x: Coordinates) -> list[Tensor]:
    every = torch.stack(x)
    squares = every[:-1].square() + every[1:].square()
    # The slope of a root is infinite at 0, where the function has its minimum: 0 stands for it there.
    zero = squares == 0
    root = torch.where(zero, 0.0, torch.where(zero, 1.0, squares) ** 0.125)
    return [root, root * (50 * squares.where(~zero, torch.ones_like(squares)) ** 0.1).sin()]


MULTIMODAL = {
    "rastrigin": Classic(_rastrigin, (3.2,), view=((-4.0, 4.0), (-4.0, 4.0))),
    "schaffer": Classic(_schaffer, (10.0,)),
}


class MultimodalFunction(ClassicalFunction):
    """A sum of squares, as classical problems are, with local minima beside the one."""

    name = "multimodal"


class Multimodal(PointTask):
    """A function with a local minimum in every cell of a grid, or in every ring around its minimum of 0 at 0.

        rastrigin   f(x) = sum_i x_i^2 + 10 (1 - cos 2 pi x_i), from x = 3.2
        schaffer    f(x) = sum_i s_i^(1/4) (sin^2(50 s_i^(1/10)) + 1) with s_i = x_i^2 + x_(i+1)^2, from x = 10

    Both are those of DEAP's `benchmarks`. They are element-wise, so they cost 0 FLOPs by the field's convention:
    budgets count forward-equivalents. Functions of one minimum: `task=quadratic` (sphere, ellipsoid) and
    `task=rosenbrock`.

    Args:
        function: rastrigin or schaffer.
        dimension: D, at least 1, or 2 for schaffer.
        start: a number for all coordinates, or D numbers.
        common: see `PointTask`.

    Raises:
        AltpropError: for values outside these.

    Paper: Muehlenbein, Schomisch and Born 1991, The parallel genetic algorithm as function optimizer (Rastrigin in D
    dimensions); Schaffer, Caruana, Eshelman and Das 1989, A study of control parameters affecting online performance of
    genetic algorithms for function optimization.
    """

    losses: ClassVar[tuple[str, ...]] = ("multimodal",)

    def __init__(self, *, function: str = "rastrigin", dimension: int = 10, start: Any = None, **common: Any) -> None:
        self.classic = MULTIMODAL[check_name(function, "task.function", tuple(MULTIMODAL))]
        begin = start_of(start, dimension, self.classic.start)
        check_whole(dimension, "task.dimension", 2 if function == "schaffer" else 1)
        super().__init__(begin, f"{function}'s function", view=self.classic.view, **common)

    def _make_loss(self, name: str) -> MultimodalFunction:
        return MultimodalFunction(self.classic)
