"""Time to target: the protocol's golden case, hand-made curves and a slow twin."""

from __future__ import annotations

import math

import numpy as np
import pytest

from altprop.report.target import (
    Outcome,
    common_horizon,
    cumulative_incidence,
    median_time,
    outcome,
    restricted_mean,
    time_to_target,
)

INF = math.inf


def hit(time: float) -> Outcome:
    return Outcome(time, time - 1, hit=True)


def cut(time: float) -> Outcome:
    return Outcome(time, censored=True)


NEVER = Outcome(INF)


def test_protocols_golden_case() -> None:
    """10 runs, horizon 10, 3 diverge at 1, 7 hit at 5: 70 % and 6.5. Naive Kaplan-Meier says 100 % and 5.0."""
    runs = [outcome("diverged", None, 1.0) for _ in range(3)] + [outcome("completed", (4.0, 5.0), 10.0)] * 7
    result = time_to_target(runs, 10.0)
    assert cumulative_incidence(runs)[1][-1] == pytest.approx(0.7)
    assert result.mean == pytest.approx(6.5)
    assert result.rate.estimate == pytest.approx(0.7)
    assert (result.hits, result.n, result.median) == (7, 10, 5.0)


@pytest.mark.parametrize("status", ["diverged", "non_finite", "failed", "out_of_memory", "completed"])
def test_these_never_hit(status: str) -> None:
    assert outcome(status, None, 3.0) == NEVER


@pytest.mark.parametrize("status", ["timed_out", "interrupted", "reached_target"])
def test_these_are_censored_where_they_were_cut(status: str) -> None:
    assert outcome(status, None, 3.0) == cut(3.0)


def test_refused_runs_are_not_in_n() -> None:
    assert outcome("refused", None, 0.0) is None


@pytest.mark.parametrize("status", ["completed", "diverged", "timed_out", "reached_target"])
def test_a_hit_stays_a_hit_however_the_run_ended(status: str) -> None:
    assert outcome(status, [2.0, 3.0], 9.0) == Outcome(3.0, 2.0, hit=True)


def test_without_censoring_it_is_the_mean_of_the_truncated_times() -> None:
    rng = np.random.default_rng(0)
    times = np.where(rng.random(40) < 0.3, INF, rng.integers(1, 12, 40).astype(float))
    runs = [hit(t) if math.isfinite(t) else NEVER for t in times]
    assert restricted_mean(runs, 8.0) == pytest.approx(np.minimum(times, 8.0).mean())
    assert restricted_mean(runs, 100.0) == pytest.approx(np.minimum(times, 100.0).mean())
    assert median_time(runs) == np.median(times)


def test_censoring_by_hand() -> None:
    """Hits at 1 and 3, a cut at 2, one never: at risk 4, then 2. Incidence .25, then 1 - .75 x .5 = .625."""
    runs = [hit(1.0), cut(2.0), hit(3.0), NEVER]
    times, values = cumulative_incidence(runs)
    assert times == [1.0, 3.0]
    assert values == pytest.approx([0.25, 0.625])
    assert restricted_mean(runs, 4.0) == pytest.approx(1 + 2 * 0.75 + 0.375)
    assert median_time(runs) == 3.0


def test_a_diverged_run_stays_in_the_risk_set() -> None:
    """Were the diverged run censored at 1, the last hit would take the curve to 1."""
    assert cumulative_incidence([hit(5.0), NEVER])[1] == [0.5]
    assert cumulative_incidence([hit(5.0), cut(1.0)])[1] == [1.0]


def test_a_cut_at_the_time_of_a_hit_comes_after_it() -> None:
    assert cumulative_incidence([hit(2.0), cut(2.0)]) == ([2.0], [0.5])


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([hit(2.0), NEVER], INF),
        ([hit(2.0), hit(4.0)], 3.0),
        ([hit(2.0), hit(4.0), NEVER], 4.0),
        ([NEVER], INF),
        ([hit(1.0), hit(2.0), NEVER, NEVER], INF),
        ([hit(1.0), hit(2.0), hit(7.0), NEVER], 4.5),
    ],
)
def test_median_with_infinity(runs: list[Outcome], expected: float) -> None:
    assert median_time(runs) == expected


def test_horizon_is_the_smallest_of_runs_that_could_go_on() -> None:
    spent = [("completed", 10.0), ("completed", 8.0), ("diverged", 1.0), ("reached_target", 2.0), ("timed_out", 3.0)]
    assert common_horizon(spent) == 8.0
    assert common_horizon([("reached_target", 2.0), ("diverged", 5.0)]) == 5.0
    assert common_horizon([]) == 0.0


def test_one_hit_a_cut_and_a_run_that_never_hits_are_one_hit() -> None:
    found = time_to_target([hit(3.0), cut(2.0), Outcome(INF)], 10.0)
    assert (found.n, found.hits, found.censored) == (3, 1, 1)
