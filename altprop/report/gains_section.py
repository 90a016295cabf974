"""What learners gain on the reference over examples or depth, as blocks: where it ends, and whether it falls."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from altprop.report.blocks import Block, Cell, Fold, Grid, Points, Text, difference, drawings, right
from altprop.report.data_sets import data_sets
from altprop.report.draw import Figure, end_of, levels, slug, together
from altprop.report.format import MISSING
from altprop.report.gains import EXAMPLES, LAYERS, MIN_VALUES, Gain, Quantity, gains, series
from altprop.report.leading import foremost
from altprop.report.model import Learner, Report, Table
from altprop.report.paired import CLAIM_SEEDS, holm, sign_flip_p
from altprop.report.panel import Panel, spanning
from altprop.report.statistics import Interval, t_interval

ALPHA = 0.05
_PAIRED = "Mean paired difference to {reference} in {quality} {metric}, above 0 is better, with its t-interval. "
_CROSSES = (
    "Where a mean changes its sign the number of {name} is read off by a line over its logarithm; the interval is of "
    "4,000 resamples of the seeds of each value, and stands where it lies between the values."
)
_FALLS = (
    "A doubling: the slope of a seed's differences over the binary logarithm of the number of {name}, of the seeds "
    "that ended at all of them, and of learners of whom no seed failed; sign-flip test, Holm over the learners."
)


def over_quantities(report: Report) -> list[Block]:
    """Return figure, table and sentences for each data set given in three sizes or depths or more; [] without one."""
    return [
        block
        for quantity in (EXAMPLES, LAYERS)
        for tables in data_sets(report.tables)
        for by_value in series(tables, quantity)
        for block in _blocks(report, by_value, quantity)
    ]


def _blocks(report: Report, by_value: Mapping[int, Table], quantity: Quantity) -> list[Block]:
    found = gains(report, by_value)
    first = next(iter(by_value.values()))
    if not found or first.reference is None:
        return []
    task = first.workload.partition("[")[0]
    trend = quantity is LAYERS
    note = (_PAIRED + (_FALLS if trend else _CROSSES)).format(
        reference=first.reference, quality=first.quality, metric=first.metric, name=quantity.name
    )
    head = ["learner", *right(*(f"{value:,}\n{quantity.short}" for value in by_value))]
    last = _doubling if trend else _at
    rows = [[Cell(learner=one.learner), *(_cell(one, value) for value in by_value), last(one)] for one in found]
    return [
        Text(f"Over the number of {quantity.name}: {task}", "h4"),
        Text(note, "note"),
        *(_trends(found) if trend else _crossings(found, quantity)),
        *drawings(_figures(report, found, task, first, quantity), main=True),
        Fold(
            f"Every learner over the number of {quantity.name}",
            [
                Grid(
                    f"Gains over the number of {quantity.name} of {task}".replace("training ", ""),
                    [*head, *right("a doubling" if trend else "crosses 0 at")],
                    rows,
                ),
            ],
            written=True,
        ),
    ]


def _cell(gain: Gain, value: int) -> Cell:
    if value not in gain.by_value:
        return Cell(f"{gain.failed[value]} failed" if value in gain.failed else MISSING, kind="r")
    if value in gain.failed:
        mean = float(gain.means[gain.values.index(value)])
        return Cell(f"{mean:+.3g}".replace("-", "−"), f"{gain.failed[value]} failed", "r", sort=mean)
    return difference(t_interval(gain.differences[gain.values.index(value)]))


def _at(gain: Gain) -> Cell:
    at = gain.crossing
    if at is None or at.low is None or at.high is None:
        return Cell(MISSING, kind="r")
    return Cell(f"{at.estimate:,.0f}", f"{at.low:,.0f} to {at.high:,.0f}", "r", sort=at.estimate)


def _doubling(gain: Gain) -> Cell:
    slope = _slope(gain)
    return Cell(MISSING, kind="r") if slope is None else difference(slope)


def _slope(gain: Gain) -> Interval | None:
    enough = len(gain.values) >= MIN_VALUES and gain.slopes.size >= MIN_VALUES and not gain.failed
    return t_interval(gain.slopes) if enough else None


def _crossings(found: Sequence[Gain], quantity: Quantity) -> list[Block]:
    sentences = [
        f"{one.learner.name} {'stops paying' if one.falls else 'begins to pay'} at {_at(one).text} {quantity.name} "
        f"(95 %: {_at(one).small})."
        for one in found
        if one.crossing is not None
    ]
    return [Points(sentences)] if sentences else []


def _trends(found: Sequence[Gain]) -> list[Block]:
    """Say who falls behind with depth, who catches up, and of whom neither is shown."""
    known = [one for one in found if _slope(one) is not None]
    told = zip(known, holm([sign_flip_p(one.slopes) for one in known]), strict=True)
    sure = {one.learner.name for one, p in told if p < ALPHA and one.slopes.size >= CLAIM_SEEDS}
    kinds = {
        "Falls further behind, or loses its lead, as layers are added": [
            one for one in known if one.learner.name in sure and one.slopes.mean() < 0
        ],
        "Gains on the reference as layers are added": [
            one for one in known if one.learner.name in sure and one.slopes.mean() > 0
        ],
        "Neither is shown of": [one for one in known if one.learner.name not in sure],
    }
    sentences = [
        f"{words}: {', '.join(f'{one.learner.name} ({_doubling(one).text} a doubling)' for one in ones)}."
        for words, ones in kinds.items()
        if ones
    ]
    return [Points(sentences)] if sentences else []


def _figures(report: Report, found: Sequence[Gain], task: str, table: Table, quantity: Quantity) -> list[Figure]:
    """Draw mean gains over the logarithm of the value, of those that ran at three values and more."""
    known = {one.learner.index: one for one in found if len(one.values) >= MIN_VALUES}
    if not known:
        return []
    drawn = foremost(report, [one.learner for one in known.values()], lambda one: float(known[one.index].means.max()))
    shared = _shared_end([one.name for one in drawn])
    drawn = [replace(one, name=one.name.removesuffix(shared)) for one in drawn]
    values = sorted({value for one in drawn for value in known[one.index].values})
    x = replace(
        spanning(values, quantity.name, log=True),
        write=lambda value: f"{value:,.0f}",
        fixed=tuple(map(float, values)),
    )
    y = spanning([0.0, *(value for one in drawn for value in known[one.index].means)], margin=0.08)

    def draw(panel: Panel, learner: Learner, _: float) -> tuple[float, float] | None:
        mine, style = known[learner.index], learner.style
        across, down = np.array(mine.values, dtype=float), mine.means
        panel.line(across, down, style.colour, 1.9 * style.width, style.dash)
        panel.canvas.markers(*panel.at(across, down), style.marker, style.colour, 7.0)
        return end_of(panel, across, down)

    def zero(panel: Panel, _: Sequence[Learner]) -> None:
        levels(panel, [(str(table.reference), 0.0, "soft")], "right")

    title = f"{table.quality} {table.metric} less that of {table.reference}, {task}"
    label = f"{title}, over the number of {quantity.name}"
    return together(slug(quantity.short, task), title, label, drawn, (x, y), draw, "", zero)


def _shared_end(names: Sequence[str]) -> str:
    """Return the parts that all names end with, which tell none of them from the others.

    >>> _shared_end(["dfa+adam·tuned", "drtp+adam·tuned"]), _shared_end(["dfa+adam", "dfa+sgd"])
    ('+adam·tuned', '')
    """
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*map(reversed, names), strict=False))
    end = "".join(letters[0] for letters in alike)[::-1]
    places = [place for place, letter in enumerate(end) if letter in "+·"]
    return end[places[0] :] if places and len(names) > 1 else ""
