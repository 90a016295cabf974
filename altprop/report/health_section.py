"""Section 4: the health of the learning signal, as the probes read it off what each learner did to the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from altprop.report.blocks import Block, Cell, Drawings, Facts, Fold, Grid, Points, Text
from altprop.report.failures import words
from altprop.report.format import brief, percent, plural, signed
from altprop.report.health import in_words, inside_band, layer_matrix, layer_names, layers_of, own, own_names, track
from altprop.report.health_figures import Scale, alignments, brought, heat_maps, overlays, scale_figure
from altprop.report.instruments import evidence, instrument_figures
from altprop.report.leading import undrawn
from altprop.report.model import SINGLES, Report, Run, Table, as_number
from altprop.report.runs import LAYER_COLUMNS, WHOLE_COLUMNS, run_page
from altprop.report.signal import Signal, backward, forward

ABSENT = ("not applicable", "not probed")
INTRODUCTION = (
    "Measured on one frozen probe batch, the same for all learners, not timed, from the update that each learner "
    "really made. So a learner that never computes a gradient is examined too. “not applicable”: the learner does not "
    "train the task's model. “no update”: the step changed nothing."
)
_JUDGED = (
    "The backward signal is dL/dz of each layer, the forward signal how far its z spreads over the examples, z being "
    "the pre-activation. In a net of four trained layers or more it is called vanishing where it loses tenfold from "
    "end to end, exploding where it gains a hundredfold: nets that learn gain tenfold by themselves. Frozen layers do "
    "not count; judged are the medians over seeds, probe by probe."
)


NOTHING = Signal("", judged=False)


@dataclass(frozen=True)
class Health:
    """A learner's health on one workload; None where a quantity was never finite.

    Attributes:
        words: "not applicable", "no update", "not probed", or empty where there are numbers.
        back, forth: what is said of the signal on its way back and forth.
        signal: cosine of what the learner hands to its optimizer with the gradient of its batch, over the run.
        least: the layer where that is least, with it.
        alignment: of the update with the gradient on the probe batch, at the end.
        inside: share of probes inside the null band.
        ratio: update ratio. efficiency: descent efficiency.
        dead, saturated: share of units in the worst layer, at the end.
        own: diagnostic that the learner brings itself -> its value at the end.
    """

    learner: str
    words: str
    back: Signal = NOTHING
    forth: Signal = NOTHING
    signal: float | None = None
    least: tuple[str, float] | None = None
    alignment: float | None = None
    inside: float | None = None
    ratio: float | None = None
    efficiency: float | None = None
    dead: float | None = None
    saturated: float | None = None
    own: Mapping[str, float | None] = field(default_factory=dict)


def examine(table: Table) -> list[Health]:
    """Return the health of every learner that ran."""
    return [_examine(name, table.tried(name)) for name in table.runs if table.tried(name)]


def _examine(name: str, runs: Sequence[Run]) -> Health:
    why = in_words(runs)
    brought = {each: track(runs, each, own).typical(last=True) for each in own_names(runs)}
    if why in ABSENT:
        return Health(name, why, own=brought)
    return Health(
        learner=name,
        words=why,
        back=backward(runs),
        forth=forward(runs),
        signal=track(runs, "signal_alignment").typical(),
        least=_least_layer(runs),
        alignment=track(runs, "alignment").typical(last=True),
        inside=inside_band(runs),
        ratio=track(runs, "update_ratio").typical(),
        efficiency=track(runs, "descent_efficiency").typical(),
        dead=_worst_layer(runs, "dead_fraction"),
        saturated=_worst_layer(runs, "saturated_fraction"),
        own=brought,
    )


def _worst_layer(runs: Sequence[Run], name: str) -> float | None:
    each = []
    for run in runs:
        for row in reversed(run.probes):
            values = [as_number(layer.get(name)) for layer in layers_of(row).values()]
            known = [value for value in values if value is not None and math.isfinite(value)]
            if known:
                each.append(max(known))
                break
    return float(np.median(each)) if each else None


def _least_layer(runs: Sequence[Run]) -> tuple[str, float] | None:
    """Return the layer whose signal follows the gradient of its batch least, and the median of its cosine."""
    found = {}
    for name in layer_names(runs):
        values = layer_matrix(runs, "signal_alignment", [name])[1]
        if np.isfinite(values).any():
            found[name] = float(np.nanmedian(values))
    return min(found.items(), key=lambda pair: pair[1]) if len(found) > 1 else None


def health(report: Report, table: Table, scale: Scale | None) -> list[Block]:
    """Return the section of one workload.

    Args:
        report: to draw from.
        table: of the workload.
        scale: of all heat maps, None where no gradient was recorded.
    """
    found = examine(table)
    blocks: list[Block] = []
    if not found:
        return blocks
    if all(one.words == "not probed" for one in found):
        blocks.append(Text("No run was probed here."))
    else:
        blocks += [_grid(report, table, found), Text(_JUDGED, "note"), *_causes(found), *evidence(table)]
        blocks += [Text(left, "note")] if (left := undrawn(report, table)) else []
        blocks += _drawn(report, table, scale)
    told = [
        f"{one.learner} measures of itself, at the end: {', '.join(f'{k} {brief(v)}' for k, v in one.own.items())}"
        for one in found
        if one.own
    ]
    if told:
        blocks += [
            Text("What learners measure of themselves", "h4"),
            Text(
                "Diagnostics that a learner brings, by its own names, over the share of the budget: every seed thin, "
                "the median bold. They are not comparable between learners.",
                "note",
            ),
            Points(told),
            Drawings(brought(report, table), "grid"),
        ]
    return [*blocks, *_pages(report, table)]


def _grid(report: Report, table: Table, found: Sequence[Health]) -> Grid:
    head: list[Cell | str] = [
        "learner",
        Cell("backward signal", kind="v"),
        Cell("forward signal", kind="v"),
        *(
            Cell(text, kind="r")
            for text in (
                "signal with\nits batch's gradient",
                "update with the\ngradient, at the end",
                "probes inside\nthe null band",
                "update\nratio",
                "descent\nefficiency",
                "dead units,\nworst layer",
                "saturated,\nworst layer",
            )
        ),
    ]
    return Grid(f"Health on {table.workload}", head, [_row(report, one) for one in found])


def _row(report: Report, one: Health) -> list[Cell | str]:
    if one.words in ABSENT:
        return [Cell(learner=report.by_name[one.learner]), Cell(one.words, kind="soft"), *[""] * 8]
    if one.words:
        moved = [Cell(one.words, kind="r soft"), *[Cell("–", kind="r soft")] * 4]
    else:
        values = (signed(one.alignment, 2), percent(one.inside), brief(one.ratio), signed(one.efficiency, 2))
        least = "" if one.least is None else f"{one.least[0]} {signed(one.least[1], 2)}"
        moved = [Cell(signed(one.signal, 2), least, "r"), *(Cell(text, kind="r") for text in values)]
    units = [Cell(percent(value, 1), kind="r") for value in (one.dead, one.saturated)]
    return [Cell(learner=report.by_name[one.learner]), *map(_said, (one.back, one.forth)), *moved, *units]


def _said(signal: Signal) -> Cell:
    mood = "" if not signal.judged else "v" if signal.verdict.startswith("healthy") else "v failed"
    return Cell(signal.verdict, signal.figures, mood or "v soft")


def _causes(found: Sequence[Health]) -> list[Block]:
    """Return why signals die out or blow up; equal sentences of several learners once."""
    said: dict[str, list[str]] = {}
    for one in found:
        if one.back.cause:
            said.setdefault(one.back.cause, []).append(f"{one.learner} ({one.back.verdict})")
    return [Points([f"{', '.join(names)}: {cause}." for cause, names in said.items()])] if said else []


def _drawn(report: Report, table: Table, scale: Scale | None) -> list[Block]:
    signal = (
        "Input at the top, output at the bottom; median over seeds, the same colour scale in the whole report. "
        "A column that fades towards the top is a signal that dies out."
    )
    band = (
        "Solid: cosine between the whole update, optimizer included, and −∇L on the probe batch, over the share of "
        "the budget. Dashed: cosine between what the learner hands to its optimizer and the gradient of the batch that "
        "it saw. Where the dashed line is high and the solid one low, the noise of batches or the optimizer's memory "
        "stands between. The grey band holds 95 % of what updates from "
        "scrambled error signals reach by chance: a line inside it has not been shown to follow the gradient."
    )
    heat: list[Block] = []
    if scale is not None:
        heat = [
            Text(f"{scale.title[0].upper()}{scale.title[1:]} of each layer over the budget", "h4"),
            Text(signal, "note"),
            Drawings([scale_figure(scale)]),
            Drawings(heat_maps(report, table, scale), "grid"),
        ]
    return [
        *heat,
        Text("Alignment: the signal with the gradient of its batch, the update with the gradient", "h4"),
        Text(band, "note"),
        Drawings(alignments(report, table), "grid"),
        Drawings([*overlays(report, table), *instrument_figures(report, table)]),
    ]


def _pages(report: Report, table: Table) -> list[Block]:
    """Return the pages of single runs, folded; those of many runs have no tables of layers."""
    if not report.singles:
        return []
    small = len(report.runs) <= SINGLES
    pages = [run_page(table, run, small) for name in table.runs for run in table.tried(name)]
    folds: list[Block] = []
    for page in pages:
        blocks: list[Block] = [Text(str(page.run.record.data["reason"]), "note"), Facts(page.facts)]
        blocks += [Text(f"Probes: {page.note}.", "note")] if page.note else []
        blocks += [Grid("Probes of the run", _columns(WHOLE_COLUMNS), page.probes)] if page.probes else []
        blocks += [Grid("Layers at the last probe", _columns(LAYER_COLUMNS), page.layers)] if page.layers else []
        folds.append(Fold(f"{page.run.learner}, seed {page.run.seed}: {words(page.run.status)}", blocks))
    return [Fold(f"Every run on {table.workload}: {plural(len(pages), 'page')}", folds)]


def _columns(names: Sequence[str]) -> list[Cell | str]:
    return [Cell(name, kind="" if place == 0 and name == "layer" else "r") for place, name in enumerate(names)]
