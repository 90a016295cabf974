"""The base of tasks that are functions of a bare parameter point, and their loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from altprop import (
    AltpropError,
    Batch,
    Capability,
    Descriptor,
    Ground,
    Loss,
    ModelSpec,
    Panel,
    Random,
    Source,
    Split,
    Task,
)
from altprop.tasks.common import sha256_of

View = tuple[tuple[float, float], tuple[float, float]]
"""Left and right, below and above."""
GRID = 41
LOWEST = -4
CAPTION = f"Behind it contour lines of the gap, at equal steps of its logarithm, from 1e{LOWEST} on."


class PointLoss(Loss, ABC):
    """Abstract function f(theta) in the clothes of a loss: the outputs are theta itself, (..., D); targets are unused.

    With theta as the output, curvature in the outputs is the Hessian of f, and so Gauss-Newton is Newton.

    Attributes:
        minimum: the least value of f.
    """

    minimum: float = 0.0

    def sample_targets(self, outputs: Tensor, random: Random) -> Tensor:
        raise AltpropError(
            f"{self.name} is a function and no likelihood: it has no distribution to sample targets from"
        )


class PointTask(Task, ABC):
    """Abstract task: find the minimum of a function of theta (D,), from a fixed start.

    There are no data: one pseudo-row with no inputs trains, guides and tests. The metric is the gap f(theta) - min f.
    Where they are not given, `chance` is the gap at the start, and the targets are 1/2, 1/10 and 1/100 of it and 1e-8.
    In two dimensions every evaluation tells the point, and the report draws its way over contour lines of the gap.
    Behaviour is the first two coordinates, within what is drawn of the function, else 1.5 times as far as the start.

    Args:
        start: theta at the start, (D,).
        formula: the function in words, with its options: what the hash of the data is made of, beside the start.
        chance: see above.
        targets: see above.
        view: in two dimensions, ((left, right), (below, above)) of what is drawn of the function; None draws none.
        common: see `Task`.
    """

    losses: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[str] = "gap"
    higher_is_better: ClassVar[bool] = False
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.BEHAVIOUR})

    def __init__(
        self,
        start: tuple[float, ...],
        formula: str,
        *,
        chance: float | None = None,
        targets: Mapping[str, float] | None = None,
        view: View | None = None,
        **common: Any,
    ) -> None:
        self.function, self.start, self.formula = self._make_loss(self.losses[0]), start, formula
        theta = torch.tensor([start], dtype=torch.float64, device="cpu")
        gap = self._gap(theta) if chance is None else chance
        default = {"50%": 0.5 * gap, "90%": 0.1 * gap, "99%": 0.01 * gap, "1e-8": 1e-8}
        super().__init__(chance=gap, targets=targets or default, **common)
        if len(start) == 2:
            ground = None if view is None else self._ground(view)
            self.panels = (Panel("trajectory", ("x", "y"), CAPTION if ground else "", ground),)
        side = 1.5 * max(abs(value) for value in start) or 1.5
        spans = ((-side, side), (-side, side)) if view is None else view
        low, high = zip(*spans[: len(start)], strict=True)
        self.descriptor = Descriptor(("x", "y")[: len(start)], low, high)
        self._source = self._pseudo_row()

    @abstractmethod
    def _make_loss(self, name: str) -> PointLoss:
        """Build the function."""

    @property
    @final
    def spec(self) -> ModelSpec:
        return ModelSpec((0,), len(self.start), start=self.start)

    @final
    def _load(self) -> Source:
        return self._source

    @final
    def _describe(self, outputs: Tensor, batch: Batch) -> Tensor:
        return outputs[:, 0, :2]

    def _pseudo_row(self) -> Source:
        empty = torch.zeros(1, 0, dtype=torch.float64, device="cpu")
        row = Split(empty, empty, torch.zeros(1, dtype=torch.int64, device="cpu"))
        digest = sha256_of(np.array(self.start), np.frombuffer(self.formula.encode(), dtype=np.uint8))
        return Source(row, {"test": row}, self.formula, digest, in_sample=True, files=())

    @final
    def _metrics(self, outputs: Tensor, split: Split) -> dict[str, float]:
        place = outputs.double().mean(0).tolist() if outputs.shape[-1] == 2 else ()
        return {"gap": self._gap(outputs), **dict(zip(("x", "y"), place, strict=False))}

    def _ground(self, view: View) -> Ground:
        """Return log10 of the gap on a grid of two coordinates."""
        x, y = (torch.linspace(*ends, GRID, dtype=torch.float64, device="cpu") for ends in view)
        points = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        gaps = self.function.per_element(points, points) - self.function.minimum
        levels = gaps.clamp(min=10.0**LOWEST).log10().tolist()
        return Ground(*view, tuple(tuple(round(value, 2) for value in line) for line in levels))

    def _gap(self, theta: Tensor) -> float:
        return float(self.function.per_element(theta, theta).double().mean()) - self.function.minimum


def start_of(start: Any, dimension: int, default: tuple[float, ...]) -> tuple[float, ...]:
    """Return the start as D numbers: one number stands for all coordinates, None for the default.

    Raises:
        AltpropError: where the length is wrong or a value is no number.

    >>> start_of(1, 3, (0.0,))
    (1.0, 1.0, 1.0)
    """
    if not isinstance(dimension, int) or isinstance(dimension, bool) or dimension < 1:
        raise AltpropError(f"task.dimension must be a whole number of at least 1; got {dimension!r}")
    if start is None:
        values = [default[i % len(default)] for i in range(dimension)]
    elif isinstance(start, (int, float)):
        values = [start] * dimension
    else:
        values = list(start)
    if len(values) != dimension or not all(isinstance(value, (int, float)) for value in values):
        raise AltpropError(f"task.start must be a number or {dimension} numbers; got {start!r}")
    return tuple(float(value) for value in values)
