"""Section 3: what holds over several workloads, and how much of it hangs on a single one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from altprop.report.data_sets import data_sets, weights
from altprop.report.draw import Figure, slug, together
from altprop.report.leading import foremost
from altprop.report.model import CURRENCIES, Learner, Report, Table
from altprop.report.panel import Axis, Panel
from altprop.report.profiles import (
    TAU_MAX,
    ecdf,
    leave_one_out,
    performance_ratios,
    profile,
    profile_area,
    win_rates,
)
from altprop.report.statistics import Interval, bca_interval, interquartile_mean
from altprop.report.times import horizon, outcomes, target_times

CURRENCY = "flops"


@dataclass(frozen=True)
class Pooled:
    """A learner over all data sets that have targets and that it ran; several workloads of one count as one.

    Attributes:
        n: scores, one for each data set and seed. failed: those that are none, for some run of it failed.
        iqm: interquartile mean of the shares of the gap, with BCa limits stratified by data set.
        rank: place by IQM. ranks: best and worst place when one data set is left out.
        area: of the performance profile, 0 to 1; None where no target is declared.
        met: hits of all (task, target, seed), and how many these are: the rate that belongs to the speed.
    """

    learner: Learner
    tasks: int
    n: int
    failed: int
    iqm: Interval
    rank: int
    ranks: tuple[int, int]
    area: float | None
    met: tuple[float, float]


@dataclass(frozen=True)
class Across:
    """The whole section.

    Attributes:
        tasks: pooled workloads; left_out: those without declared targets. data_sets: of which the pooled ones are.
        absent: learners that did not run all of them, left out of the pooled table.
        wins: (row, column) -> share of wins and pairs.
    """

    tasks: list[str]
    data_sets: int
    left_out: list[str]
    pooled: list[Pooled]
    absent: list[str]
    players: list[Learner]
    wins: dict[tuple[str, str], tuple[Interval, int]]
    figures: list[Figure]


def shares(table: Table, learner: str) -> dict[int, float]:
    """Return seed -> score as a share of the gap from chance (0) to the tuned reference (1).

    A failure is minus infinity.
    """
    unit = table.unit
    assert unit is not None  # Only workloads with targets are pooled.
    # Scores turn metrics by the sign, and so must chance and gap be.
    return {
        seed: (score - table.sign * unit[0]) / abs(unit[1]) if math.isfinite(score) else -math.inf
        for seed, score in table.scores(learner).items()
    }


def stratum(group: Sequence[Table], learner: str) -> np.ndarray:
    """Return each seed's share of the gap on one data set: the mean over its workloads, a failure in any failing it."""
    each: dict[int, list[float]] = {}
    for table in group:
        for seed, share in shares(table, learner).items():
            each.setdefault(seed, []).append(share)
    return np.array([math.fsum(found) / len(found) for found in each.values()])


def across(report: Report) -> Across | None:
    """Return everything of section 3, None where there are fewer than two data sets."""
    if len(data_sets(report.tables)) < 2:
        return None
    tables = [table for table in report.tables if table.unit is not None and any(map(table.tried, table.runs))]
    left_out = [table.workload for table in report.tables if table not in tables]
    groups_of_data = data_sets(tables)
    tables = [table for group in groups_of_data for table in group]
    everywhere = [one for one in report.learners if tables and all(table.tried(one.name) for table in tables)]
    absent = [one.name for one in report.learners if one not in everywhere]
    ratios = performance_ratios(_problem_times(tables, everywhere))
    pooled = _pooled(groups_of_data, everywhere, ratios) if len(groups_of_data) > 1 else []
    places = [(place, table) for place, group in enumerate(data_sets(report.tables)) for table in group]
    scores = {
        one.name: {(place, s, t.workload): v for place, t in places for s, v in t.scores(one.name).items()}
        for one in report.learners
    }
    players = [one for one in report.learners if scores[one.name]]
    figures = []
    if any(np.isfinite(row).any() for row in ratios.values()):
        rank = {row.learner.name: row.rank for row in pooled}
        drawn = foremost(report, everywhere, lambda one: -rank.get(one.name, len(everywhere)))
        figures = _profile_figures(drawn, ratios, _problem_weights(tables)) + _ecdf_figures(tables, drawn)
        if len(drawn) < len(everywhere):
            undrawn = f"{len(drawn)} of {len(everywhere)} learners, the reference and the first by rank."
            figures = [replace(figure, caption=f"{figure.caption} Drawn: {undrawn}") for figure in figures]
    return Across(
        tasks=[table.workload for table in tables],
        data_sets=len(groups_of_data),
        left_out=left_out,
        pooled=pooled,
        absent=absent,
        players=players,
        wins=win_rates({one.name: scores[one.name] for one in players}),
        figures=figures,
    )


def _problem_times(tables: Sequence[Table], learners: Sequence[Learner]) -> dict[str, list[float]]:
    """Return the median time of each learner to each (workload, target), in FLOPs."""
    rows = [row for table in tables for row in target_times(table, CURRENCY)]
    return {
        one.name: [row.learners[one.name].median if one.name in row.learners else math.inf for row in rows]
        for one in learners
    }


