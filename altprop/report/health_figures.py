"""The drawings of section 4: heat maps of the gradient, alignment with its null band, update ratio, efficiency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from altprop.report.canvas import Array, Canvas, fit, text_width
from altprop.report.draw import SMALL, Figure, keyed, median_path
from altprop.report.format import short
from altprop.report.health import in_words, layer_matrix, layer_names, layers_of, own, own_names, track
from altprop.report.leading import leading
from altprop.report.model import Learner, Report, Table
from altprop.report.panel import LABEL, TICK, Axis, Panel, left_margin, needs_log, spanning
from altprop.report.tracks import BARE, overlay, seeds_and_median

COLUMNS = 40
_VIRIDIS = (
    "440154 481a6c 472f7d 414487 39568c 31688e 2a788e 23888e 1f988b 22a884 35b779 54c568 7ad151 a5db36 d2e21b fde725"
)
SHADES = len(_VIRIDIS.split())


def shades() -> tuple[str, ...]:
    """Return the colours from low to high, perceptually even and safe for the colour-blind (viridis)."""
    return tuple(f"#{colour}" for colour in _VIRIDIS.split())


@dataclass(frozen=True)
class Scale:
    """What all heat maps of a report show, and the whole decades that hold it: one scale for all.

    Attributes:
        quantity: of a layer, as probes name it. low, high: log10 of the ends.
    """

    quantity: str
    low: int
    high: int

    @property
    def title(self) -> str:
        """What the quantity is, in words."""
        return "backward signal dL/dz" if self.quantity == "backward_signal" else "gradient RMS"


def colour_scale(report: Report) -> Scale | None:
    """Return the scale of the backward signal, or where some run did not record it, of the weights' gradient."""
    probed = [run.probes for table in report.tables for name in table.runs for run in table.tried(name) if run.probes]
    layers = [layer for rows in probed for layer in layers_of(rows[-1]).values() if "gradient_rms" in layer]
    quantity = "backward_signal" if all("backward_signal" in layer for layer in layers) else "gradient_rms"
    every = [_logs(table, name, quantity)[2].ravel() for table in report.tables for name in table.runs]
    known = np.concatenate([np.empty(0), *every])
    known = known[np.isfinite(known)]
    if not known.size:
        return None
    low = math.floor(known.min())
    return Scale(quantity, low, max(math.ceil(known.max()), low + 1))


def _logs(table: Table, name: str, quantity: str) -> tuple[list[str], Array, Array]:
    runs = table.tried(name)
    layers = layer_names(runs)
    fraction, values = layer_matrix(runs, quantity, layers)
    if values.shape[-1] > COLUMNS:
        chosen = np.unique(np.linspace(0, values.shape[-1] - 1, COLUMNS).round().astype(int))
        fraction, values = fraction[chosen], values[:, chosen]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(values)
    return layers, fraction, np.where(np.isfinite(logs), logs, math.nan)


def scale_figure(scale: Scale) -> Figure:
    """Draw the colour scale that all heat maps share."""
    canvas = Canvas(330.0, 46.0, f"colour scale: {scale.title} from 1e{scale.low} to 1e{scale.high}")
    width = 300.0 / SHADES
    for level, colour in enumerate(shades()):
        canvas.boxes([(15 + level * width, 16, width + 0.5, 11)], colour)
    canvas.text(15, 11, f"{scale.title} of a layer, log scale", "soft", TICK)
    decades = scale.high - scale.low
    stride = max(1, math.ceil(decades / 8))
    for decade in range(0, decades + 1, stride):
        text = "10" + f"{scale.low + decade}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        canvas.text(15 + 300 * decade / decades, 39, text, "soft", TICK, "middle")
    return Figure("gradient-scale", canvas)


def heat_maps(report: Report, table: Table, scale: Scale) -> list[Figure]:
    """Draw one heat map a learner, layers from input (top) to output over the share of the budget."""
    return [_heat(table, learner, scale) for learner in leading(report, table)]


def _heat(table: Table, learner: Learner, scale: Scale) -> Figure:
    layers, fraction, logs = _logs(table, learner.name, scale.quantity)
    canvas_label = f"{scale.title} of each layer over the budget, {short(learner.name)}, {short(table.workload)}"
    if not np.isfinite(logs).any():
        return _words(learner, canvas_label, in_words(table.tried(learner.name)) or "no gradient recorded")
    row = max(3.0, min(15.0, 150.0 / len(layers)))
    names = [fit(name, 62.0, TICK - 0.5) for name in layers]
    top, left = 22.0, max(34.0, 8 + max(text_width(name, TICK - 0.5) for name in names))
    height = top + row * len(layers) + 22
    canvas = Canvas(SMALL, height, canvas_label)
    keyed(canvas, learner)
    span = SMALL - left - 8
    known = np.isfinite(fraction)
    fraction, logs = fraction[known], logs[:, known]
    middle = (fraction[1:] + fraction[:-1]) / 2
    edges = np.clip(
        np.concatenate([[max(0.0, 2 * fraction[0] - middle[0])] if middle.size else [0.0], middle, [1.0]]), 0, 1
    )
    if fraction[-1] < 0.999 and middle.size:
        edges[-1] = min(1.0, 2 * fraction[-1] - middle[-1])
    place = (logs - scale.low) / (scale.high - scale.low)
    level = np.clip(np.floor(np.nan_to_num(place) * SHADES), 0, SHADES - 1).astype(int)
    canvas.boxes([(left, top, span, row * len(layers))], "band")
    for shade in range(SHADES):
        boxes = []
        for k in range(len(layers)):
            hit = np.flatnonzero((level[k] == shade) & np.isfinite(logs[k]))
            # Neighbours of one shade become one box; boxes overlap a little, lest hairlines show.
            for piece in np.split(hit, np.flatnonzero(np.diff(hit) > 1) + 1) if hit.size else []:
                x0, x1 = left + span * edges[piece[0]], left + span * edges[piece[-1] + 1]
                boxes.append(
                    (
                        x0,
                        top + k * row,
                        min(x1 - x0 + 0.7, left + span - x0),
                        row + (0.7 if k < len(layers) - 1 else 0.0),
                    )
                )
        canvas.boxes(boxes, shades()[shade])
    stride = max(1, math.ceil(10 / row))
    for k, name in enumerate(names):
        if k % stride == 0:
            canvas.text(left - 5, top + (k + 0.5) * row + 3.2, name, "soft", TICK - 0.5, "end")
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        canvas.text(left + span * share, height - 8, BARE.write(share), "soft", TICK - 0.5, anchor)
    return Figure("", canvas)


