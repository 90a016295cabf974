"""Pareto fronts that learners left behind, loss against size, of all seeds."""

from __future__ import annotations

import csv
from collections import defaultdict

import numpy as np

from altprop.report.canvas import Array
from altprop.report.draw import Figure, end_of, slug, together
from altprop.report.format import short
from altprop.report.model import Learner, Report, Run, Table
from altprop.report.panel import Panel, needs_log, spanning
from altprop.report.task_panels import TaskPanel

ARTEFACT = "front"
LOSS = "loss"
CAPTION = (
    "The Pareto front of each run at its end, in its learner's own words of size: a mark is a predictor that none in "
    "the last generation beats in both; the steps lead along the least loss that is known up to each size. A line a "
    "seed. The loss is that on the training set, on which the front was selected, so it is optimistic."
)

Front = tuple[Array, Array]
"""Sizes, in ascending order, and the loss at each."""


def front_panels(report: Report, table: Table) -> list[TaskPanel]:
    """Return a panel a workload in which a run left the table `front` of `loss` and another number, none elsewhere."""
    figures = [figure for size, fronts in _fronts(table).items() for figure in _figures(report, table, size, fronts)]
    return [TaskPanel("Loss against size", CAPTION, figures, False)] if figures else []


def _fronts(table: Table) -> dict[str, dict[str, list[Front]]]:
    """Return name of the size -> name of the learner -> the front of each run."""
    found: defaultdict[str, defaultdict[str, list[Front]]] = defaultdict(lambda: defaultdict(list))
    for run in table.everything:
        for size, front in _read(run).items():
            found[size][run.learner].append(front)
    return {size: dict(fronts) for size, fronts in found.items()}


def _read(run: Run) -> dict[str, Front]:
    """Return the front of a run by the name of its size: the first column beside the loss. Losses are finite."""
    path = run.record.artefacts().get(ARTEFACT)
    if path is None or path.suffix != ".csv":
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    others = [name for name in (rows[0] if rows else ()) if name != LOSS]
    try:
        points = np.array([(float(row[others[0]]), float(row[LOSS])) for row in rows]).reshape(-1, 2)
    except (KeyError, IndexError, ValueError):  # another table of that name
        return {}
    points = points[np.isfinite(points).all(1)]
    points = points[np.lexsort(points.T[::-1])]
    return {others[0]: (points[:, 0], points[:, 1])} if len(points) else {}


def _figures(report: Report, table: Table, size: str, fronts: dict[str, list[Front]]) -> list[Figure]:
    learners = [one for one in report.learners if one.name in fronts]
    sizes, losses = (np.concatenate([one[i] for group in fronts.values() for one in group]) for i in (0, 1))
    x = spanning(sizes, f"size: {size}", needs_log(sizes))
    y = spanning(losses, log=needs_log(losses))

    def draw(panel: Panel, learner: Learner, place: float) -> tuple[float, float] | None:
        style = learner.style
        for across, up in fronts[learner.name]:
            panel.line(np.repeat(across, 2)[1:], np.repeat(up, 2)[:-1], style.colour, 1.1 * style.width, None, 0.55)
            panel.canvas.markers(*panel.at(across, up), style.marker, style.colour, 4.5, 0.8)
        longest = max(fronts[learner.name], key=lambda one: float(one[0][-1]))
        return end_of(panel, *longest)

    stem, name = slug("front", size, table.workload), short(table.workload, 50)
    title, label = f"loss by {size}, {name}", f"Pareto fronts, loss against {size}, {name}"
    return together(stem, title, label, learners, (x, y), draw, "")
