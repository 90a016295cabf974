"""What the best of k tuning trials may be expected to reach, for every k, from the N trials that were run.

A learner with 50 trials looks better than one with 5 though it may only have been searched longer. The whole curve over
k says what each budget of trials buys, so that learners can be compared at any budget that both had.

Trials that failed rank worst, as minus infinity (rule 9 of the protocol). The *expected* best of k is then finite only
from k = failed + 1 on, where no draw of k trials can hold failures alone: below that it is failed, and the curve is not
drawn there. It must be read beside the share of failed trials, which more draws from the same space would meet again.
The *median* best of k needs no such condition: it fails where half of all draws or more fail altogether.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def expected_best_of(scores: Sequence[float], k: int) -> float:
    """Return the expected best of k trials drawn without replacement from the N that were run.

    E_k = sum over i = k..N of x_(i) C(i-1, k-1) / C(N, k), with x sorted from worst to best; unbiased. It is minus
    infinity, failed, as long as k failures can be drawn.

    Args:
        scores: one a trial, more being better, a failure as minus infinity.
        k: number of trials drawn, 1 to N.

    Raises:
        ValueError: k is not between 1 and N.

    Paper: Dodge et al. 2019, "Show your work", whose estimator draws with replacement and is biased.

    >>> expected_best_of([1.0, 2.0, 3.0], 1), expected_best_of([1.0, 2.0, 3.0], 3)
    (2.0, 3.0)
    """
    x, n = _sorted(scores, k)
    if math.isinf(x[k - 1]):
        return -math.inf
    # Whole numbers divide exactly where they would not fit a float.
    draws = math.comb(n, k)
    return math.fsum(x[i - 1] * (math.comb(i - 1, k - 1) / draws) for i in range(k, n + 1))


def median_best_of(scores: Sequence[float], k: int) -> float:
    """Return the median of the best over all C(N, k) draws of k trials, minus infinity where it falls on failures only.

    C(i, k) of the draws have their best among the i worst trials, which gives the two middle draws exactly.

    >>> median_best_of([1.0, 2.0, 3.0], 1), median_best_of([-math.inf, -math.inf, 3.0], 1)
    (2.0, -inf)
    """
    x, n = _sorted(scores, k)
    upto = [math.comb(i, k) for i in range(n + 1)]
    draws = upto[-1]
    # Of draws in rising order of their best, number m (from 0) has its best at the first i with more than m below it.
    low, high = (x[bisect_right(upto, m) - 1] for m in ((draws - 1) // 2, draws // 2))
    return low if low == high or math.isinf(low) else (low + high) / 2


def _sorted(scores: Sequence[float], k: int) -> tuple[list[float], int]:
    x = sorted(float(score) for score in scores)
    if not 1 <= k <= len(x):
        raise ValueError(f"the best of {k} cannot be told from {len(x)} trials")
    return x, len(x)


@dataclass(frozen=True)
class BestOfK:
    """The curves of one learner's trials.

    Attributes:
        n: trials. failed: those without a score.
        expected: E_k for k = 1..n, minus infinity for k <= failed. median: the median best of k.
    """

    n: int
    failed: int
    expected: tuple[float, ...]
    median: tuple[float, ...]

    @property
    def finite_from(self) -> int | None:
        """The least k for which E_k is finite; None where every trial failed."""
        return self.failed + 1 if self.failed < self.n else None


def best_of_k(scores: Sequence[float]) -> BestOfK:
    """Return both curves for every k = 1..N; a score that is no finite number is a failed trial.

    >>> best_of_k([0.5, math.nan, 0.75]).expected
    (-inf, 0.6666666666666666, 0.75)
    """
    x = [score if math.isfinite(score) else -math.inf for score in map(float, scores)]
    return BestOfK(
        n=len(x),
        failed=int(np.isinf(x).sum()),
        expected=tuple(expected_best_of(x, k) for k in range(1, len(x) + 1)),
        median=tuple(median_best_of(x, k) for k in range(1, len(x) + 1)),
    )