def _problem_weights(tables: Sequence[Table]) -> list[float]:
    """Return the weight of each problem in `_problem_times`: workloads of one data set share that of one."""
    shared = weights(tables)
    return [shared[table.workload] for table in tables for _ in target_times(table, CURRENCY)]


def _pooled(
    data: Sequence[Sequence[Table]], learners: Sequence[Learner], ratios: dict[str, np.ndarray]
) -> list[Pooled]:
    strata = {one.name: {group[0].workload: stratum(group, one.name) for group in data} for one in learners}
    tables = [table for group in data for table in group]

    def ranking(tasks: Sequence[str]) -> list[str]:
        score = {
            n: float(interquartile_mean(np.concatenate([groups[t] for t in tasks]))) for n, groups in strata.items()
        }
        return sorted(score, key=lambda name: -score[name])

    tasks = [group[0].workload for group in data]
    stable = leave_one_out(tasks, ranking)
    made = []
    shared = _problem_weights(tables)
    for place, name in enumerate(ranking(tasks), start=1):
        learner = next(one for one in learners if one.name == name)
        values = np.concatenate(list(strata[name].values()))
        made.append(
            Pooled(
                learner,
                len(tasks),
                values.size,
                int(np.isinf(values).sum()),
                bca_interval(list(strata[name].values())),
                place,
                stable[name],
                profile_area(ratios[name], weights=shared) if ratios[name].size else None,
                _met(tables, name),
            )
        )
    return made


def _met(tables: Sequence[Table], learner: str) -> tuple[float, float]:
    """Return the hits of a learner among all (data set, target, seed), and their number."""
    shared = weights(tables)
    found = [
        (shared[t.workload], one.hit)
        for t in tables
        for target in t.targets
        for one in outcomes(t, learner, target, CURRENCY)
    ]
    return math.fsum(weight for weight, hit in found if hit), math.fsum(weight for weight, _ in found)


def _steps(panel: Panel, jumps: Sequence[float], values: Sequence[float], learner: Learner, offset: float) -> float:
    """Draw a staircase from the panel's left to its right edge; return its last height on the canvas."""
    # Each level is drawn from the jump where it begins to the one where it ends.
    xs = [panel.x.low, *[jump for jump in jumps for _ in range(2)], panel.x.high]
    ys = [y for value in [0.0, *values] for y in (value, value)]
    across, down = panel.at(xs, ys)
    style = learner.style
    panel.canvas.line(across, down + offset, style.colour, 1.6 * style.width, style.dash, 0.95)
    if len(jumps):
        where = panel.at(jumps, values)
        panel.canvas.markers(where[0], where[1] + offset, style.marker, style.colour, 6.0)
    return float(down[-1] + offset)


def _staircases(
    name: str,
    title: str,
    caption: str,
    x: Axis,
    learners: Sequence[Learner],
    curves: dict[str, tuple[list[float], list[float]]],
) -> list[Figure]:
    def draw(panel: Panel, learner: Learner, place: float) -> tuple[float, float]:
        return panel.right, _steps(panel, *curves[learner.name], learner, place)

    y = Axis(-0.04, 1.04, "", False, lambda share: f"{100 * share:.0f} %", (0.0, 0.25, 0.5, 0.75, 1.0))
    return together(slug(name), title, title, learners, (x, y), draw, caption)


def _profile_figures(
    learners: Sequence[Learner], ratios: dict[str, np.ndarray], shared: Sequence[float]
) -> list[Figure]:
    problems = len(next(iter(ratios.values())))
    curves = {one.name: profile(ratios[one.name], weights=shared) for one in learners}
    caption = (
        f"Performance profile: share of the {problems} pairs (task, target) that a learner solves within τ times "
        f"the {CURRENCIES[CURRENCY]} of the best one, by median over seeds. A profile depends on who is in the pool."
    )
    x = Axis(1.0, TAU_MAX, "τ, multiple of the best learner's FLOPs", False, lambda tau: f"{tau:g}")
    return _staircases("profile", "performance profile ρ(τ)", caption, x, learners, curves)


def _ecdf_figures(tables: Sequence[Table], learners: Sequence[Learner]) -> list[Figure]:
    curves = {}
    shared = weights(tables)
    horizons = {table.workload: horizon(table, CURRENCY) for table in tables}
    for one in learners:
        pairs = [
            (o.time / horizons[table.workload] if horizons[table.workload] else math.inf, shared[table.workload])
            for table in tables
            for target in table.targets
            for o in outcomes(table, one.name, target, CURRENCY)
        ]
        costs = [cost if cost <= 1.0 + 1e-9 else math.inf for cost, _ in pairs]
        curves[one.name] = ecdf(costs, [weight for _, weight in pairs])
    caption = (
        "Share of (task, target, seed) solved by each share of the task's common horizon in FLOPs. A run that never "
        "meets its target keeps its place in the count."
    )
    x = Axis(0.0, 1.0, "share of the common horizon in FLOPs", False, lambda share: f"{100 * share:.0f} %")
    return _staircases("solved", "targets met over the budget", caption, x, learners, curves)
