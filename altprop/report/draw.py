"""Pieces that several figures share: figures with a name and caption, learners' keys, medians and direct labels."""

from __future__ import annotations

import hashlib
import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from altprop.report.canvas import Array, Canvas, fit, text_width
from altprop.report.format import short
from altprop.report.model import CROWD, Learner
from altprop.report.panel import LABEL, TICK, Axis, Panel, left_margin, spread
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


def together(
    stem: str,
    title: str,
    label: str,
    learners: Sequence[Learner],
    axes: tuple[Axis, Axis],
    draw: Callable[[Panel, Learner, float], tuple[float, float] | None],
    caption: str,
    before: Callable[[Panel, Sequence[Learner]], None] | None = None,
) -> list[Figure]:
    """Draw a line a learner in one panel, its name beside its end; in several figures where the learners are many.

    Args:
        stem: of the files' names. title: of the figures. label: what they show. caption: of the first.
        learners: to draw, the first on top.
        axes: x and y.
        draw: puts a learner's line on a panel and returns its end in points; the number is its place among the
            others, around 0, by which lines that are alike may be shifted.
        before: draws what lies below all lines.
    """
    figures, parts = [], groups(learners)
    for part, chosen in enumerate(parts):
        canvas, (x, y) = Canvas(WIDE, 300.0, label), axes
        heading(canvas, title, part, len(parts))
        left, tall = left_margin(y, 234.0), 234.0
        panel = Panel(canvas, (left, 26.0, WIDE - left - name_width(chosen) - 18, tall), x, y)
        if before is not None:
            before(panel, chosen)
        ends = []
        for place, learner in reversed(list(enumerate(chosen))):
            end = draw(panel, learner, place - (len(chosen) - 1) / 2)
            ends += [(learner, *end)] if end is not None else []
        direct_labels(panel, ends)
        name = stem + (f"-{part + 1}" if len(parts) > 1 else "")
        figures.append(Figure(name, canvas, caption if part == 0 else ""))
    return figures


def end_of(panel: Panel, x: Array, y: Array) -> tuple[float, float] | None:
    """Return where a line ends on a canvas; None where no point of it is finite."""
    across, down = panel.at(x, y)
    kept = np.flatnonzero(np.isfinite(across) & np.isfinite(down))
    return (float(across[kept[-1]]), float(down[kept[-1]])) if kept.size else None


def told_map(
    name: str,
    title: str,
    label: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cell: Callable[[int, int], tuple[str, float, str]],
    caption: str = "",
) -> Figure:
    """Draw a table whose cells are coloured; `cell` returns the colour, opacity and text of a row and a column.

    A column's name may have several lines.
    """
    names, heads = [fit(row, NAME, TICK) for row in rows], [column.split("\n") for column in columns]
    line, tall = 10.5, 16.0
    left, top = 8 + max(text_width(row, TICK) for row in names), 42.0 + line * (max(map(len, heads)) - 1)
    wide = (WIDE - left - 2) / len(columns)
    canvas = Canvas(WIDE, top + tall * len(names) + 4, label)
    heading(canvas, title)
    for c, lines in enumerate(heads):
        for up, text in enumerate(reversed(lines)):
            canvas.text(left + wide * (c + 0.5), top - 6 - line * up, fit(text, wide - 2, TICK), "soft", TICK, "middle")
    for r, row in enumerate(names):
        middle = top + tall * (r + 0.5) + 3.4
        canvas.text(left - 5, middle, row, "soft", TICK, "end")
        for c in range(len(columns)):
            colour, opacity, text = cell(r, c)
            canvas.boxes([(left + wide * c, top + tall * r, wide - 0.7, tall - 0.7)], colour, opacity)
            canvas.text(left + wide * (c + 0.5), middle, text, "ink", TICK, "middle")
    return Figure(name, canvas, caption)


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
