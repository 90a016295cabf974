"""What a published archive may leave out of traces, so that it stays small; results are never touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from altprop.records.record import Record

Row = dict[str, Any]


@dataclass(frozen=True)
class Thinning:
    """One degree of thinning.

    Attributes:
        digits: Significant digits that probes and clocks keep.
        probes: Number of probes that a run keeps, evenly over its trace, the first and the last among them; None for
            all.
    """

    digits: int
    probes: int | None = None

    @property
    def sentences(self) -> list[str]:
        """What is left out, for the reader of a report."""
        said = [
            "Tuning trials have no traces.",
            "Training losses between evaluations are left out.",
            f"Probes and measured seconds are rounded to {self.digits} significant digits.",
        ]
        if self.probes is not None:
            said.append(f"Of each run at most {self.probes} probes are kept, evenly over its trace.")
        return said

    def trace(self, record: Record, rows: Sequence[Row]) -> list[Row]:
        """Return what is kept of a trace: evaluations as they are, and probes."""
        if record.data.get("role") == "trial":
            return []
        places = [place for place, row in enumerate(rows) if row.get("kind") == "probe"]
        kept = set(_evenly(places, self.probes))
        return [
            rounded(row, self.digits) if place in kept else row
            for place, row in enumerate(rows)
            if row.get("kind") == "evaluation" or place in kept
        ]

    def clock(self, record: Record, rows: Sequence[Row]) -> list[Row]:
        """Return what is kept of a clock."""
        return [] if record.data.get("role") == "trial" else [rounded(row, self.digits) for row in rows]


LADDER: tuple[Thinning | None, ...] = (None, Thinning(6), Thinning(4, 24), Thinning(4, 12), Thinning(3, 6))
"""From nothing left out to the most that is; the first of which the archive fits is taken."""


def rounded(value: Any, digits: int) -> Any:
    """Return `value` with all its floats rounded to so many significant digits; those that count steps stay.

    >>> rounded({"step": 12345, "values": [0.123456, None, "NaN", 1234567.0]}, 3)
    {'step': 12345, 'values': [0.123, None, 'NaN', 1230000.0]}
    """
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {name: rounded(entry, digits) for name, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry, digits) for entry in value]
    return value


def _evenly(places: Sequence[int], count: int | None) -> list[int]:
    """Choose `count` of the places, evenly, the first and the last among them.

    >>> _evenly([3, 5, 8, 9, 11], 3)
    [3, 8, 11]
    """
    if count is None or len(places) <= count:
        return list(places)
    return [places[round(index * (len(places) - 1) / (count - 1))] for index in range(count)]
