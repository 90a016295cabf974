"""Learning-rate schedules, as functions of the share of the budget that is spent (never of a step horizon)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from altprop.errors import AltpropError, near

# name -> (factor at the end by default, function of (s, end)), where s runs from 0 to 1 after the warm-up.
SHAPES: dict[str, tuple[float, Callable[[float, float], float]]] = {
    "constant": (1.0, lambda s, end: 1.0),
    "linear": (0.0, lambda s, end: 1.0 - (1.0 - end) * s),
    # Loshchilov and Hutter 2017, one period.
    "cosine": (0.0, lambda s, end: end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * s))),
    # Two equal drops, after one half and after three quarters.
    "step": (0.01, lambda s, end: 1.0 if s < 0.5 else math.sqrt(end) if s < 0.75 else end),
    "exponential": (0.01, lambda s, end: end**s),
}


@dataclass(frozen=True)
class Schedule:
    """A factor on the learning rate.

    With p the share of the budget spent and w the warm-up, the factor is p / w while p < w and shape(s) afterwards,
    where s = (p - w) / (1 - w).

    Attributes:
        shape: constant, linear, cosine, step or exponential.
        warmup: share of the budget over which the rate rises from 0.
        end: factor at the end of the budget; None takes the shape's own (linear, cosine 0; step, exponential 0.01).

    Raises:
        AltpropError: for an unknown shape, a warm-up outside 0 .. 1 or an end outside 0 .. 1.

    >>> [round(Schedule("cosine", warmup=0.2)(p), 3) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    shape: str = "constant"
    warmup: float = 0.0
    end: float | None = None

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise AltpropError(f"unknown optimizer.schedule={self.shape}; {near(str(self.shape), SHAPES)}")
        if not (_is_number(self.warmup) and 0 <= self.warmup < 1):
            raise AltpropError(f"optimizer.warmup must be a share of at least 0 and below 1; got {self.warmup!r}")
        if self.end is not None and not (_is_number(self.end) and 0 <= self.end <= 1):
            raise AltpropError(f"optimizer.end must be a factor between 0 and 1; got {self.end!r}")
        if self.shape == "constant" and self.end not in (None, 1):
            raise AltpropError("optimizer.end needs a schedule that falls: linear, cosine, step or exponential")

    @property
    def constant(self) -> bool:
        """Whether the factor is 1 throughout."""
        return self.shape == "constant" and self.warmup == 0

    def __call__(self, progress: float) -> float:
        """Return the factor at a share of the budget, 0 to 1."""
        if progress < self.warmup:
            return progress / self.warmup
        default, function = SHAPES[self.shape]
        s = min(1.0, (progress - self.warmup) / (1.0 - self.warmup))
        return function(s, default if self.end is None else self.end)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
