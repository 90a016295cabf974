"""How far back each rule sends credit, as runs of backpropagation through time measured it at their end."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from altprop.report.canvas import Array, Canvas
from altprop.report.draw import WIDE, Figure, direct_labels, heading, marked_line, name_width, slug
from altprop.report.format import short
from altprop.report.model import Learner, Report, Run, Table
from altprop.report.panel import Axis, Panel, left_margin, spanning
from altprop.report.style import assign
from altprop.report.task_panels import TaskPanel

ARTEFACT = "horizon"
DEPTH = 1e-6
"""Of the largest credit: what is less is not drawn."""
CAPTION = (
    "‖dL/da_t‖ of the loss at the last time against the lag of t, where a_t is what enters the cell; of each rule what "
    "its direction takes for it, all with the weights that backpropagation through time had learned at the end of its "
    "run. Median over rows and seeds; a line ends where no credit goes. Where a rule lies on bptt it is exact there, "
    "where it lies below it forgets; above lies the noise of random estimates, and random feedback on a scale of its "
    "own."
)


def horizon_panels(report: Report, table: Table) -> list[TaskPanel]:
    """Return a panel a workload in which a run left the table `horizon`, none elsewhere."""
    found = _curves(table)
    if not found:
        return []
    figure = _figure(table, _learners(report, list(found)), found)
    return [TaskPanel("How far back credit reaches", CAPTION, [figure], False)]


def _curves(table: Table) -> dict[str, Array]:
    """Return rule -> the median over runs of its credit by lag; where a learner was tuned, over its tuned runs."""
    left = [run for run in table.everything if _file(run) is not None]
    tuned = [run for run in left if run.learner.endswith("·tuned")]
    found: defaultdict[str, list[list[float]]] = defaultdict(list)
    for run in tuned or left:
        of_run: defaultdict[str, list[float]] = defaultdict(list)
        path = _file(run)
        assert path is not None
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                of_run[row["rule"]].append(float(row["credit"]))
        for rule, credit in of_run.items():
            found[rule].append(credit)
    return {rule: np.median(np.array(credit), axis=0) for rule, credit in found.items()}


def _file(run: Run) -> Path | None:
    path = run.record.artefacts().get(ARTEFACT)
    return path if path is not None and path.suffix == ".csv" else None


def _learners(report: Report, rules: Sequence[str]) -> list[Learner]:
    """Return the learners of these names, tuned ones first, so that a rule looks as it does elsewhere on the page."""
    known = {one.name.removesuffix("·tuned"): one for one in sorted(report.learners, key=lambda one: one.tuned)}
    spare = assign(["learner"] * len(rules))
    return [
        replace(known[rule], name=rule) if rule in known else Learner(rule, {}, False, False, spare[i], i)
        for i, rule in enumerate(rules)
    ]


def _figure(table: Table, learners: Sequence[Learner], credit: dict[str, Array]) -> Figure:
    height, top, bottom = 300.0, 26.0, 40.0
    every = np.concatenate(list(credit.values()))
    y = spanning(np.maximum(every[every > 0], DEPTH * every.max()), log=True)
    longest = max(map(len, credit.values()))
    x = Axis(0.0, float(longest - 1), "lag: times before the last")
    tall = height - top - bottom
    left = left_margin(y, tall)
    canvas = Canvas(WIDE, height, f"credit against lag, {len(learners)} rules, {short(table.workload)}")
    heading(canvas, f"‖dL/da‖ by lag, {short(table.workload, 50)}")
    panel = Panel(canvas, (left, top, WIDE - left - name_width(learners) - 18, tall), x, y)
    ends = []
    for learner in reversed(learners):
        values = credit[learner.name]
        shown = np.where(values >= y.low, values, np.nan)
        lags = np.arange(len(values), dtype=float)
        marked_line(panel, lags, shown, learner.style)
        kept = np.flatnonzero(np.isfinite(shown))
        if kept.size:
            across, down = panel.at(lags[kept[-1:]], shown[kept[-1:]])
            ends.append((learner, float(across[0]), float(down[0])))
    direct_labels(panel, ends)
    return Figure(slug("horizon", table.workload), canvas)
