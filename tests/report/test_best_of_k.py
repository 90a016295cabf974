"""Best of k trials, against the enumeration of all subsets."""

from __future__ import annotations

import itertools
import math
import statistics
from fractions import Fraction

import numpy as np
import pytest

from altprop.report.best_of_k import best_of_k, expected_best_of, median_best_of

INF = math.inf


def trials(n: int, failed: int) -> list[float]:
    """Shuffled scores of n trials, the first `failed` of the draw failures; rounded, so that some are equal."""
    rng = np.random.default_rng(100 * n + failed)
    return list(rng.permutation([-INF] * failed + rng.normal(size=n - failed).round(1).tolist()))


def bests(scores: list[float], k: int) -> list[float]:
    return [max(subset) for subset in itertools.combinations(scores, k)]


@pytest.mark.parametrize("n", [1, 2, 7, 9])
def test_expected_is_the_mean_over_all_subsets(n: int) -> None:
    x = trials(n, 0)
    for k in range(1, n + 1):
        assert expected_best_of(x, k) == pytest.approx(statistics.fmean(bests(x, k)), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("n", "failed"), [(1, 0), (1, 1), (6, 0), (7, 2), (8, 5), (9, 8), (4, 4)])
def test_median_is_the_median_over_all_subsets(n: int, failed: int) -> None:
    x = trials(n, failed)
    for k in range(1, n + 1):
        ordered = sorted(bests(x, k))
        low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
        assert median_best_of(x, k) == pytest.approx(-INF if low == -INF else (low + high) / 2, rel=1e-12)


def test_best_of_one_is_the_mean_and_of_all_the_best() -> None:
    x = trials(16, 0)
    assert expected_best_of(x, 1) == pytest.approx(np.mean(x), rel=1e-12)
    assert median_best_of(x, 1) == pytest.approx(np.median(x), rel=1e-12)
    assert expected_best_of(x, 16) == median_best_of(x, 16) == max(x)


def test_more_trials_never_do_worse() -> None:
    curves = best_of_k(trials(16, 0))
    assert all(b >= a for a, b in itertools.pairwise(curves.expected))
    assert all(b >= a for a, b in itertools.pairwise(curves.median))


def test_expected_by_hand() -> None:
    """Of 3, 1, 2 the three pairs have bests 3, 2, 3."""
    assert expected_best_of([3.0, 1.0, 2.0], 2) == pytest.approx(8 / 3)


def test_expected_is_failed_until_a_draw_must_hold_a_success() -> None:
    """Two failures among five: the best of 1 or 2 may be a failure; of any 3, one ended at least."""
    x = [0.5, -INF, 0.7, -INF, 0.9]
    curves = best_of_k(x)
    assert (curves.n, curves.failed, curves.finite_from) == (5, 2, 3)
    assert curves.expected[:2] == (-INF, -INF)
    assert curves.expected[2] == pytest.approx(statistics.fmean(bests(x, 3)))
    # Of the ten pairs one holds both failures, two have .5, three .7 and four .9 as their best.
    assert curves.median[1] == 0.7


def test_a_failed_trial_is_never_dropped() -> None:
    """Dropping it would lift the curve: the best of 2 of (failed, .5, .7) is below that of (.5, .7) and .6."""
    assert expected_best_of([-INF, 0.5, 0.7], 2) == pytest.approx((0.5 + 0.7 + 0.7) / 3)
    assert expected_best_of([0.5, 0.7], 2) == 0.7
    assert best_of_k([math.nan, 0.5, INF]).failed == 2


def test_all_failed() -> None:
    curves = best_of_k([-INF] * 3)
    assert curves.finite_from is None
    assert set(curves.expected) == set(curves.median) == {-INF}


def test_large_numbers_of_trials_do_not_overflow() -> None:
    x = np.linspace(0, 1, 2000)
    assert expected_best_of(x, 1000) == pytest.approx(1000 / 1001 * 2001 / 1999 - 1 / 1999, rel=1e-9)


@pytest.mark.parametrize("k", [0, 4])
@pytest.mark.parametrize("statistic", [expected_best_of, median_best_of])
def test_k_trials_are_needed(k: int, statistic: object) -> None:
    with pytest.raises(ValueError, match=f"the best of {k} cannot be told from 3 trials"):
        statistic([1.0, 2.0, 3.0], k)


@pytest.mark.parametrize("failures", [False, True])
def test_every_small_set_of_trials_with_all_its_ties(failures: bool) -> None:
    """All multisets of up to 6 trials of four values, for every k, in exact fractions."""
    values = (-INF, 0.0, 0.25, 1.0) if failures else (-0.5, 0.0, 0.25, 1.0)
    for n in range(1, 7):
        for x in itertools.combinations_with_replacement(values, n):
            for k, expected in enumerate(best_of_k(x[::-1]).expected, start=1):
                found = bests(list(x), k)
                if -INF in found:
                    assert expected == -INF
                else:
                    assert expected == pytest.approx(float(statistics.mean(map(Fraction, found))), rel=1e-14, abs=1e-16)


def test_expected_is_unbiased() -> None:
    """Dodge's claim, by enumeration: over all samples of N=4 from a population of 7, E_2's mean is the true E_2."""
    population = [0.0, 0.1, 0.1, 0.4, 0.7, 0.7, 0.9]
    means = [expected_best_of(sample, 2) for sample in itertools.combinations(population, 4)]
    assert statistics.fmean(means) == pytest.approx(statistics.fmean(bests(population, 2)), rel=1e-12)
