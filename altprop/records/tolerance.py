"""When two numbers, or two nested results, count as the same, within the seeds' spread, or different.

Bits can only agree where the fingerprints do (same versions, processor, threads). Elsewhere training is chaotic enough
that a seed's number is a fresh draw from the seeds' distribution, so a figure is held against that distribution:

    |mean(here) - mean(published)| <= t(.975, n - 1) * s * sqrt(1/n + 1/m) + 1e-6 |mean(published)|

with s the standard deviation over n published seeds and m seeds here: the interval that holds the mean of m new runs in
95 of 100 cases. Runs without the figure (diverged, never hit the target) may differ in number by one in ten, rounded
up; a single seed may not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

ROUNDING = 1e-6
"""Relative difference that is put down to rounding."""


class Verdict(StrEnum):
    """What a comparison says about one figure."""

    SAME = "same"
    WITHIN = "within the stated spread"
    DIFFERENT = "different"


def compare_means(
    published: Iterable[float | None], here: Iterable[float | None], least: float = ROUNDING
) -> tuple[float, Verdict]:
    """Return how far the means may lie apart and the verdict; the rule stands at the head of this module.

    Args:
        published: One value a seed, None or an infinity where there is none.
        here: The values of the same seeds, as many.
        least: The relative difference that is always allowed.

    >>> compare_means([0.90, 0.92, 0.94], [0.91, 0.92, 0.92])[1].value
    'within the stated spread'
    >>> compare_means([0.90, 0.92, 0.94], [0.71, 0.72, 0.72])[1].value
    'different'
    """
    old, new = list(published), list(here)
    known, fresh = finite(old), finite(new)
    spread = _spread(known, len(fresh), least)
    if [_value(entry) for entry in old] == [_value(entry) for entry in new]:
        return spread, Verdict.SAME
    allowed = math.ceil(len(old) / 10) if len(old) > 1 else 0
    if abs(len(known) - len(fresh)) > allowed:
        return spread, Verdict.DIFFERENT
    if not known or not fresh:  # At most one seed in ten has the figure, and on one side alone: nothing to compare.
        return spread, Verdict.WITHIN
    apart = abs(statistics.fmean(fresh) - statistics.fmean(known))
    return spread, Verdict.WITHIN if apart <= spread else Verdict.DIFFERENT


def _spread(known: list[float], fresh: int, least: float) -> float:
    if not known:
        return math.nan
    floor = least * abs(statistics.fmean(known))
    if len(known) < 2 or not fresh:
        return floor
    from scipy import stats

    quantile = float(stats.t.ppf(0.975, len(known) - 1))
    return quantile * statistics.stdev(known) * math.sqrt(1 / len(known) + 1 / fresh) + floor


def _value(entry: float | None) -> float | None:
    return entry if entry is not None and math.isfinite(entry) else None


def finite(values: Iterable[float | None]) -> list[float]:
    """Return the values that are there: neither None nor infinite nor NaN."""
    return [float(entry) for entry in values if entry is not None and math.isfinite(entry)]


def differing_paths(old: Any, new: Any, path: str = "") -> list[str]:
    """Return the dotted paths at which two nested values differ in any bit; NaN equals NaN, 0.0 is not -0.0.

    >>> differing_paths({"a": 1, "b": [1.0, 2.0]}, {"a": 1, "b": [1.0, 2.5], "c": None})
    ['b[1]', 'c']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        names = dict.fromkeys([*old, *new])
        absent = object()
        return [
            found
            for name in names
            for found in differing_paths(
                old.get(name, absent), new.get(name, absent), f"{path}.{name}" if path else name
            )
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            found
            for index, (left, right) in enumerate(zip(old, new, strict=True))
            for found in differing_paths(left, right, f"{path}[{index}]")
        ]
    return [] if type(old) is type(new) and repr(old) == repr(new) else [path]
