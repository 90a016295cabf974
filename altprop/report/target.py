"""Time to a target when some runs never reach it and some were cut off.

A run that diverged, became non-finite, failed or ran out of memory will *never* hit: its time is infinite and it stays
in the risk set to the horizon, as does a run that spent its budget. Only runs that were timed out or interrupted are
right-censored: they leave the risk set where they were cut. (Dropping the diverged runs from the risk set, as a naive
Kaplan-Meier estimate does, would report the speed of the lucky ones as the speed of the learner.)

Evaluations are on a grid, so a hit is known as the interval (previous evaluation, hit]; its right end is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from altprop.report.statistics import Interval, wilson_interval

# Every other run that has no hit has none for ever: it spent its budget or broke off by itself.
CENSORED = frozenset({"timed_out", "interrupted", "reached_target"})


@dataclass(frozen=True)
class Outcome:
    """How one run fared against one target, in one currency.

    Attributes:
        time: right end of the hit interval; infinite for a run that never hits; the cut for a censored one.
        previous: left end of the hit interval, None without a hit.
        hit: whether the target was met.
        censored: whether the run was cut off before it could be told.
    """

    time: float
    previous: float | None = None
    hit: bool = False
    censored: bool = False


def outcome(status: str, interval: Sequence[float] | None, spent: float) -> Outcome | None:
    """Return the outcome of a run that ended as `status` after `spent`, with its hit interval if it has one.

    A run that stopped at its declared target is cut off for every harder target. A refused run has no outcome (None):
    it is not in n.

    >>> outcome("diverged", None, 1.0).time, outcome("interrupted", None, 1.0).censored
    (inf, True)
    """
    if status == "refused":
        return None
    if interval is not None:
        return Outcome(float(interval[1]), float(interval[0]), hit=True)
    if status in CENSORED:
        return Outcome(float(spent), censored=True)
    return Outcome(math.inf)


def cumulative_incidence(outcomes: Sequence[Outcome]) -> tuple[list[float], list[float]]:
    """Return the share of runs that have hit by each time: jump times and the values from there on.

    1 minus the product of (1 - hits/at risk); never-hitters stay at risk for ever. Censoring at a hit time takes
    effect after the hit.

    >>> cumulative_incidence([Outcome(5.0, 4.0, hit=True), Outcome(math.inf)])
    ([5.0], [0.5])
    """
    times = sorted({o.time for o in outcomes if o.hit})
    surviving, values = 1.0, []
    for time in times:
        at_risk = sum(1 for o in outcomes if o.time >= time)
        hits = sum(1 for o in outcomes if o.hit and o.time == time)
        surviving *= 1 - hits / at_risk
        values.append(1 - surviving)
    return times, values


def restricted_mean(outcomes: Sequence[Outcome], horizon: float) -> float:
    """Return the mean of min(T, horizon): the area above the cumulative incidence up to the horizon.

    >>> restricted_mean([Outcome(5.0, hit=True)] * 7 + [Outcome(math.inf)] * 3, 10.0)
    6.5
    """
    times, values = cumulative_incidence(outcomes)
    area, start, level = 0.0, 0.0, 1.0
    for time, value in zip(times, values, strict=True):
        if time >= horizon:
            break
        area += (time - start) * level
        start, level = time, 1 - value
    return area + (horizon - start) * level


def median_time(outcomes: Sequence[Outcome]) -> float:
    """Return the median time to the target, infinite where half of the runs or more never hit it.

    Where the curve stands at one half exactly, the middle of that step, which without censoring is the usual median.
    """
    times, values = cumulative_incidence(outcomes)
    for position, value in enumerate(values):
        if abs(value - 0.5) < 1e-12:
            following = times[position + 1] if position + 1 < len(times) else math.inf
            return (times[position] + following) / 2
        if value > 0.5:
            return times[position]
    return math.inf


@dataclass(frozen=True)
class TimeToTarget:
    """Rate and speed of one learner against one target, side by side.

    Attributes:
        n: runs, refused ones left out. hits: runs that met the target. censored: runs cut off.
        rate: hits/n with Wilson's interval.
        median: in the currency asked for, infinite where half never hit.
        mean: restricted mean, mean of min(T, horizon). horizon: its tau.
    """

    n: int
    hits: int
    censored: int
    rate: Interval
    median: float
    mean: float
    horizon: float

    @property
    def order(self) -> tuple[float, float]:
        """For sorting, the better one first: hit rate before speed."""
        return -self.rate.estimate, self.mean


def time_to_target(outcomes: Sequence[Outcome], horizon: float) -> TimeToTarget:
    """Summarise the outcomes of one learner up to the common horizon."""
    hits = sum(o.hit for o in outcomes)
    return TimeToTarget(
        n=len(outcomes),
        hits=hits,
        censored=sum(o.censored for o in outcomes),
        rate=wilson_interval(hits, len(outcomes)),
        median=median_time(outcomes),
        mean=restricted_mean(outcomes, horizon),
        horizon=horizon,
    )


def common_horizon(spent: Sequence[tuple[str, float]]) -> float:
    """Return the smallest horizon of the compared learners: the least amount that a run which could go on had spent.

    Args:
        spent: (status, amount spent) of every run, in one currency. Runs that broke off say nothing about how far
            their learner was allowed to go; nor do runs that stopped at their target. Without any other run the
            largest amount spent is taken.
    """
    whole = [amount for status, amount in spent if status == "completed" and amount > 0]
    if whole:
        return float(min(whole))
    return float(np.max([amount for _, amount in spent])) if spent else 0.0
