"""Interval estimates of one group of runs, and their summary when some of the runs failed.

Every function is exact or draws from its own seeded generator, so the same records give the same digits.

A *score* is a metric with its sign turned so that more is better. A failed run has no score: it is carried as
minus infinity, which ranks it below every run that ended. It is never dropped, padded or averaged in
(rule 9 of the protocol): with one failure or more there is no mean and no t-interval, and a quantile that falls on
a failure is minus infinity, which the page prints as "failed".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

CONFIDENCE = 0.95
TRIM = 0.25
BOOTSTRAP_FROM = 20
RESAMPLES = 4000
SEED = 20210830


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence limits, in the unit of the values it came from.

    Attributes:
        estimate: the point estimate.
        low: lower limit, or None where no interval can be given (one run, or a failure in the way).
        high: upper limit, or None as above.
        method: how the limits were made: "t", "trimmed t", "BCa" or "Wilson".
    """

    estimate: float
    low: float | None
    high: float | None
    method: str

    def flipped(self) -> Interval:
        """Return the same interval of the negated values.

        >>> Interval(-2.0, -3.0, -1.0, "t").flipped()
        Interval(estimate=2.0, low=1.0, high=3.0, method='t')
        """
        low = None if self.high is None else -self.high
        high = None if self.low is None else -self.low
        return Interval(-self.estimate, low, high, self.method)


def t_interval(values: Sequence[float] | Floats, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean with Student's interval, mean +- t(n-1) s / sqrt(n).

    >>> interval = t_interval([1.0, 2.0, 3.0])
    >>> round(interval.low, 4), interval.estimate, round(interval.high, 4)
    (-0.4841, 2.0, 4.4841)
    """
    x = np.asarray(values, dtype=float)
    mean = float(x.mean())
    if x.size < 2:
        return Interval(mean, None, None, "t")
    half = float(stdtrit(x.size - 1, 0.5 + confidence / 2) * x.std(ddof=1) / math.sqrt(x.size))
    return Interval(mean, mean - half, mean + half, "t")


def interquartile_mean(values: Floats, axis: int = -1) -> Floats:
    """Return the mean of the middle half: the floor(n/4) smallest and largest are cut, as in `scipy.stats.trim_mean`.

    Minus infinity survives only where failures reach the middle half: then the result is minus infinity too.

    >>> float(interquartile_mean(np.array([1.0, 2.0, 3.0, 90.0])))
    2.5
    """
    x = np.sort(values, axis=axis)
    n = x.shape[axis]
    cut = int(TRIM * n)
    return np.asarray(np.take(x, range(cut, n - cut), axis=axis).mean(axis=axis))


def trimmed_interval(values: Sequence[float] | Floats, confidence: float = CONFIDENCE) -> Interval:
    """Return the interquartile mean with the trimmed-mean t-interval.

    With g = floor(n/4) values cut at each end, h = n - 2g left and SSD_w the squared deviations of the winsorised
    sample, the half-width is t(h-1) sqrt(SSD_w / (h (h-1))).

    Paper: Tukey and McLaughlin 1963, "Less vulnerable confidence and significance procedures for location".
    """
    x = np.sort(np.asarray(values, dtype=float))
    n = x.size
    cut = int(TRIM * n)
    kept = n - 2 * cut
    estimate = float(interquartile_mean(x))
    if kept < 2:
        return Interval(estimate, None, None, "trimmed t")
    winsorised = np.clip(x, x[cut], x[n - cut - 1])
    squares = float(((winsorised - winsorised.mean()) ** 2).sum())
    half = float(stdtrit(kept - 1, 0.5 + confidence / 2)) * math.sqrt(squares / (kept * (kept - 1)))
    return Interval(estimate, estimate - half, estimate + half, "trimmed t")


def bca_interval(
    strata: Sequence[Floats],
    statistic: Statistic = interquartile_mean,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Bootstrap a statistic of pooled strata, each resampled by itself, with bias-corrected and accelerated limits.

    Args:
        strata: one array (n_i,) a stratum, for instance the scores of one task.
        statistic: maps pooled samples (..., n) to (...).
        resamples: number of bootstrap samples.
        seed: of this function's own generator: equal input gives equal limits.
        confidence: coverage aimed at.

    The acceleration is Efron's for several samples, from the jackknife values of each stratum. It is 0 where a
    jackknife value is not finite (failures in the way), which leaves the bias-corrected interval.

    Paper: Efron 1987, "Better bootstrap confidence intervals".
    """
    rng = np.random.default_rng(seed)
    groups = [np.asarray(stratum, dtype=float) for stratum in strata]
    draws = [group[rng.integers(0, group.size, (resamples, group.size))] for group in groups]
    replicates = np.sort(statistic(np.concatenate(draws, axis=-1)))
    estimate = float(statistic(np.concatenate(groups)))
    below = (np.sum(replicates < estimate) + np.sum(replicates <= estimate)) / (2 * resamples)
    if not 0.0 < below < 1.0:
        return Interval(estimate, None, None, "BCa")
    bias = float(ndtri(below))
    acceleration = _acceleration(groups, statistic)
    limits = []
    for tail in (0.5 - confidence / 2, 0.5 + confidence / 2):
        shifted = bias + float(ndtri(tail))
        limits.append(quantile(replicates, float(ndtr(bias + shifted / (1 - acceleration * shifted)))))
    return Interval(estimate, limits[0], limits[1], "BCa")


def _acceleration(groups: Sequence[Floats], statistic: Statistic) -> float:
    """Return Efron's acceleration: sum of U^3/n^3 over 6 (sum of U^2/n^2)^(3/2), U the jackknife influences."""
    cubes = squares = 0.0
    for position, group in enumerate(groups):
        n = group.size
        if n < 2:
            continue
        left_out = np.stack([np.delete(group, i) for i in range(n)])
        others = [np.broadcast_to(g, (n, g.size)) for k, g in enumerate(groups) if k != position]
        values = statistic(np.concatenate([left_out, *others], axis=-1))
        if not np.isfinite(values).all():
            return 0.0
        influence = (n - 1) * (values.mean() - values)
        cubes += float((influence**3).sum()) / n**3
        squares += float((influence**2).sum()) / n**2
    return cubes / (6 * squares**1.5) if squares > 0 else 0.0


def quantile(ordered: Floats, level: float) -> float:
    """Return the linear quantile of an ordered sample that may begin with minus infinities; one where it falls on one.

    >>> quantile(np.array([-np.inf, 1.0, 2.0]), 0.25), quantile(np.array([-np.inf, 1.0, 2.0]), 0.75)
    (-inf, 1.5)
    """
    place = level * (ordered.size - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return float(low) if low == high or math.isinf(low) else float(low + (place - math.floor(place)) * (high - low))


def wilson_interval(hits: float, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the rate k/n with Wilson's score interval, which stays inside 0 to 1 and does not collapse at 0/n and n/n.

    Paper: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if n <= 0:
        raise ValueError("a rate needs at least one run")
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} hits among {n} runs is not a rate")
    z = float(ndtri(0.5 + confidence / 2))
    rate = hits / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half), "Wilson")


