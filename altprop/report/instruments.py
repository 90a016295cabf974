"""What else the probes recorded: units that fell silent, and the standard and full tiers' instruments.

Each is drawn over the run where it was recorded and says something, and told in words, with figures beside them, where
it is evidence: of what did not happen nothing stands on the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from altprop.report.blocks import Block, Points
from altprop.report.draw import Figure
from altprop.report.format import brief, figure, percent, plural
from altprop.report.health import layer_names, layers_of, track, whole
from altprop.report.leading import leading
from altprop.report.model import Report, Run, Table, as_number
from altprop.report.panel import needs_log, spanning
from altprop.report.tracks import Track, overlay

NAMED = 6
"""Learners that a sentence names."""
SILENT = 0.05
"""Share of units in the worst layer from which on dead and saturated ones are drawn."""
DEAD, SATURATED = 0.25, 0.5
"""Shares of the worst layer's units, at the end, that are told in words."""
EDGE = 0.9
"""Share of what an optimizer can bear from which on the sharpness is said to stand at the edge."""
NOISY = 4.0
"""Noise scale over batch size from which on the noise of batches is said to lead."""
FEW = 1.5
"""Effective rank below which the outputs of 8 units and more are said to fall together."""
SHIFT = 0.75
"""Variance seen over variance kept at batch normalisation below which a shift is told."""
SQUEEZE = 1e-3
"""The largest singular value of the Jacobian, or its inverse, beyond which a net is said to hide its inputs."""


@dataclass(frozen=True)
class Instrument:
    """A quantity that is drawn over the run.

    Attributes:
        title: its name on the figure. caption: what it is.
        of: the runs of a learner -> the quantity along each.
        marks: named levels that the axis holds too.
        least: what some learner's median must reach for it to be drawn at all.
        seeds: whether every run is drawn below the median.
    """

    title: str
    caption: str
    of: Callable[[Sequence[Run]], Track]
    marks: tuple[tuple[str, float], ...] = ()
    least: float = -math.inf
    seeds: bool = True


def _value(name: str) -> Callable[[Sequence[Run]], Track]:
    return lambda runs: _measured(track(runs, name))


def _measured(found: Track) -> Track:
    """Return a track without the probes at which the quantity was not measured: dear ones are taken now and then."""
    kept = [np.isfinite(values) for values in found.values]
    return Track(
        [x[ok] for x, ok in zip(found.fraction, kept, strict=True)],
        [y[ok] for y, ok in zip(found.values, kept, strict=True)],
    )


def worst_layer(runs: Sequence[Run], name: str, of: Callable[[list[float]], float] = max) -> Track:
    """Return the largest value over the layers, or what `of` takes of them, at each probe of each run."""
    return _over_layers(runs, lambda layers: of(_numbers(layers.values(), name) or [math.nan]))


def last_hidden(runs: Sequence[Run], name: str) -> Track:
    """Return the value of the last hidden layer of a layered net at each probe of each run."""
    names = [layer for layer in layer_names(runs) if layer.startswith("blocks.")]
    hidden = names[-2:-1]
    return _over_layers(
        runs, lambda layers: next(iter(_numbers([layers.get(one, {}) for one in hidden], name)), math.nan)
    )


def _numbers(layers: Iterable[dict[str, Any]], name: str) -> list[float]:
    found = (as_number(layer.get(name)) for layer in layers)
    return [value for value in found if value is not None and math.isfinite(value)]


def _over_layers(runs: Sequence[Run], of: Callable[[dict[str, dict[str, Any]]], float]) -> Track:
    fraction = [np.array([as_number(r.get("fraction"), math.nan) for r in run.probes], dtype=float) for run in runs]
    values = [np.array([of(layers_of(row)) for row in run.probes], dtype=float) for run in runs]
    return _measured(Track(fraction, values))


