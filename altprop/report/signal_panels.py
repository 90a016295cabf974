"""What `initial_signal` measured of nets at their initialisation, beside mean-field theory: heat maps and one line."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from altprop.report.canvas import Canvas
from altprop.report.draw import WIDE, Figure, heading, slug, told_map
from altprop.report.format import short
from altprop.report.health_figures import SHADES, shades
from altprop.report.model import Table
from altprop.report.panel import LABEL, Panel, left_margin, spanning
from altprop.report.task_panels import TaskPanel

ARTEFACT = "signal"
STEEP = 1.0
"""Slope, in units of ln a layer, at which the colours end."""


@dataclass(frozen=True)
class Net:
    """A net of the grid: its names, its depth, and over the seeds the mean slope and that of theory (or NaN)."""

    activation: str
    initialisation: str
    normalisation: str
    depth: int
    slope: float
    theory: float


def signal_panels(table: Table) -> list[TaskPanel]:
    """Return a panel a workload in which a run left the table `signal`, none elsewhere."""
    nets = _nets(table)
    if not nets:
        return []
    caption = (
        "Slope over depth of ln ‖dL/dh‖ at initialisation, mean over seeds: above 0 a gradient shrinks on its way down "
        f"(vanishes), below 0 it grows (explodes). At {STEEP:g} each layer divides it by e. The line on the right is "
        "mean-field theory, −½ ln χ, which knows nets without normalisation."
    )
    figures = [_heat(table, nets), *_beside(table, nets)]
    return [TaskPanel("Gradients at initialisation, measured and in theory", caption, figures, False)]


def _nets(table: Table) -> list[Net]:
    found: dict[tuple[str, str, str, int], list[tuple[float, float]]] = defaultdict(list)
    for run in table.everything:
        path = run.record.artefacts().get(ARTEFACT)
        if path is None or path.suffix != ".csv":
            continue
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                net = row["activation"], row["initialisation"], row["normalisation"], int(row["depth"])
                found[net].append((float(row["h"]), float(row["theory"] or "nan")))
    return [Net(*net, *map(float, np.mean(slopes, axis=0))) for net, slopes in found.items()]


def _heat(table: Table, nets: list[Net]) -> Figure:
    """Draw the slopes of the deepest nets: activation and normalisation down, initialisation across."""
    depth = max(net.depth for net in nets)
    values = {(n.activation, n.normalisation, n.initialisation): n.slope for n in nets if n.depth == depth}
    rows = list(dict.fromkeys((activation, normalisation) for activation, normalisation, _ in values))
    columns = list(dict.fromkeys(initialisation for *_, initialisation in values))

    def cell(r: int, c: int) -> tuple[str, float, str]:
        value = values.get((*rows[r], columns[c]), math.nan)
        if not math.isfinite(value):
            return "band", 1.0, "–"
        place = min(max((value / STEEP + 1) / 2, 0.0), 1.0)
        return shades()[round(place * (SHADES - 1))], 1.0, f"{value:+.2f}".replace("-", "−")

    names = [unit if norm == "none" else f"{unit}, {norm}" for unit, norm in rows]
    what = "by activation, normalisation, initialisation"
    label = f"slope of ln |dL/dh| over {depth} layers {what}, {short(table.workload)}"
    title = f"slope of ln ‖dL/dh‖ a layer, {depth} layers"
    across = [name.replace("_", " ") for name in columns]
    return told_map(slug("signal", table.workload), title, label, names, across, cell)


def _beside(table: Table, nets: list[Net]) -> list[Figure]:
    """Draw measured slopes over those of theory, with the line on which they are equal."""
    known = [(net.theory, net.slope) for net in nets if math.isfinite(net.theory) and math.isfinite(net.slope)]
    if not known:
        return []
    theory, slope = np.array(known).T
    y = spanning([*theory, *slope])
    label = f"measured slopes over those of theory, {short(table.workload)}"
    canvas = Canvas(WIDE, 300.0, label)
    heading(canvas, "measured over theory, nets without normalisation")
    left = left_margin(y, 222.0)
    x = spanning([*theory, *slope], "−½ ln χ, theory")
    panel = Panel(canvas, (left, 30.0, WIDE - left - 12, 222.0), x, y)
    panel.line([x.low, x.high], [x.low, x.high], "soft", 1.0, (4, 3))
    canvas.markers(*panel.at(theory, slope), "circle", "c0", 6.0, 0.8)
    worst = float(np.abs(slope - theory).max())
    canvas.text(left + 8, 46, f"{len(known)} nets; farthest from the line by {worst:.2f}", "soft", LABEL)
    return [Figure(slug("signal-theory", table.workload), canvas)]
