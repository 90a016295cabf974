"""Rates that change over a run: what all kinds of dropout share."""

from __future__ import annotations

import math

SCHEDULES = ("constant", "annealed", "curriculum")
# How fast a curriculum rises: at the end of the run it is off by e^-10 (Morerio et al. 2017, whose gamma is 10 / T).
STEEPNESS = 10.0


def rate_at(rate: float, schedule: str, progress: float) -> float:
    """Return a rate at a share of the budget, t from 0 to 1.

        annealed      rate (1 - t)              (Rennie, Goel and Thomas 2014)
        curriculum    rate (1 - exp(-10 t))     (Morerio, Cavazza, Volpi, Vidal and Murino 2017)

    Args:
        rate: that the yaml states: where an annealed rate begins, and what a curriculum ends at.
        schedule: one of `SCHEDULES`.
        progress: t.

    >>> [rate_at(0.4, schedule, 0.5) for schedule in ("constant", "annealed")]
    [0.4, 0.2]
    >>> [round(rate_at(0.4, "curriculum", t), 4) for t in (0.0, 0.1, 1.0)]
    [0.0, 0.2528, 0.4]
    """
    if schedule == "annealed":
        return rate * (1 - progress)
    if schedule == "curriculum":
        return rate * (1 - math.exp(-STEEPNESS * progress))
    return rate