INSTRUMENTS = (
    Instrument(
        "dead units, worst layer",
        "Share of the units of the layer that has most of them which lie at a bound of their activation on every probe "
        "row: they pass no gradient. Medians over the seeds.",
        lambda runs: worst_layer(runs, "dead_fraction"),
        least=SILENT,
        seeds=False,
    ),
    Instrument(
        "saturated outputs, worst layer",
        "Share of the outputs of the layer that has most of them in the outer 2.5 % of their activation's range.",
        lambda runs: worst_layer(runs, "saturated_fraction"),
        least=SILENT,
        seeds=False,
    ),
    Instrument(
        "gradient noise scale",
        "Rows of a batch whose gradient's noise is as large as the gradient (McCandlish et al. 2018), over the run so "
        "far: smaller batches mostly average noise, larger ones mostly repeat themselves.",
        _value("noise_scale"),
    ),
    Instrument(
        "gradient diversity",
        "Sum of the squared lengths of the examples' gradients over the squared length of their sum (Yin et al. 2018): "
        "1 over the rows where all agree.",
        _value("diversity"),
    ),
    Instrument(
        "signal to noise of the gradient",
        "Squared mean over variance of a parameter's gradient over the examples, its mean over the parameters.",
        _value("snr"),
    ),
    Instrument(
        "effective rank, last hidden layer",
        "In how many directions the examples' outputs differ: exp of the entropy of their singular values.",
        lambda runs: last_hidden(runs, "effective_rank"),
    ),
    Instrument(
        "variance shift at batch normalisation",
        "Variance that a layer sees in evaluation over the one that it keeps from training, of the layer where it is "
        "least (Li et al. 2018): 1 where both agree, below it where dropout adds to the latter.",
        lambda runs: worst_layer(runs, "variance_shift", min),
        (("none", 1.0),),
    ),
    Instrument(
        "sharpness",
        "Largest eigenvalue of the Hessian on the probe batch, by Lanczos.",
        _value("sharpness"),
    ),
    Instrument(
        "sharpness over what the optimizer can bear",
        "Above 1 the steps would grow on this quadratic: the edge of stability (Cohen et al. 2021). Of adaptive "
        "optimizers it is in their own scales.",
        _value("edge"),
        (("edge of stability", 1.0),),
    ),
    Instrument(
        "largest singular value of the Jacobian",
        "Of outputs in inputs, the median over examples; 1 keeps lengths.",
        _value("jacobian_largest"),
        (("1", 1.0),),
    ),
    Instrument("median singular value of the Jacobian", "", _value("jacobian_median"), (("1", 1.0),)),
    Instrument("smallest singular value of the Jacobian", "", _value("jacobian_smallest"), (("1", 1.0),)),
)


def instrument_figures(report: Report, table: Table) -> list[Figure]:
    """Draw each instrument's quantity of all learners together, where it was recorded and reaches what is worth it."""
    learners = leading(report, table)
    figures: list[Figure] = []
    for one in INSTRUMENTS:
        tracks = {learner.name: one.of(table.tried(learner.name)) for learner in learners}
        shown = [learner for learner in learners if tracks[learner.name].known]
        ends = [_most(tracks[learner.name]) for learner in shown]
        if not shown or max(ends) < one.least:
            continue
        values = np.concatenate([each for learner in shown for each in tracks[learner.name].values])
        values = values[np.isfinite(values)]
        y = spanning([*values, *(value for _, value in one.marks)], log=needs_log(values))
        marks = [(name, value, "soft") for name, value in one.marks]
        figures += overlay(table, shown, tracks, y, one.title, one.caption, marks, seeds=one.seeds)
    return figures


def _most(found: Track) -> float:
    """Return the median over runs of each run's largest value."""
    each = [float(values.max()) for values in found.values if values.size]
    return float(np.median(each)) if each else -math.inf


def evidence(table: Table) -> list[Block]:
    """Return in words what the instruments are evidence of, with the learners and their figures; [] for nothing."""
    sentences = [sentence for say in SAID if (sentence := say(table))]
    return [Points(sentences)] if sentences else []


def _listed(found: Sequence[tuple[float, str]]) -> str:
    """Return who it is, those first of whom it is most true."""
    ordered = [text for _, text in sorted(found, key=lambda pair: -pair[0])]
    more = f" and {plural(len(ordered) - NAMED, 'more learner')}" if len(ordered) > NAMED else ""
    return ", ".join(ordered[:NAMED]) + more


def _units(name: str, least: float, words: str) -> Callable[[Table], str]:
    """Return what tells of units that fall silent: who has how many in which layer at the end."""

    def say(table: Table) -> str:
        found = []
        for learner in table.runs:
            layers = {
                layer: share
                for layer in layer_names(table.tried(learner))
                if (share := _at_the_end(table.tried(learner), layer, name)) is not None
            }
            layer = max(layers, key=lambda one: layers[one], default="")
            if layer and layers[layer] >= least:
                found.append((layers[layer], f"{learner} ({percent(layers[layer])} of {layer})"))
        return f"{words}, at the end: {_listed(found)}." if found else ""

    return say


def _at_the_end(runs: Sequence[Run], layer: str, name: str) -> float | None:
    """Return the median over runs of a layer's last value."""
    return _over_layers(runs, lambda layers: next(iter(_numbers([layers.get(layer, {})], name)), math.nan)).typical(
        last=True
    )