def _words(learner: Learner, label: str, words: str) -> Figure:
    canvas = Canvas(SMALL, 66.0, f"{label}: {words}")
    keyed(canvas, learner)
    canvas.boxes([(1, 22, SMALL - 9, 36)], "band")
    canvas.text((SMALL - 8) / 2, 44, words, "soft", LABEL, "middle")
    return Figure("", canvas)


def alignments(report: Report, table: Table) -> list[Figure]:
    """Draw one panel a learner: cosine of its update with the true descent direction, with the measured null band."""
    return [_alignment(table, learner) for learner in leading(report, table)]


def _alignment(table: Table, learner: Learner) -> Figure:
    runs = table.tried(learner.name)
    mine = track(runs, "alignment")
    label = f"alignment with the gradient over the budget, {short(learner.name)}, {short(table.workload)}"
    if not mine.known:
        return _words(learner, label, in_words(runs) or "no alignment recorded")
    lows, highs = track(runs, "alignment_low"), track(runs, "alignment_high")
    every = np.concatenate([*mine.values, *lows.values])
    floor = -1.0 if np.nanmin(every) < -0.25 else -0.25
    canvas = Canvas(SMALL, 138.0, label)
    keyed(canvas, learner)
    y = Axis(floor, 1.0)
    panel = Panel(canvas, (34.0, 22.0, SMALL - 42, 92.0), BARE, y)
    low = median_path(lows.fraction, lows.values, 1)
    high = median_path(highs.fraction, highs.values, 1)
    ok = np.isfinite(low[1]) & np.isfinite(high[1])
    if ok.sum() > 1:
        x = np.concatenate([low[0][ok], high[0][ok][::-1]])
        across, down = panel.at(x, np.concatenate([low[1][ok], high[1][ok][::-1]]))
        canvas.area(list(across), list(down), "grey", 0.35)
    panel.level(0.0, "soft", None, 0.7)
    seeds_and_median(panel, mine, learner)
    signal = track(runs, "signal_alignment")
    panel.line(*median_path(signal.fraction, signal.values, 1), learner.style.colour, 1.6, (3.0, 2.0))
    return Figure("", canvas)


def brought(report: Report, table: Table) -> list[Figure]:
    """Draw one panel for each diagnostic that a learner brings itself."""
    return [_brought(table, one, name) for one in leading(report, table) for name in own_names(table.tried(one.name))]


def _brought(table: Table, learner: Learner, name: str) -> Figure:
    mine = track(table.tried(learner.name), name, own)
    label = f"{short(name)} over the budget, {short(learner.name)}, {short(table.workload)}"
    if not mine.known:
        return _words(learner, label, f"{fit(name, SMALL - 90, LABEL)}: never finite")
    canvas = Canvas(SMALL, 152.0, label)
    keyed(canvas, learner)
    canvas.text(1, 28, fit(name, SMALL - 2, LABEL), "ink", LABEL)
    values = np.concatenate(mine.values)
    y = spanning(values, log=needs_log(values))
    left = left_margin(y, 92.0)
    seeds_and_median(Panel(canvas, (left, 36.0, SMALL - left - 8, 92.0), BARE, y), mine, learner)
    return Figure("", canvas)


def overlays(report: Report, table: Table) -> list[Figure]:
    """Update ratio and descent efficiency of all learners together."""
    learners = leading(report, table)
    ratio = (
        "Length of the update over length of the weights, median over seeds bold. The dotted line at 0.001 is a rule "
        "of thumb, not a target."
    )
    efficiency = (
        "What the update gained over what its slope promised: 1 is a step on a straight slope, below 0 the loss rose. "
        "Blank where the update lies inside the null band or points uphill."
    )
    return [
        *_overlay(table, learners, "update_ratio", "update ratio", ratio, [("0.001", 1e-3, "soft")]),
        *_overlay(table, learners, "descent_efficiency", "descent efficiency", efficiency, [("1", 1.0, "soft")]),
    ]


def _overlay(
    table: Table,
    learners: Sequence[Learner],
    name: str,
    title: str,
    caption: str,
    marks: Sequence[tuple[str, float, str]],
) -> list[Figure]:
    tracks = {one.name: track(table.tried(one.name), name) for one in learners}
    shown = [one for one in learners if tracks[one.name].known]
    if not shown:
        return []
    values = np.concatenate([values for one in shown for values in tracks[one.name].values])
    values = values[np.isfinite(values)]
    log = name == "update_ratio" and bool((values > 0).any()) and needs_log(values[values > 0], 5.0)
    if not log:
        low, high = np.quantile(values, [0.01, 0.99])
        values = np.clip(values, max(low, -2.0), min(high, 3.0))
    y = spanning([*values, *(value for _, value, _ in marks if log or name != "update_ratio")], log=log)
    return overlay(table, shown, tracks, y, title, caption, marks)
