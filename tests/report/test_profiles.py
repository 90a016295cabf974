"""Comparisons over tasks, worked by hand or by enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest

from altprop.report.profiles import (
    ecdf,
    leave_one_out,
    performance_ratios,
    profile,
    profile_area,
    ratio_to_reference,
    win_rates,
)

INF = math.inf


def test_ratios_keep_unsolved_problems() -> None:
    ratios = performance_ratios({"a": [1.0, 4.0, INF, 0.0], "b": [2.0, 2.0, INF, 0.0], "c": [INF, 1.0, INF, 3.0]})
    assert list(ratios["a"]) == [1.0, 4.0, INF, 1.0]
    assert list(ratios["b"]) == [2.0, 2.0, INF, 1.0]
    assert list(ratios["c"]) == [INF, 1.0, INF, INF]


def test_profile_by_hand() -> None:
    jumps, values = profile(np.array([1.0, 3.0, 5.0, INF]))
    assert jumps == [1.0, 3.0]
    assert values == [0.25, 0.5]
    assert profile(np.array([1.0, 4.0])) == ([1.0, 4.0], [0.5, 1.0])  # the limit itself counts
    assert profile_area(np.array([1.0, 3.0, 5.0, INF])) == pytest.approx((0.25 * 2 + 0.5 * 1) / 3)


def test_profile_area_is_the_integral() -> None:
    ratios = 1 + np.random.default_rng(0).exponential(2.0, 30)
    taus = np.linspace(1, 4, 30_001)
    integral = np.mean([(ratios <= tau).mean() for tau in taus])
    assert profile_area(ratios) == pytest.approx(integral, abs=1e-3)
    assert profile_area(np.ones(4)) == 1.0
    assert profile_area(np.array([])) == 0.0


def test_a_profile_depends_on_its_pool() -> None:
    alone = performance_ratios({"a": [2.0, 2.0], "b": [5.0, 1.0]})
    pooled = performance_ratios({"a": [2.0, 2.0], "b": [5.0, 1.0], "c": [0.4, 9.0]})
    assert profile_area(alone["a"]) > profile_area(alone["b"])
    assert profile_area(pooled["a"]) < profile_area(pooled["b"])


def test_ecdf_counts_what_was_never_solved() -> None:
    assert ecdf([3.0, INF, 1.0, 1.0]) == ([1.0, 3.0], [0.5, 0.75])
    assert ecdf([INF]) == ([], [])


def test_wins_by_hand() -> None:
    scores = {
        "a": {(0, 0, "t"): 1.0, (0, 1, "t"): -INF, (1, 0, "u"): 0.5},
        "b": {(0, 0, "t"): 0.0, (0, 1, "t"): -INF, (1, 0, "u"): 0.9, (1, 1, "u"): 2.0},
        "c": {(2, 0, "v"): 1.0},
    }
    table = win_rates(scores)
    share, pairs = table["a", "b"]
    assert (share.estimate, pairs) == (0.5, 3)  # a win, a tie of two failures, a loss
    assert table["b", "a"] == table["a", "b"]
    assert (share.low, share.high) == (pytest.approx(0.1253, abs=1e-4), pytest.approx(0.8747, abs=1e-4))
    assert ("a", "c") not in table
    assert ("a", "a") not in table


def test_workloads_of_one_data_set_are_one_pair() -> None:
    scores = {
        "a": {(0, 0, "t[small]"): 1.0, (0, 0, "t[large]"): 1.0, (0, 0, "t"): 0.0, (1, 0, "u"): 1.0},
        "b": {(0, 0, "t[small]"): 0.0, (0, 0, "t[large]"): 0.5, (0, 0, "t"): 1.0, (1, 0, "u"): 2.0},
    }
    assert win_rates(scores)["a", "b"][0].estimate == pytest.approx((2 / 3 + 0) / 2)


def test_weights_share_a_place() -> None:
    ratios = np.array([1.0, 2.0, INF])
    assert profile(ratios, weights=[0.5, 0.5, 1.0]) == ([1.0, 2.0], [0.25, 0.5])
    assert profile_area(ratios, 4.0, [0.5, 0.5, 1.0]) == pytest.approx((0.5 + 0.5 * 2 / 3) / 2)
    assert ecdf([1.0, 2.0, INF], [0.5, 0.5, 1.0]) == ([1.0, 2.0], [0.25, 0.5])


@pytest.mark.parametrize(
    ("ours", "reference", "expected"),
    [(2.0, 4.0, 0.5), (INF, 4.0, INF), (4.0, INF, 0.0), (INF, INF, None), (0.0, 0.0, 1.0), (1.0, 0.0, INF)],
)
def test_ratio_to_reference(ours: float, reference: float, expected: float | None) -> None:
    assert ratio_to_reference(ours, reference) == expected


def test_leave_one_out_shows_a_rank_that_hangs_on_one_task() -> None:
    scores = {"a": {"x": 9.0, "y": 1.0, "z": 1.0}, "b": {"x": 1.0, "y": 2.0, "z": 2.0}}

    def rank(tasks: list[str]) -> list[str]:
        return sorted(scores, key=lambda name: -sum(scores[name][task] for task in tasks))

    assert rank(["x", "y", "z"]) == ["a", "b"]
    assert leave_one_out(["x", "y", "z"], rank) == {"a": (1, 2), "b": (1, 2)}
