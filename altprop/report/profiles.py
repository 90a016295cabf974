"""Comparisons over several tasks: profiles, wins, ratios and how much they hang on a single task.

A *problem* is a pair (task, target); its time is the learner's median time to that target, infinite where it has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from altprop.report.statistics import Floats, Interval, wilson_interval

TAU_MAX = 4.0


def performance_ratios(times: Mapping[str, Sequence[float]]) -> dict[str, Floats]:
    """Return the time of each learner on each problem over the best time there.

    A problem that nobody solves keeps its place, as infinite for everybody. Two zeros make 1.

    Args:
        times: learner -> its times (problems,), infinite where unsolved.
    """
    matrix = np.array([list(row) for row in times.values()], dtype=float)
    ratios = np.full_like(matrix, math.inf)
    if matrix.size:
        best = matrix.min(axis=0)
        solved = np.isfinite(matrix)
        np.divide(matrix, best, out=ratios, where=solved & (best > 0))
        ratios[solved & (matrix == best)] = 1.0
    return {name: ratios[row] for row, name in enumerate(times)}


def profile(
    ratios: Floats, limit: float = TAU_MAX, weights: Sequence[float] | None = None
) -> tuple[list[float], list[float]]:
    """Return the performance profile rho(tau): share of problems solved within tau times the best, 1 <= tau <= `limit`.

    Args:
        ratios: of each problem (problems,), infinite where unsolved.
        limit: of tau.
        weights: of each problem (problems,); equal ones by default.

    Returns:
        Jump positions, the first of them 1, and the values from there on.

    Paper: Dolan and More 2002, "Benchmarking optimization software with performance profiles".

    >>> profile(np.array([1.0, 2.0, math.inf]))
    ([1.0, 2.0], [0.3333333333333333, 0.6666666666666666])
    """
    jumps = sorted({1.0, *(float(r) for r in ratios if r <= limit)})
    return jumps, [_mean(ratios <= jump, weights) if ratios.size else 0.0 for jump in jumps]


def profile_area(ratios: Floats, limit: float = TAU_MAX, weights: Sequence[float] | None = None) -> float:
    """Return the area under rho from 1 to `limit`, over limit - 1: 1 for a learner that is the best on every problem.

    >>> profile_area(np.array([1.0, 2.5]), 4.0)
    0.75
    """
    if not ratios.size:
        return 0.0
    return _mean(np.clip(limit - ratios, 0.0, limit - 1.0), weights) / (limit - 1.0)


def ecdf(values: Sequence[float], weights: Sequence[float] | None = None) -> tuple[list[float], list[float]]:
    """Return the share of problems solved by each cost: jump positions and values after them, unsolved ones included.

    Args:
        values: cost of each problem, infinite where unsolved.
        weights: of each problem; equal ones by default.

    >>> ecdf([2.0, 1.0, math.inf, 1.0])
    ([1.0, 2.0], [0.5, 0.75])
    """
    jumps = sorted({value for value in values if math.isfinite(value)})
    costs = np.asarray(values, dtype=float)
    return jumps, [_mean(costs <= jump, weights) for jump in jumps]


def _mean(values: np.ndarray[Any, Any], weights: Sequence[float] | None) -> float:
    """Return the mean of values (n,), each with its weight."""
    return float(np.mean(values) if weights is None else np.average(values, weights=weights))


def win_rates(
    scores: Mapping[str, Mapping[tuple[int, int, str], float]],
) -> dict[tuple[str, str], tuple[Interval, int]]:
    """Return how often each learner beats each other one: (row, column) -> (share of wins, pairs).

    The share is the probability of improvement (Agarwal et al. 2021), paired; its interval is Wilson's,
    of pairs that are independent.

    Pairs are the (data set, seed) both ran; a tie is half a win, a failure (minus infinity) loses, two failures tie. Of
    several workloads of one data set the mean counts, as one pair.

    Args:
        scores: learner -> (data set, seed, workload) -> score.

    >>> win_rates({"a": {(0, 0, "t"): 1.0}, "b": {(0, 0, "t"): 0.0}})[("a", "b")]
    (Interval(estimate=1.0, low=0.206..., high=1.0, method='Wilson'), 1)
    """
    table: dict[tuple[str, str], tuple[Interval, int]] = {}
    for row, ours in scores.items():
        for column, theirs in scores.items():
            shared = ours.keys() & theirs.keys()
            if row == column or not shared:
                continue
            pairs: dict[tuple[int, int], list[float]] = {}
            for k in shared:
                points = 1.0 if ours[k] > theirs[k] else 0.5 if ours[k] == theirs[k] else 0.0
                pairs.setdefault(k[:2], []).append(points)
            # Exact sums: the order of a set must not reach the page.
            means = math.fsum(math.fsum(each) / len(each) for each in pairs.values())
            table[row, column] = (wilson_interval(means, len(pairs)), len(pairs))
    return table


def ratio_to_reference(ours: float, reference: float) -> float | None:
    """Return the cost of a learner over the cost of the reference; None where neither has one.

    >>> ratio_to_reference(math.inf, 2.0), ratio_to_reference(1.0, 2.0)
    (inf, 0.5)
    """
    if math.isinf(ours) and math.isinf(reference):
        return None
    if math.isinf(ours):
        return math.inf
    if math.isinf(reference):
        return 0.0
    if reference == 0:
        return 1.0 if ours == 0 else math.inf
    return ours / reference


def leave_one_out(tasks: Sequence[str], rank: Callable[[Sequence[str]], Sequence[str]]) -> dict[str, tuple[int, int]]:
    """Return the best and worst rank of each item when any single task is left out.

    Args:
        tasks: names of the pooled tasks, two or more.
        rank: maps a list of tasks to the items, best first.

    >>> leave_one_out(["x", "y"], lambda tasks: ["a", "b"] if "x" in tasks else ["b", "a"])
    {'a': (1, 2), 'b': (1, 2)}
    """
    places: dict[str, list[int]] = {item: [] for item in rank(tasks)}
    for task in tasks:
        for place, item in enumerate(rank([other for other in tasks if other != task]), start=1):
            places.setdefault(item, []).append(place)
    return {item: (min(seen), max(seen)) for item, seen in places.items() if seen}