def _noise(table: Table) -> str:
    found, beyond = [], []
    for learner in table.runs:
        runs = table.tried(learner)
        rows, scale = _batch(runs), track(runs, "noise_scale").typical(last=True)
        last = [whole(run.probes[-1]).get("noise_scale") for run in runs if run.probes]
        if last and sum(value == "beyond n" for value in last) > len(last) / 2:
            beyond.append((0.0, learner))
        elif rows and scale is not None and scale >= NOISY * rows:
            found.append(
                (scale / rows, f"{learner} ({figure(scale)} rows, {brief(scale / rows)} times a batch of {rows})")
            )
    said = []
    if found:
        said.append(
            f"The noise of batches leads at the end, where the gradient's noise scale is {NOISY:g} times a batch and "
            f"more: {_listed(found)}; larger batches or smaller steps would follow the gradient better."
        )
    if beyond:
        said.append(f"So noisy that the probe batch does not tell its gradient from 0, at the end: {_listed(beyond)}.")
    return " ".join(said)


def _batch(runs: Sequence[Run]) -> int:
    """Return how many rows a batch has, 0 where nothing tells."""
    sizes = {(run.record.data["config"].get("task") or {}).get("batch_size") for run in runs}
    size = sizes.pop() if len(sizes) == 1 else None
    if size == "full":
        return int(runs[0].block("sizes").get("train") or 0)
    return size if isinstance(size, int) else 0


def _shift(table: Table) -> str:
    found = []
    for learner in table.runs:
        at = worst_layer(table.tried(learner), "variance_shift", min).typical(last=True)
        if at is not None and at <= SHIFT:
            found.append((-at, f"{learner} ({figure(at)})"))
    if not found:
        return ""
    return (
        "Batch normalisation divides by more than it sees in evaluation, as dropout below it adds variance in training "
        f"alone; variance seen over variance kept, least layer, at the end: {_listed(found)}."
    )


def _edge(table: Table) -> str:
    found = []
    for learner in table.runs:
        at = track(table.tried(learner), "edge").typical(last=True)
        if at is not None and at >= EDGE:
            found.append((at, f"{learner} ({figure(at)})"))
    if not found:
        return ""
    return (
        "At the edge of stability or beyond it at the end, by the sharpness over what the optimizer can bear: "
        f"{_listed(found)}; a larger step would grow along the steepest direction."
    )


def _rank(table: Table) -> str:
    found = []
    for learner in table.runs:
        runs = table.tried(learner)
        firsts = [float(values[0]) for values in last_hidden(runs, "effective_rank").values if values.size]
        width = _width(runs)
        if firsts and width >= 8 and np.median(firsts) < FEW:
            rank = float(np.median(firsts))
            found.append((-rank, f"{learner} ({brief(rank)} of {width} directions)"))
    if not found:
        return ""
    return (
        "Examples are hardly told apart at the last hidden layer, whose outputs at first differ in one direction: "
        f"{_listed(found)}; the readout sees little more than one number of each."
    )


def _width(runs: Sequence[Run]) -> int:
    """Return the units of the last hidden layer as configured, 0 where nothing tells."""
    model = runs[0].record.data["config"].get("model") if runs else None
    hidden = model.get("hidden") if isinstance(model, dict) else None
    return int(hidden[-1]) if isinstance(hidden, list) and hidden and isinstance(hidden[-1], int) else 0


def _squeezed(table: Table) -> str:
    faint, loud = [], []
    for learner in table.runs:
        firsts = [float(values[0]) for values in _value("jacobian_largest")(table.tried(learner)).values if values.size]
        at = float(np.median(firsts)) if firsts else 1.0
        if 0 < at <= SQUEEZE:
            faint.append((-at, f"{learner} ({figure(at)})"))
        elif at >= 1 / SQUEEZE:
            loud.append((at, f"{learner} ({figure(at)})"))
    said = [
        f"{words} at first, by the largest singular value of the Jacobian: {_listed(found)}."
        for words, found in (
            ("Outputs hardly feel the inputs", faint),
            ("Outputs blow up what differs in inputs", loud),
        )
        if found
    ]
    return " ".join(said)


SAID: tuple[Callable[[Table], str], ...] = (
    _units("dead_fraction", DEAD, "Dead units, which pass no gradient"),
    _units("saturated_fraction", SATURATED, "Saturated units"),
    _rank,
    _squeezed,
    _noise,
    _shift,
    _edge,
)
