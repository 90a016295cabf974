"""Interval estimates against scipy, enumeration and numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from altprop.report.statistics import (
    Interval,
    bca_interval,
    interquartile_mean,
    median,
    summarise,
    t_interval,
    trimmed_interval,
    wilson_interval,
)

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("n", [2, 3, 5, 10, 19])
def test_t_interval_is_scipys(n: int) -> None:
    x = np.random.default_rng(n).normal(0.9, 0.05, n)
    low, high = stats.t.interval(0.95, n - 1, loc=x.mean(), scale=stats.sem(x))
    interval = t_interval(x)
    assert (interval.low, interval.estimate, interval.high) == pytest.approx((low, x.mean(), high), rel=1e-12)


def test_one_run_has_no_interval() -> None:
    assert t_interval([0.5]) == Interval(0.5, None, None, "t")
    assert trimmed_interval([0.5]) == Interval(0.5, None, None, "trimmed t")


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 10, 33])
def test_iqm_is_scipys_trimmed_mean(n: int) -> None:
    x = np.random.default_rng(n).normal(size=(5, n))
    assert interquartile_mean(x) == pytest.approx(stats.trim_mean(x, 0.25, axis=1), rel=1e-12)


@pytest.mark.parametrize("n", [4, 8, 10, 12, 19])
def test_trimmed_interval_is_yuens_against_a_constant(n: int) -> None:
    """A second sample without variance turns scipy's trimmed two-sample test into Tukey and McLaughlin's."""
    x = np.random.default_rng(n).normal(size=n)
    oracle = stats.ttest_ind(x, np.zeros(n), equal_var=False, trim=0.25).confidence_interval(0.95)
    interval = trimmed_interval(x)
    assert (interval.low, interval.high) == pytest.approx((oracle.low, oracle.high), rel=1e-9)


def test_trimmed_interval_of_three_is_students() -> None:
    x = [0.1, 0.5, 0.6]
    ours, students = trimmed_interval(x), t_interval(x)
    assert (ours.low, ours.high) == pytest.approx((students.low, students.high))


def test_trimmed_interval_by_hand() -> None:
    """0, 1, 2, 3, 10, ... with n=5: g=1, h=3, winsorised 1 1 2 3 3: SSD 4, half = 4.302653 sqrt(4/6)."""
    interval = trimmed_interval([10.0, 1.0, 2.0, 3.0, 0.0])
    assert interval.estimate == 2.0
    assert interval.high - interval.estimate == pytest.approx(4.30265273 * math.sqrt(4 / 6))


@pytest.mark.parametrize("sizes", [(25,), (10, 14), (8, 12, 20)])
def test_bca_is_scipys_draw_for_draw(sizes: tuple[int, ...]) -> None:
    """From the same generator both draw the same samples, so the limits agree but for the quantile rule."""
    rng = np.random.default_rng(len(sizes))
    strata = [rng.exponential(size=n) + i for i, n in enumerate(sizes)]

    def pooled(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        return interquartile_mean(np.concatenate(samples, axis=axis))

    oracle = stats.bootstrap(
        strata, pooled, n_resamples=4000, method="BCa", rng=np.random.default_rng(7), vectorized=True
    )
    interval = bca_interval(strata, resamples=4000, seed=7)
    assert interval.low == pytest.approx(oracle.confidence_interval.low, rel=1e-9)
    assert interval.high == pytest.approx(oracle.confidence_interval.high, rel=1e-9)
    assert interval.estimate == pytest.approx(float(pooled(*strata)))


def test_bca_repeats_itself_and_leaves_the_global_generator_alone() -> None:
    x = np.random.default_rng(0).normal(size=30)
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the state that must not move
    assert bca_interval([x]) == bca_interval([x.copy()])
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_bca_keeps_strata_apart() -> None:
    """Two constant strata always resample to themselves: pooled resampling would spread."""
    interval = bca_interval([np.zeros(10), np.ones(10)])
    assert (interval.low, interval.estimate, interval.high) == (0.5, 0.5, 0.5)


def test_bca_with_failures_says_failed_at_the_low_end_only() -> None:
    x = np.r_[np.full(4, -INF), np.linspace(0.8, 0.9, 16)]
    interval = bca_interval([x])
    assert interval.low == -INF
    assert 0.8 < interval.estimate <= interval.high < 0.9


@pytest.mark.parametrize(("hits", "n"), [(0, 3), (1, 3), (7, 10), (10, 10), (40, 50)])
def test_wilson_is_scipys(hits: int, n: int) -> None:
    oracle = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    interval = wilson_interval(hits, n)
    assert (interval.low, interval.high) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (4, 3), (-1, 3)])
def test_wilson_refuses_what_is_no_rate(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="rate"):
        wilson_interval(hits, n)


def test_summary_without_failure() -> None:
    summary = summarise([0.9, 0.8, 1.0])
    assert (summary.n, summary.failed, summary.ended, summary.median) == (3, 0, 3, 0.9)
    assert summary.mean == t_interval([0.9, 0.8, 1.0])
    assert summary.iqm.method == "trimmed t"
    assert summary.iqm.low is not None


def test_one_failure_forbids_mean_and_every_t_interval() -> None:
    summary = summarise([0.9, NAN, 1.0])
    assert summary.mean is None
    assert summary.iqm.low is None
    assert summary.iqm.high is None
    assert summary.median == 0.9
    assert summary.ended == 2
    assert summary.low == -INF


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([NAN, 0.5], -INF),  # the median is the mean of a failure and a score
        ([NAN, 0.5, 0.6], 0.5),
        ([NAN, NAN, 0.6], -INF),
        ([NAN, 0.5, 0.6, 0.7], 0.55),
        ([NAN, NAN, 0.6, 0.7], -INF),
        ([-INF, 0.5, 0.6], 0.5),
    ],
)
def test_median_ranks_failures_worst(scores: list[float], expected: float) -> None:
    assert summarise(scores).median == pytest.approx(expected)


def test_iqm_survives_failures_only_while_they_are_trimmed() -> None:
    """n=8 cuts two at each end: two failures are cut, a third reaches the middle half."""
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert summarise([NAN, NAN, *scores[2:]]).iqm.estimate == pytest.approx(0.45)
    assert summarise([NAN, NAN, NAN, *scores[3:]]).iqm.estimate == -INF


def test_twenty_runs_take_bca() -> None:
    x = np.random.default_rng(0).normal(size=20)
    assert summarise(x).iqm.method == "BCa"
    assert summarise(x[:19]).iqm.method == "trimmed t"
    assert summarise(np.r_[NAN, x]).mean is None


def test_summary_of_nothing() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        summarise([])


def test_median_of_two_infinities_is_no_nan() -> None:
    assert median(np.array([-INF, -INF])) == -INF


def test_trimmed_interval_covers() -> None:
    """n=10, 4,000 normal samples: nominal 95 %, observed 94.1 (100,000 draws: 94.2); 5 standard errors are 1.7."""
    rng = np.random.default_rng(3)
    covered = 0
    for x in rng.normal(size=(4000, 10)):
        interval = trimmed_interval(x)
        covered += interval.low < 0 < interval.high
    assert 0.925 < covered / 4000 < 0.96


def test_t_interval_covers() -> None:
    """n=10, 4,000 normal samples: 95 % exactly; 5 standard errors are 1.7."""
    rng = np.random.default_rng(4)
    found = [t_interval(x) for x in rng.normal(size=(4000, 10))]
    covered = sum(one.low < 0 < one.high for one in found if one.low is not None and one.high is not None)
    assert 0.933 < covered / 4000 < 0.967


@pytest.mark.parametrize(("sizes", "low"), [((20,), 0.88), ((10, 10, 10), 0.87)])
def test_bca_covers(sizes: tuple[int, ...], low: float) -> None:
    """400 draws from normals that differ in place: the IQM of the pool is covered nearly as often as it says.

    Observed .930 and .918, nominal .95; 4 standard errors are .05.
    """
    rng = np.random.default_rng(5)
    covered = 0
    places = np.arange(len(sizes)) * 10.0  # Pooled, the middle half is the middle stratum and halves of its neighbours.
    truth = float(
        interquartile_mean(np.concatenate([p + stats.norm.ppf((np.arange(4000) + 0.5) / 4000) for p in places]))
    )
    for _ in range(400):
        interval = bca_interval(
            [place + rng.normal(size=n) for place, n in zip(places, sizes, strict=True)], resamples=800
        )
        covered += interval.low is not None and interval.high is not None and interval.low < truth < interval.high
    assert low < covered / 400 < 0.985


@pytest.mark.parametrize("n", [5, 10, 12, 30])
def test_wilson_covers_on_average(n: int) -> None:
    """Coverage by enumeration of the binomial: .952 to .955 on average over rates, .837 at the worst one (n=5)."""
    intervals = [wilson_interval(k, n) for k in range(n + 1)]
    rates = np.linspace(0.005, 0.995, 199)
    covered = [
        sum(stats.binom.pmf(k, n, rate) for k, one in enumerate(intervals) if one.low <= rate <= one.high)
        for rate in rates
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)
    assert min(covered) > 0.82
