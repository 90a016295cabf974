"""An oracle: what shows that a learner is what it says, as a value that anybody can measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Oracle:
    """A measured distance from something known, and what it must not exceed.

    An oracle holds where `measure() <= tolerance`. A negative control (`differs`) measures the same outside the limit
    in which the two are equal, and holds where `measure() > tolerance`: it shows that the oracle can tell. Neither
    holds for NaN.

    Args:
        name: what is claimed, in words; unique within a learner.
        measure: () -> the distance, a number of at least 0, in float64.
        tolerance: what it is compared with.
        differs: whether this is a negative control.

    >>> Oracle("1 = 1", lambda: 0.0, 1e-15).holds(0.0), Oracle("not 1 = 2", lambda: 1.0, 0.5, differs=True).holds(0.0)
    (True, False)
    """

    name: str
    measure: Callable[[], float]
    tolerance: float
    differs: bool = False

    def holds(self, error: float) -> bool:
        """Return whether a measured distance is what this oracle claims."""
        return error > self.tolerance if self.differs else error <= self.tolerance
