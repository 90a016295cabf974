"""The curves as data, once: what the page's script draws, over every budget unit, and hands out as CSV."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from altprop.report.canvas import Array
from altprop.report.draw import median_path
from altprop.report.leading import foremost
from altprop.report.model import CROWD, CURRENCIES, Curve, Report, Run, Table, as_number
from altprop.report.panel import needs_log
from altprop.report.times import currencies

DIGITS = 4
CAPTION = (
    "Bold: the median over seeds; a run that broke off counts as worst, so a median ends where half of the runs are "
    "gone. Thin dotted: on the training batches. Point at a curve for its values and its seeds, drag to zoom, "
    "double-click to go back; the legend switches learners in all figures."
)


def curve_data(report: Report, order: Sequence[str]) -> dict[str, Any]:
    """Return the data of all convergence charts, one a workload in the order of the tables.

    Args:
        report: whose curves they are.
        order: names of the learners by rank.
    """
    places = {name: place for place, name in enumerate(order)}
    leading = foremost(report, report.learners, lambda one: -places[one.name], CROWD)
    return {
        "learners": [
            {
                "name": one.name,
                "colour": one.style.colour,
                "dash": None if one.style.dash is None else " ".join(f"{part:g}" for part in one.style.dash),
                "width": one.style.width,
            }
            for one in report.learners
        ],
        "shown": [one.index for one in leading],
        "charts": [_chart(report, table) for table in report.tables],
    }


def _chart(report: Report, table: Table) -> dict[str, Any]:
    units = currencies(table)
    tried = {name: table.tried(name) for name in table.runs if _curves(table, table.tried(name), table.metric)}
    others = [name for name in ("loss",) if name != table.metric and _has(table, tried.values(), name)]
    unit = units[0] if units else "steps"
    ends = [max(at) for runs in tried.values() if (at := _known(_curves(table, runs, table.metric), unit))]
    series = [
        _series(table, report.by_name[name].index, runs, units, [table.metric, *others]) for name, runs in tried.items()
    ]
    chance = as_number(table.facts.get("chance"))
    levels = [[name.replace("%", " % of the gap"), value] for name, value in table.targets.items()]
    return {
        "workload": table.workload,
        "title": f"{table.split} {table.metric}, {table.workload}",
        "caption": CAPTION,
        "log": needs_log([end for end in ends if end > 0], 8.0),
        # An error falls by decades; what is better the higher it is has its best at the top of a plain axis.
        "logy": table.sign < 0 and needs_log([at for one in series for at in one["y"][0][0] if at is not None]),
        "x": [{"key": unit, "label": CURRENCIES[unit]} for unit in units],
        "y": [{"label": f"{table.split} {name}"} for name in [table.metric, *others]],
        "levels": levels + ([["chance", chance]] if chance is not None else []),
        "seeds": sorted({run.seed for runs in tried.values() for run in runs}),
        "series": series,
    }


def _has(table: Table, groups: Iterable[Sequence[Run]], metric: str) -> bool:
    found = (run.curve(table.split, metric) for runs in groups for run in runs[:1])
    return any(curve is not None and bool(np.isfinite(curve.values).any()) for curve in found)


def _known(curves: Sequence[Curve], unit: str) -> list[float]:
    return [value for value in _positions(curves, unit) if value is not None]


def _curves(table: Table, runs: Sequence[Run], metric: str) -> list[Curve]:
    return [curve for run in runs if (curve := run.curve(table.split, metric)) is not None]


def _series(
    table: Table, index: int, runs: Sequence[Run], units: Sequence[str], metrics: Sequence[str]
) -> dict[str, Any]:
    leading = _curves(table, runs, metrics[0])
    medians: list[list[Any]] = []
    for place, metric in enumerate(metrics):
        curves = _curves(table, runs, metric)
        sign = table.sign if place == 0 else -1
        medians.append([_path(curves, sign)])
    trained = [_training(run) for run in runs]
    known = [steps for steps, _ in trained if steps.size]
    parts: dict[str, list[float | None]] = {}
    if known and metrics[-1] == "loss":
        medians[-1].append(_rounded(_column([values for _, values in trained])))
        steps = _column([steps for steps, _ in trained])
        at = leading[0].x
        parts = {unit: _rounded(np.interp(steps, at["steps"], at[unit])) for unit in units}
    return {
        "i": index,
        "x": {unit: _positions(leading, unit) for unit in units},
        "trained": parts,
        "y": medians,
        "seeds": [_rounded(curve.values) for curve in leading],
    }


def _path(curves: Sequence[Curve], sign: int) -> list[float | None]:
    return _rounded(median_path([c.x["steps"] for c in curves], [c.values for c in curves], sign)[1])


def _positions(curves: Sequence[Curve], unit: str) -> list[float | None]:
    return _rounded(_column([curve.x[unit] for curve in curves]))


def _training(run: Run) -> tuple[Array, Array]:
    """Return the steps at which a run noted its loss on the training batches, and that loss."""
    rows = [row for row in run.trace if row.get("kind") == "train" and as_number(row.get("loss")) is not None]
    return np.array([float(row["step"]) for row in rows]), np.array([float(row["loss"]) for row in rows])


def _column(values: Sequence[Array]) -> Array:
    """Return the medians, place by place, of rows that may be of unequal length, NaN where none has a number."""
    found = []
    for place in range(max((row.size for row in values), default=0)):
        here = [float(row[place]) for row in values if place < row.size and math.isfinite(row[place])]
        found.append(statistics.median(here) if here else math.nan)
    return np.array(found)


def _rounded(values: Array) -> list[float | None]:
    """Return numbers with as many digits as a chart can show; None for what is no number.

    >>> _rounded(np.array([0.123456, math.nan, 250000.0]))
    [0.1235, None, 250000]
    """
    short = [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in values.tolist()]
    return [int(value) if value is not None and value.is_integer() else value for value in short]