def median(scores: Floats) -> float:
    """Return the median in which a failure (minus infinity) under either middle value is a failure.

    >>> median(np.array([-np.inf, -np.inf, 1.0, 2.0]))
    -inf
    """
    x = np.sort(scores)
    low, high = x[(x.size - 1) // 2], x[x.size // 2]
    return float(low) if low == high else float((low + high) / 2)


def median_interval(scores: Sequence[float] | Floats, confidence: float = CONFIDENCE) -> Interval:
    """Return the median between two order statistics: exact for any distribution, and inside of what was measured.

    (x_(k), x_(n+1-k)) covers the median with probability 1 - 2 P(B < k), B binomial (n, 1/2); k is the largest that
    gives the coverage asked for. Fewer than 6 runs have no such interval at 95 %.

    >>> interval = median_interval(np.arange(1.0, 13.0))
    >>> interval.low, interval.estimate, interval.high
    (3.0, 6.5, 10.0)
    """
    x = np.sort(np.asarray(scores, dtype=float))
    n, outside, k = x.size, 0.0, 0
    while 2 * (outside := outside + math.ldexp(math.comb(n, k), -n)) <= 1 - confidence:
        k += 1
    low, high = (float(x[k - 1]), float(x[n - k])) if k else (None, None)
    return Interval(median(x), low, high, "order statistics")


@dataclass(frozen=True)
class Summary:
    """What may be said of the scores of one cell.

    Attributes:
        n: runs, the failed ones included.
        failed: runs without a score.
        mean: with its t-interval; None as soon as one run failed.
        iqm: with the trimmed-mean t-interval, or BCa from 20 runs on; no limits of the former with a failure.
        median: minus infinity where it falls on a failure.
        low: worst score. high: best score.
    """

    n: int
    failed: int
    mean: Interval | None
    iqm: Interval
    median: float
    low: float
    high: float

    @property
    def ended(self) -> int:
        """Runs that have a score."""
        return self.n - self.failed


def summarise(scores: Sequence[float] | Floats) -> Summary:
    """Summarise one cell's scores (n,), failures given as NaN or minus infinity.

    >>> summarise([0.9, 0.8, float("nan")]).mean is None
    True
    """
    x = np.asarray(scores, dtype=float)
    if x.size == 0:
        raise ValueError("a summary needs at least one run")
    x = np.where(np.isfinite(x), x, -np.inf)
    failed = int(np.isinf(x).sum())
    if x.size >= BOOTSTRAP_FROM:
        iqm = bca_interval([x])
    elif failed:
        iqm = Interval(float(interquartile_mean(x)), None, None, "trimmed t")
    else:
        iqm = trimmed_interval(x)
    mean = None if failed else t_interval(x)
    return Summary(x.size, failed, mean, iqm, median(x), float(x.min()), float(x.max()))
