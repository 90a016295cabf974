"""Section 2: how each learner got where it is, every seed shown, and the time to each target over four budget units.

The drawings are what a page without script shows, over the first unit; the script draws all of them from the data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from altprop.report.blocks import Block, Cell, Cells, Drawings, Grid, Text, View, drawings, note, right
from altprop.report.canvas import Array, Canvas
from altprop.report.draw import (
    WIDE,
    Figure,
    end_of,
    groups,
    heading,
    levels,
    marked_line,
    median_path,
    slug,
    together,
)
from altprop.report.format import count, percent, quantity, seconds, short
from altprop.report.front_panels import front_panels
from altprop.report.horizon_panels import horizon_panels
from altprop.report.leading import leading, undrawn
from altprop.report.model import CURRENCIES, Curve, Learner, Report, Table
from altprop.report.panel import TICK, Axis, Panel, needs_log, spanning, without_outliers
from altprop.report.results import Row
from altprop.report.signal_panels import signal_panels
from altprop.report.step_time import UNTIMED
from altprop.report.target import cumulative_incidence
from altprop.report.task_panels import task_panels
from altprop.report.times import TargetTimes, currencies, outcomes, target_times

INTRODUCTION = (
    "The metric on the shared evaluation grid, not timed. The same runs look different over another currency: claims "
    "across families of learners use FLOPs and time, never steps."
)
NO_CURVE = "No run left an evaluation behind, so there is nothing to draw."
NO_TARGET = "This task declares no target, so there is no time to reach one."


def convergence(report: Report, table: Table, rows: Sequence[Row]) -> list[Block]:
    """Return the section of one workload: the figures over the first currency, and the times to target over each."""
    learners = leading(report, table)
    curves = {one.name: _curves(table, one.name) for one in learners}
    shown = [one for one in learners if curves[one.name]]
    known = currencies(table)
    if not shown or not known:
        return []
    y = _value_axis(table, [curve.values for group in curves.values() for curve in group])
    first, parts = known[0], groups(shown)
    x = _cost_axis(first, curves)
    overview = _overview(table, shown, curves, first, x, y)
    times = target_times(table, first)
    incidence = [_incidence(table, part, times, first, i, len(parts)) for i, part in enumerate(parts) if times]
    blocks = note(undrawn(report, table))
    blocks.append(Drawings(overview, main=True, chart=report.tables.index(table)))
    blocks += [View(one, _times(table, one, rows), one == first) for one in known]
    blocks += drawings(incidence)
    measured = [*signal_panels(table), *horizon_panels(report, table), *front_panels(report, table)]
    for panel in [*task_panels(report, table), *measured]:
        main = any(figure.name.startswith(("signal", "horizon", "front")) for figure in panel.figures)
        blocks += [Text(panel.title, "h4"), Text(panel.caption, "note")]
        blocks += drawings(panel.figures, "grid" if panel.grid else "pair", main)
    return blocks


def _times(table: Table, currency: str, rows: Sequence[Row]) -> list[Block]:
    """Return the table of who reaches which target, and when."""
    timing = table.timing
    blocks = note(timing.note if timing else UNTIMED) if currency == "cpu_seconds" else []
    times, title = target_times(table, currency), CURRENCIES[currency]
    if not times:
        return blocks + note(NO_TARGET)
    text = (
        f"Rate and speed side by side. A run that diverged or failed never hits. Restricted mean: mean of min(T, "
        f"{quantity(times[0].horizon, currency)}), the smallest horizon of the learners compared. Ranks are by hit "
        "rate first and restricted mean second: no speed makes up for seeds that fail."
    )
    head: Cells = ["learner"]
    for target in times:
        head += [Cell(f"{target.target.replace('%', ' %')}: hits", "Wilson 95 %", "r")]
        head += right("median", "restricted\nmean")
    lines = [
        [Cell(learner=row.learner), *(cell for one in times for cell in _time(table, one, currency, row.learner.name))]
        for row in rows
        if row.summary is not None
    ]
    grid = Grid(f"Time to target on {table.workload} in {title}", head, lines)
    return [*blocks, Text(f"Time to target in {title}", "h4"), Text(text, "note"), grid]


def _time(table: Table, target: TargetTimes, currency: str, name: str) -> Cells:
    time, place = target.learners.get(name), target.places.get(name)
    if time is None:
        return ["", "", ""]
    claimed = currency != "cpu_seconds" or (table.timing is not None and table.timing.claims(name))
    rank = (f"rank {place}" if place else "no rank") if claimed else "no claim"
    cut = f", {time.censored} cut" if time.censored else ""
    return [
        Cell(f"{time.hits}/{time.n}{cut}", f"{percent(time.rate.low)} to {percent(time.rate.high)}", "r"),
        *right(quantity(time.median, currency)),
        Cell(quantity(time.mean, currency), rank, "r"),
    ]


def _curves(table: Table, learner: str) -> list[Curve]:
    found = [run.curve(table.split, table.metric) for run in table.tried(learner)]
    return [curve for curve in found if curve is not None]


def _value_axis(table: Table, values: Sequence[Array]) -> Axis:
    marks = [*table.targets.values()]
    chance = table.facts.get("chance")
    everything = np.concatenate([*values, np.array([*marks, *([] if chance is None else [chance])], dtype=float)])
    finite = everything[np.isfinite(everything)]
    log = table.sign < 0 and needs_log(finite)
    return spanning(finite if log else without_outliers(finite), log=log)


def _cost_axis(currency: str, curves: dict[str, list[Curve]]) -> Axis:
    write = seconds if currency == "cpu_seconds" else count
    every = [curve.x[currency] for group in curves.values() for curve in group]
    ends = np.array([float(np.nanmax(x)) for x in every if np.isfinite(x).any()])
    ends = ends[ends > 0]
    top = float(ends.max()) if ends.size else 1.0
    label = CURRENCIES[currency] + " of the learner"
    typical = [float(np.nanmax([np.nanmax(c.x[currency]) for c in group])) for group in curves.values() if group]
    if needs_log([value for value in typical if value > 0], 8.0):
        starts = [float(x[x > 0].min()) for x in every if (x > 0).any()]
        return Axis(min(starts) * 0.9, top * 1.05, label + ", log scale", True, write)
    return Axis(0.0, top * 1.01, label, False, write)


def _lines(table: Table, curves: Sequence[Curve], currency: str) -> tuple[Array, Array]:
    return median_path([c.x[currency] for c in curves], [c.values for c in curves], table.sign)


def _reference_lines(table: Table) -> list[tuple[str, float, str]]:
    lines = [(name.replace("%", " %") + " of the gap", value, "soft") for name, value in table.targets.items()]
    chance = table.facts.get("chance")
    return [*lines, *([("chance", float(chance), "soft")] if chance is not None else [])]


def _overview(
    table: Table, learners: Sequence[Learner], curves: dict[str, list[Curve]], currency: str, x: Axis, y: Axis
) -> list[Figure]:
    def seeds(panel: Panel, chosen: Sequence[Learner]) -> None:
        levels(panel, _reference_lines(table))
        for learner in reversed(chosen):
            for curve in curves[learner.name]:
                panel.line(curve.x[currency], curve.values, learner.style.colour, 0.8, None, 0.45)

    def middle(panel: Panel, learner: Learner, _: float) -> tuple[float, float] | None:
        across, down = _lines(table, curves[learner.name], currency)
        marked_line(panel, across, down, learner.style)
        return end_of(panel, across, down)

    title = f"{table.split} {table.metric}, {short(table.workload, 60)}"
    label = f"{title} over {CURRENCIES[currency]}, one line a seed and bold medians"
    caption = (
        "Every seed a thin line, the median over seeds bold. A run that broke off counts as worst, so a median ends "
        "where half of its runs are gone. Dotted: chance and the declared targets."
    )
    stem = slug("convergence", table.workload, currency)
    return together(stem, title, label, learners, (x, y), middle, caption, seeds)


def _incidence(
    table: Table, learners: Sequence[Learner], times: Sequence[TargetTimes], currency: str, part: int, parts: int
) -> Figure:
    tall, gap, top = 74.0, 24.0, 26.0
    height = top + len(times) * (tall + gap) + 20
    left = 44.0
    tau = times[0].horizon
    spread_out = [o.time for row in times for one in learners for o in outcomes(table, one.name, row.target, currency)]
    costs = [value for value in spread_out if 0 < value < math.inf]
    log = needs_log([*costs, tau], 30.0)
    write = seconds if currency == "cpu_seconds" else count
    label = CURRENCIES[currency] + (" of the learner, log scale" if log else " of the learner")
    x = Axis(min(costs, default=tau / 10) * 0.8 if log else 0.0, max([*costs, tau, 1e-12]) * 1.02, label, log, write)
    y = Axis(-0.1, 1.1, "", False, lambda share: f"{100 * share:.0f} %", (0.0, 0.5, 1.0))
    title = f"share of runs that met the target, {short(table.workload, 60)}"
    canvas = Canvas(WIDE, height, f"{title}, over {CURRENCIES[currency]}")
    heading(canvas, title, part, parts)
    for place, row in enumerate(times):
        box = (left, top + 14 + place * (tall + gap), WIDE - left - 14, tall)
        last = place == len(times) - 1
        panel = Panel(canvas, box, x if last else Axis(x.low, x.high, "", log, write), y, show_x=last)
        bound = f"{table.metric} {'≥' if table.sign > 0 else '≤'} {row.value:.4g}"
        canvas.text(left, panel.top - 8, f"{row.target.replace('%', ' %')} of the gap: {bound}", "soft", TICK)
        edge = float(panel.at([tau], [0.0])[0][0])
        canvas.line([edge, edge], [panel.top, panel.bottom], "soft", 0.8, (1.5, 2.5))
        for index, learner in enumerate(learners):
            runs = outcomes(table, learner.name, row.target, currency)
            jumps, values = cumulative_incidence(runs)
            offset = (index - (len(learners) - 1) / 2) * 1.1
            _staircase(panel, [x.low, *jumps, x.high], [0.0, *values], learner, offset)
            if jumps:
                across, down = panel.at(jumps, values)
                canvas.markers(across, down + offset, learner.style.marker, learner.style.colour, 6.5)
    caption = (
        "Cumulative incidence by the right end of the interval in which the target was met. A run that diverged or "
        "failed stays in the count and never meets it. Lines are shifted by a hair so that none hides another; the "
        "dotted upright is the common horizon."
    )
    stem = slug("target", table.workload, currency) + (f"-{part + 1}" if parts > 1 else "")
    return Figure(stem, canvas, caption if part == 0 else "")


def _staircase(panel: Panel, edges: Sequence[float], values: Sequence[float], learner: Learner, offset: float) -> None:
    xs = [edge for pair in itertools.pairwise(edges) for edge in pair]
    ys = [value for value in values for _ in range(2)]
    across, down = panel.at(xs, ys)
    style = learner.style
    panel.canvas.line(across, down + offset, style.colour, 1.4 * style.width, style.dash, 0.9)
