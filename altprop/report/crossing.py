"""What learners gain on the reference over the number of training examples, and where that ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from altprop.report.blocks import Block, Cell, Grid, Points, Text, difference, drawings, right
from altprop.report.data_sets import data_sets
from altprop.report.draw import Figure, end_of, levels, slug, together
from altprop.report.format import MISSING
from altprop.report.leading import foremost
from altprop.report.model import Learner, Report, Table
from altprop.report.panel import Axis, Panel, spanning
from altprop.report.reached import shown
from altprop.report.statistics import RESAMPLES, SEED, Floats, Interval, t_interval

MIN_SIZES = 3
"""Sizes of the training set over which gains are drawn; a mean is of as many seeds at least."""


@dataclass(frozen=True)
class Gain:
    """A learner's paired differences to the reference over the number of training examples, more being better.

    Attributes:
        sizes: training examples, ascending, of the workloads where both ran.
        differences: of each size, (seeds,), of the seeds that both completed.
        crossing: number of examples at which the mean difference last changes its sign, with its 95 % interval; None
            where it does not, or the interval leaves the sizes.
        falls: whether it is ahead before, and behind from there on.
    """

    learner: Learner
    sizes: list[int]
    differences: list[Floats]
    crossing: Interval | None = None
    falls: bool = True

    @property
    def means(self) -> Floats:
        """Mean difference at each size, (sizes,)."""
        return np.array([each.mean() for each in self.differences])


def over_examples(report: Report) -> list[Block]:
    """Return figure, table and sentences for each data set that was given in three sizes or more; [] without one."""
    blocks: list[Block] = []
    for tables in data_sets(report.tables):
        by_size = {size: table for table in tables if (size := _size(table))}
        if len(by_size) == len(tables) >= MIN_SIZES:
            blocks += _blocks(report, dict(sorted(by_size.items())))
    return blocks


def _size(table: Table) -> int:
    sizes = {int(run.block("sizes").get("train") or 0) for run in table.everything}
    return sizes.pop() if len(sizes) == 1 else 0


def gains(report: Report, by_size: dict[int, Table]) -> list[Gain]:
    """Return the gain of every learner but reference and controls that ran beside the reference at two sizes or more.

    Args:
        report: whose learners they are.
        by_size: training examples -> workload, ascending.
    """
    found = []
    for learner in shown(report, list(by_size.values())):
        known: dict[int, Floats] = {}
        for size, table in by_size.items():
            if table.reference is None or learner.name == table.reference:
                continue
            ours, theirs = table.scores(learner.name), table.scores(table.reference)
            each = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
            finite = np.array([value for value in each if math.isfinite(value)])
            if finite.size >= MIN_SIZES:
                known[size] = finite
        if len(known) > 1:
            found.append(_crossed(Gain(learner, list(known), list(known.values())), list(by_size)))
    return found


def _crossed(gain: Gain, every_size: Sequence[int]) -> Gain:
    """Add where the mean difference last changes its sign, by linear interpolation over the logarithm of the size.

    The seeds of each size are resampled by themselves, 4,000 times, by a generator of our own seed. Between sizes that
    are no neighbours nothing is read off.
    """
    means = gain.means
    place = _last_change(means)
    if place is None or every_size.index(gain.sizes[place + 1]) != every_size.index(gain.sizes[place]) + 1:
        return gain
    falls = bool(means[place] > 0)
    rng = np.random.default_rng(SEED)
    drawn = np.stack(
        [each[rng.integers(0, each.size, (RESAMPLES, each.size))].mean(1) for each in gain.differences], axis=1
    )
    sign = 1.0 if falls else -1.0
    logs = np.log(np.array(gain.sizes, dtype=float))
    every = np.array([_crossing(sign * row, logs) for row in drawn])
    low, high = np.quantile(every, [0.025, 0.975], method="lower")
    if not (math.isfinite(low) and math.isfinite(high)):
        return replace(gain, falls=falls)
    at = math.exp(_crossing(sign * means, logs))
    return replace(gain, falls=falls, crossing=Interval(at, math.exp(low), math.exp(high), "bootstrap"))


def _last_change(means: Floats) -> int | None:
    """Return the last place after which the sign changes, None where it does not."""
    changes = np.flatnonzero((means[:-1] > 0) != (means[1:] > 0))
    return int(changes[-1]) if changes.size else None


def _crossing(means: Floats, logs: Floats) -> float:
    """Return the log size from which on means (k,) stay at 0 or below; minus or plus infinity outside of the sizes.

    >>> round(float(np.exp(_crossing(np.array([1.0, 1.0, -1.0]), np.log([10.0, 100.0, 400.0])))), 9)
    200.0
    """
    ahead = np.flatnonzero(means > 0)
    if not ahead.size:
        return -math.inf
    last = int(ahead[-1])
    if last == len(means) - 1:
        return math.inf
    return float(logs[last] + (logs[last + 1] - logs[last]) * means[last] / (means[last] - means[last + 1]))


def _blocks(report: Report, by_size: dict[int, Table]) -> list[Block]:
    found = gains(report, by_size)
    first = next(iter(by_size.values()))
    if not found or first.reference is None:
        return []
    task = first.workload.partition("[")[0]
    text = (
        f"Mean paired difference to {first.reference} in {first.quality} {first.metric}, above 0 is better, with its "
        "t-interval. Where a mean changes its sign the number of examples is read off by a line over its logarithm; "
        "the interval is of 4,000 resamples of the seeds of each size, and stands where it lies between the sizes."
    )
    head = ["learner", *right(*(f"{size:,}\nexamples" for size in by_size)), *right("crosses 0 at")]
    rows = [[Cell(learner=one.learner), *(_cell(one, size) for size in by_size), _at(one)] for one in found]
    return [
        Text(f"Over the number of training examples: {task}", "h4"),
        Text(text, "note"),
        *_said(found),
        *drawings(_figures(report, found, task, first), main=True),
        Grid(f"Gains over the number of examples of {task}", head, rows),
    ]


def _cell(gain: Gain, size: int) -> Cell:
    if size not in gain.sizes:
        return Cell(MISSING, kind="r")
    return difference(t_interval(gain.differences[gain.sizes.index(size)]))


def _at(gain: Gain) -> Cell:
    at = gain.crossing
    if at is None or at.low is None or at.high is None:
        return Cell(MISSING, kind="r")
    return Cell(f"{at.estimate:,.0f}", f"{at.low:,.0f} to {at.high:,.0f}", "r", sort=at.estimate)


def _said(found: Sequence[Gain]) -> list[Block]:
    sentences = [
        f"{one.learner.name} {'stops paying' if one.falls else 'begins to pay'} at {_at(one).text} training examples "
        f"(95 %: {_at(one).small})."
        for one in found
        if one.crossing is not None
    ]
    return [Points(sentences)] if sentences else []


def _figures(report: Report, found: Sequence[Gain], task: str, table: Table) -> list[Figure]:
    """Draw mean gains over the logarithm of the size, of those that ran at three sizes and more."""
    known = {one.learner.index: one for one in found if len(one.sizes) >= MIN_SIZES}
    if not known:
        return []
    drawn = foremost(report, [one.learner for one in known.values()], lambda one: float(known[one.index].means.max()))
    sizes = sorted({size for one in drawn for size in known[one.index].sizes})
    x = replace(
        spanning(sizes, "training examples", log=True),
        write=lambda size: f"{size:,.0f}",
        fixed=tuple(map(float, sizes)),
    )
    y = spanning([0.0, *(value for one in drawn for value in known[one.index].means)], margin=0.08)

    def draw(panel: Panel, learner: Learner, _: float) -> tuple[float, float] | None:
        mine, style = known[learner.index], learner.style
        across, down = np.array(mine.sizes, dtype=float), mine.means
        panel.line(across, down, style.colour, 1.9 * style.width, style.dash)
        panel.canvas.markers(*panel.at(across, down), style.marker, style.colour, 7.0)
        return end_of(panel, across, down)

    def zero(panel: Panel, _: Sequence[Learner]) -> None:
        levels(panel, [(str(table.reference), 0.0, "soft")], "right")

    title = f"{table.quality} {table.metric} less that of {table.reference}, {task}"
    label = f"{title}, over the number of training examples"
    axes: tuple[Axis, Axis] = (x, y)
    return together(slug("examples", task), title, label, drawn, axes, draw, "", zero)
