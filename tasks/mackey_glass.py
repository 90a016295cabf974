"""The Mackey-Glass series, chaotic at a delay of 17: predict six times ahead from four values."""

from functools import cache
from typing import ClassVar

import numpy as np
from torch import Tensor

from altprop import Capability, ModelSpec, Source, Split, Task
from altprop.tasks.common import Array, sha256_of, split_of, standardise

DELAY, STEP, START = 17, 0.1, 1.2
FIRST, ROWS, GAP, AHEAD = 118, 500, 6, 6


class MackeyGlass(Task):
    """x'(t) = 0.2 x(t - 17) / (1 + x(t - 17)^10) - 0.1 x(t), x(0) = 1.2 and 0 before, by Runge-Kutta at steps of 0.1.

    From x(t - 18), x(t - 12), x(t - 6) and x(t) predict x(t + 6): t = 118 to 617 train, 618 to 1117 are the test set.
    Inputs and target are standardised by the training rows. The metric `ndei` is the root mean squared error in units
    of the deviation of the test targets. Saying x(t) again has .813 there, a linear regression on all training rows
    .433, one on all products of up to three inputs .0505, of up to six .0125.

    The hold-out is the tail of the training rows.

    Paper: Mackey and Glass 1977; the rows are those of Jang 1993 (ANFIS). A half step takes the delayed value half-way
    between its neighbours.
    """

    losses: ClassVar[tuple[str, ...]] = ("half_squared_error", "mse")
    metric: ClassVar[str] = "ndei"
    higher_is_better: ClassVar[bool] = False
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.VECTORS})

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((4,), 1)

    def _load(self) -> Source:
        return _source()[0]

    def _metrics(self, outputs: Tensor, split: Split) -> dict[str, float]:
        return {"ndei": float((outputs - split.targets).double().square().mean().sqrt()) * _source()[1]}


def series(length: int) -> Array:
    """Return x(0), x(1), ..., (length,).

    >>> series(30)[[0, 17, 29]].round(6).tolist()
    [1.2, 0.227689, 0.793405]
    """
    per_unit = round(1 / STEP)
    lag, x = DELAY * per_unit, np.zeros((length - 1) * per_unit + 1)
    x[0] = START

    def slope(now: float, delayed: float) -> float:
        return float(0.2 * delayed / (1 + delayed**10) - 0.1 * now)

    for i in range(len(x) - 1):
        first, last = (x[i - lag + k] if i - lag + k >= 0 else 0.0 for k in (0, 1))
        middle = (first + last) / 2
        a = slope(x[i], first)
        b = slope(x[i] + STEP * a / 2, middle)
        c = slope(x[i] + STEP * b / 2, middle)
        d = slope(x[i] + STEP * c, last)
        x[i + 1] = x[i] + STEP * (a + 2 * b + 2 * c + d) / 6
    return x[::per_unit]


@cache
def _source() -> tuple[Source, float]:
    """Return the source and the factor from a root mean squared error in standardised units to the metric."""
    times = np.arange(FIRST, FIRST + 2 * ROWS)
    x = series(int(times[-1]) + AHEAD + 1)
    inputs = np.stack([x[times - back] for back in (3 * GAP, 2 * GAP, GAP, 0)], axis=1)
    targets = x[times + AHEAD][:, None]
    seen, unseen = standardise(inputs[:ROWS], inputs[ROWS:])
    wanted, later = standardise(targets[:ROWS], targets[ROWS:])
    source = Source(
        split_of(seen, wanted, times[:ROWS]),
        {"test": split_of(unseen, later, times[ROWS:])},
        "formula",
        # Hashed after rounding: the last bits of a power are the platform's, and chaos makes them grow.
        sha256_of(x.round(4)),
        ordered=True,
        files=(),
    )
    return source, float(1 / later.std())
