"""Pieces that several figures share: figures with a name and caption, learners' keys, medians and direct labels."""

from __future__ import annotations

import hashlib
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from altprop.report.canvas import Array, Canvas, fit, text_width
from altprop.report.format import short
from altprop.report.model import CROWD, Learner
from altprop.report.panel import LABEL, Panel, spread
from altprop.report.style import LearnerStyle

WIDE = 440.0
SMALL = 200.0
GROUP = 8
NAME = 148.0


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption.

    Attributes:
        name: stem of its file, safe as a file name; empty for a small panel that gets no file of its own.
        canvas: the drawing.
        caption: a sentence or two, plain text.
    """

    name: str
    canvas: Canvas
    caption: str = ""

    @property
    def svg(self) -> str:
        """The drawing, to be placed in the page as it is."""
        return self.canvas.svg()


def slug(*parts: str) -> str:
    """Return a safe and telling file stem; a name that loses characters gets a hash, so that no two meet.

    >>> slug("convergence", "digits", "flops")
    'convergence-digits-flops'
    """
    pieces = []
    for part in parts:
        safe = re.sub(r"[^A-Za-z0-9_]+", "-", part).strip("-")[:40]
        lost = "" if safe == part else "-" + hashlib.sha256(part.encode()).hexdigest()[:6]
        pieces.append((safe + lost).strip("-"))
    return "-".join(pieces)


def groups(learners: Sequence[Learner]) -> list[list[Learner]]:
    """Put learners in groups that one panel can hold, the reference in each of them."""
    if len(learners) <= CROWD:
        return [list(learners)]
    reference = [learner for learner in learners if learner.reference]
    others = [learner for learner in learners if not learner.reference]
    count = math.ceil(len(others) / GROUP)
    size = math.ceil(len(others) / count)
    return [reference + others[start : start + size] for start in range(0, len(others), size)]


def key(canvas: Canvas, x: float, y: float, style: LearnerStyle, width: float = 22.0) -> None:
    """Draw a sample of a learner's line and marker, vertically centred on y."""
    canvas.line([x, x + width], [y, y], style.colour, 1.8 * style.width, style.dash)
    canvas.markers([x + width / 2], [y], style.marker, style.colour, 6.5)


def marked_line(panel: Panel, x: Array, y: Array, style: LearnerStyle, marks: int = 5) -> None:
    """Draw a learner's bold line with a few markers."""
    panel.line(x, y, style.colour, 1.9 * style.width, style.dash)
    kept = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if kept.size:
        # The first marker of each learner sits elsewhere, so that equal curves show that they are several.
        chosen = kept[np.unique(np.linspace(0, kept.size - 1, marks).round().astype(int))]
        panel.canvas.markers(*panel.at(x[chosen], y[chosen]), style.marker, style.colour, 6.0)


def name_of(learner: Learner) -> str:
    """Return a learner's name, cut to the width that figures give to names; what marks it as tuned is kept whole."""
    stem, mark, rest = learner.name.rpartition("·tuned") if learner.tuned else (learner.name, "", "")
    room = NAME - text_width(mark + rest, LABEL, bold=True)
    if mark and stem and room > NAME / 2:
        return fit(stem, room, LABEL, bold=True) + mark + short(rest)
    cut = fit(learner.name, NAME, LABEL, bold=True)
    # Learners of a grid differ at their ends.
    return "…" + _tail(learner.name) if "=" in learner.name and cut != learner.name else cut


def _tail(name: str) -> str:
    """Return as much of the end of a name as figures have room for."""
    while text_width("…" + name, LABEL, bold=True) > NAME:
        name = name[1:]
    return name


def name_width(learners: Sequence[Learner]) -> float:
    """Return the width of the longest of the learners' names in points."""
    return max((text_width(name_of(one), LABEL, bold=True) for one in learners), default=0.0)


def heading(canvas: Canvas, title: str, part: int = 0, parts: int = 1) -> None:
    """Draw the title of a figure, cut where it would leave it."""
    suffix = f"  ({part + 1} of {parts})" if parts > 1 else ""
    size = LABEL + 0.5
    canvas.text(
        0, 12, fit(title, canvas.width - text_width(suffix, size, True), size, True) + suffix, "ink", size, bold=True
    )


def keyed(canvas: Canvas, learner: Learner) -> None:
    """Draw the title of a small panel: the learner's key and name."""
    key(canvas, 1, 9, learner.style, 20)
    canvas.text(27, 12.5, name_of(learner), learner.style.colour, LABEL, bold=True)


def direct_labels(panel: Panel, ends: Sequence[tuple[Learner, float, float]]) -> None:
    """Write names right of the panel, each beside the end (x, y) of its line in points and tied to it by a hair."""
    if not ends:
        return
    places = spread([y for _, _, y in ends], 13.0, panel.top + 4, panel.bottom)
    for (learner, x, y), place in zip(ends, places, strict=True):
        colour = learner.style.colour
        panel.canvas.line([x, panel.right + 3, panel.right + 11], [y, y, place], colour, 0.7, None, 0.7)
        panel.canvas.text(panel.right + 14, place + 3.6, name_of(learner), colour, LABEL, bold=True)


def levels(panel: Panel, lines: Sequence[tuple[str, float, str]], side: str = "left") -> None:
    """Draw named horizontal lines (name, value, colour), their names kept apart above them."""
    drawn = []
    for name, value, colour in lines:
        down = panel.level(value, colour, (1.5, 2.5))
        if down is not None:
            drawn.append((name, down, colour))
    places = spread([down for _, down, _ in drawn], 10.5, panel.top + 8, panel.bottom)
    for (name, _, colour), place in zip(drawn, places, strict=True):
        x, anchor = (panel.left + 4, "start") if side == "left" else (panel.right - 4, "end")
        panel.canvas.text(x, place - 2.5, name, colour, 8.5, anchor)


def median_path(x: Sequence[Array], y: Sequence[Array], sign: int) -> tuple[Array, Array]:
    """Return the median over seeds at each grid point, a seed that is gone counting as worst.

    The path ends where half are gone.

    Args:
        x: positions of each seed, (points,) each, of possibly different lengths.
        y: values of each seed.
        sign: +1 where more is better, -1 where less is.
    """
    points = max((len(values) for values in y), default=0)
    across, down = np.full(points, math.nan), np.full(points, math.nan)
    for place in range(points):
        here = [(a[place], v[place]) for a, v in zip(x, y, strict=True) if place < len(v) and np.isfinite(v[place])]
        scores = sorted([sign * float(value) for _, value in here] + [-math.inf] * (len(y) - len(here)))
        low, high = scores[(len(scores) - 1) // 2], scores[len(scores) // 2]
        if math.isfinite(low):
            down[place] = sign * (low + high) / 2
            across[place] = statistics.median([float(position) for position, _ in here])
    return across, down
