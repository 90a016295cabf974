"""Quantities along the runs of a learner, over the share of the budget, and how they are drawn."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from altprop.report.canvas import Array
from altprop.report.draw import Figure, end_of, levels, marked_line, median_path, slug, together
from altprop.report.format import short
from altprop.report.model import Learner, Table
from altprop.report.panel import Axis, Panel

SHARE = Axis(0.0, 1.0, "share of the budget spent", False, lambda share: f"{100 * share:.0f} %")
BARE = Axis(0.0, 1.0, "", False, SHARE.write)


@dataclass(frozen=True)
class Track:
    """One quantity along the runs of a learner: `fraction` and `values` of each run, (points,) each."""

    fraction: list[Array]
    values: list[Array]

    @property
    def known(self) -> bool:
        return any(np.isfinite(values).any() for values in self.values)

    def typical(self, last: bool = False) -> float | None:
        """Return the median over runs of each run's median (or last) finite value."""
        each = []
        for values in self.values:
            finite = values[np.isfinite(values)]
            if finite.size:
                each.append(float(finite[-1]) if last else float(np.median(finite)))
        return float(np.median(each)) if each else None


def seeds_and_median(panel: Panel, mine: Track, learner: Learner) -> None:
    """Draw every run of a learner thin and their median bold."""
    for fraction, values in zip(mine.fraction, mine.values, strict=True):
        panel.line(fraction, values, learner.style.colour, 0.9, None, 0.6)
    panel.line(*median_path(mine.fraction, mine.values, 1), learner.style.colour, 2.2)


def overlay(
    table: Table,
    shown: Sequence[Learner],
    tracks: Mapping[str, Track],
    y: Axis,
    title: str,
    caption: str,
    marks: Sequence[tuple[str, float, str]] = (),
    sign: int = 1,
    seeds: bool = True,
) -> list[Figure]:
    """Draw one quantity of all learners together, in as many figures as their number takes.

    Args:
        table: of the workload.
        shown: learners to draw.
        tracks: name of a learner -> its quantity.
        y: the vertical axis.
        title: the quantity's name.
        caption: of the first figure.
        marks: named levels: (name, value, colour).
        sign: +1 where more is better, -1 where less is.
        seeds: whether every run is drawn thin below the median.
    """

    def draw(panel: Panel, learner: Learner, _: float) -> tuple[float, float] | None:
        mine = tracks[learner.name]
        for fraction, line in zip(mine.fraction, mine.values, strict=True) if seeds else ():
            panel.line(fraction, line, learner.style.colour, 0.8, None, 0.4)
        across, down = median_path(mine.fraction, mine.values, sign)
        marked_line(panel, across, down, learner.style)
        return end_of(panel, across, down)

    text = f"{title}, {short(table.workload, 60)}"
    stem, label = slug(title.replace(" ", "_"), table.workload), f"{text}, over the share of the budget"
    below = functools.partial(_marked, marks)
    return together(stem, text, label, shown, (SHARE, y), draw, caption, below)


def _marked(marks: Sequence[tuple[str, float, str]], panel: Panel, _: Sequence[Learner]) -> None:
    levels(panel, marks, "right")
