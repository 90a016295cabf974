"""What a task wants drawn of its runs, as its records declare it: no code of the task is needed to draw it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from altprop.report.canvas import Array, Canvas, fit, text_width
from altprop.report.contours import Ground
from altprop.report.draw import SMALL, WIDE, Figure, keyed, slug
from altprop.report.format import brief, short
from altprop.report.health_figures import SHADES, shades
from altprop.report.leading import leading
from altprop.report.model import Learner, Report, Run, Table, as_number
from altprop.report.panel import LABEL, TICK, Axis, Panel, left_margin, spanning, without_outliers
from altprop.report.tracks import Track, overlay

CELL = (46.0, 19.0)
MAX_MATRIX = 414.0
"""Points that the cells of a matrix take at the most, across and down."""


@dataclass(frozen=True)
class TaskPanel:
    """One thing that a task wants drawn.

    Attributes:
        title: of the panel.
        caption: how it is read, in the task's words and ours.
        figures: the drawings; none where there is nothing to draw.
        grid: whether all of them are small.
    """

    title: str
    caption: str
    figures: list[Figure]
    grid: bool


def task_panels(report: Report, table: Table) -> list[TaskPanel]:
    """Return what the task of a workload wants drawn; what cannot be drawn is a sentence."""
    declared = table.facts.get("panels")
    wanted = declared if isinstance(declared, list) else []
    return [_panel(report, table, one) for one in wanted if isinstance(one, dict)]


def _panel(report: Report, table: Table, declared: dict[str, Any]) -> TaskPanel:
    kind, listed = str(declared.get("kind")), declared.get("metrics")
    names = [str(name) for name in listed] if isinstance(listed, list) else []
    if kind not in _KINDS:
        return TaskPanel(kind, "It is not drawn: this version of the report does not know that kind.", [], False)
    draw, title, how = _KINDS[kind]
    figures = draw(report, table, names, _ground(declared.get("ground")))
    said = f"{declared.get('caption') or ''} {how if figures else 'It is not drawn: no run recorded it.'}"
    small = all(figure.canvas.width < WIDE / 2 for figure in figures)
    return TaskPanel(title.format(metric=table.metric, names=", ".join(names)), said.strip(), figures, small)


def _ground(declared: Any) -> Ground | None:
    """Return what trajectories run over; None where nothing, or nothing that can be read, was declared."""
    try:
        return Ground(declared) if declared else None
    except (KeyError, TypeError, ValueError):
        return None


def _track(table: Table, learner: Learner, name: str) -> Track:
    curves = [run.curve(table.split, name) for run in table.tried(learner.name)]
    known = [curve for curve in curves if curve is not None]
    return Track([curve.fraction for curve in known], [curve.values for curve in known])


def _curves(report: Report, table: Table, names: Sequence[str], ground: Ground | None) -> list[Figure]:
    """Draw each metric of all learners over the share of the budget."""
    figures = []
    for name in names:
        tracks = {one.name: _track(table, one, name) for one in leading(report, table)}
        shown = [one for one in leading(report, table) if tracks[one.name].known]
        if shown:
            values = np.concatenate([values for one in shown for values in tracks[one.name].values])
            y = spanning(without_outliers(values))
            figures += overlay(table, shown, tracks, y, f"{table.split} {name}", "", sign=_sign(table, name))
    return figures


def _sign(table: Table, name: str) -> int:
    """Return +1 where more of a metric is better, -1 where less is."""
    if name == table.metric:
        return table.sign
    told = [run.block("metrics").get(name) for run in table.everything]
    return 1 if next((more for more in told if isinstance(more, bool)), name != "loss") else -1


def _trajectories(report: Report, table: Table, names: Sequence[str], ground: Ground | None) -> list[Figure]:
    """Draw, for each learner, the second metric over the first along every run, all on the same axes.

    Over a ground the axes are those of the ground, and what leaves it goes on along its border.
    """
    if len(names) != 2:
        return []
    tracks = {one.name: [_track(table, one, name) for name in names] for one in leading(report, table)}
    shown = [one for one in leading(report, table) if all(track.known for track in tracks[one.name])]
    if not shown:
        return []
    x, y = ground.axes if ground else _around([tracks[one.name] for one in shown])
    figures = []
    for one in shown:
        label = f"{names[1]} over {names[0]} along every run, {short(one.name)}, {short(table.workload)}"
        canvas = Canvas(SMALL, 204.0, label)
        keyed(canvas, one)
        canvas.text(1, 27, fit(f"{names[1]} over {names[0]}", SMALL - 2, TICK), "soft", TICK)
        left = left_margin(y, 140.0)
        panel = Panel(canvas, (left, 36.0, SMALL - left - 8, 140.0), x, y)
        if ground:
            ground.draw(panel)
        for across, down in zip(tracks[one.name][0].values, tracks[one.name][1].values, strict=True):
            panel.line(across, down, one.style.colour, 1.1, None, 0.8)
            known = np.flatnonzero(np.isfinite(across) & np.isfinite(down))
            for place, shape, colour in ((known[:1], "plus", "soft"), (known[-1:], one.style.marker, one.style.colour)):
                canvas.markers(*panel.at(across[place], down[place]), shape, colour, 6.5)
        figures.append(Figure(slug("trajectory", table.workload, one.name), canvas))
    return figures


def _around(tracks: Sequence[Sequence[Track]]) -> tuple[Axis, Axis]:
    """Return axes around all that two tracks of every learner reach."""
    x, y = (spanning(without_outliers(np.concatenate([v for two in tracks for v in two[at].values]))) for at in (0, 1))
    return x, y


def _matrices(report: Report, table: Table, names: Sequence[str], ground: Ground | None) -> list[Figure]:
    """Draw, for each learner, the leading metric on every set after every context: a heat map with its numbers."""
    found = [(one, *_matrix(table.tried(one.name))) for one in leading(report, table)]
    values = np.concatenate([matrix.ravel() for *_, matrix in found] or [np.empty(0)])
    values = values[np.isfinite(values)]
    if not values.size:
        return []
    scale = (float(values.min()), float(values.max()))
    return [_heat(table, *each, scale) for each in found if each[1]]


def _matrix(runs: Sequence[Run]) -> tuple[list[str], list[str], Array]:
    """Return contexts (C), sets (S) and the median over runs of the metric on each set after each context, (C, S)."""
    blocks = [{name: row for name, row in run.block("matrix").items() if isinstance(row, dict)} for run in runs]
    contexts = list(dict.fromkeys(name for block in blocks for name in block))
    sets = list(dict.fromkeys(name for block in blocks for row in block.values() for name in row))
    every = np.array(
        [[[as_number(block.get(c, {}).get(s), math.nan) for s in sets] for c in contexts] for block in blocks], float
    ).reshape(len(blocks), len(contexts), len(sets))
    medians = [[_median(every[:, c, s]) for s in range(len(sets))] for c in range(len(contexts))]
    return contexts, sets, np.array(medians, float).reshape(len(contexts), len(sets))


def _median(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else math.nan


def _heat(
    table: Table, learner: Learner, contexts: list[str], sets: list[str], values: Array, scale: tuple[float, float]
) -> Figure:
    wide, tall = (min(size, MAX_MATRIX / n) for size, n in zip(CELL, (len(sets), len(contexts)), strict=True))
    rows = [fit(name, 70.0, TICK) for name in contexts]
    each_column, each_row = math.ceil(30 / wide), math.ceil(11 / tall)  # as many labels as there is room for
    left, top = max(24.0, 6 + max(text_width(name, TICK) for name in rows)), 38.0
    width = max(SMALL, left + wide * len(sets) + 2)
    label = f"{table.metric} on each set after each context, {short(learner.name)}, {short(table.workload)}"
    canvas = Canvas(width, top + tall * len(contexts) + 4, label)
    keyed(canvas, learner)
    span = scale[1] - scale[0] or 1.0
    room = wide * each_column - 4
    for s in range(0, len(sets) - each_column // 2, each_column):
        canvas.text(left + wide * (s + 0.5), top - 5, fit(sets[s], room, TICK), "soft", TICK, "middle")
    for c, name in enumerate(rows):
        middle = top + tall * (c + 0.5) + 3.4
        if c % each_row == 0:
            canvas.text(left - 5, middle, name, "soft", TICK, "end")
        for s, value in enumerate(values[c]):
            known = math.isfinite(value)
            shade = shades()[int((value - scale[0]) / span * (SHADES - 1))] if known else "band"
            canvas.boxes([(left + wide * s, top + tall * c, wide - 0.7, tall - 0.7)], shade)
            if each_column == each_row == 1:
                told = brief(value) if known else "–"
                canvas.text(left + wide * (s + 0.5), middle, told, "ink", LABEL, "middle")
    return Figure(slug("matrix", table.workload, learner.name), canvas)


_KINDS: dict[str, tuple[Callable[[Report, Table, Sequence[str], Ground | None], list[Figure]], str, str]] = {
    "curves": (_curves, "{names}", "Every seed a thin line, the median over seeds bold."),
    "trajectory": (
        _trajectories,
        "Trajectory: {names}",
        "One line a run, from the cross to the marker; all learners on the same axes.",
    ),
    "matrix": (
        _matrices,
        "{metric} after each context",
        "Rows: the context that has just ended; columns: the sets. Medians over seeds; one colour scale for all.",
    ),
}
"""Kind -> how it is drawn, its title, and how it is read."""
