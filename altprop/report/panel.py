"""A plotting panel: two axes with few, round ticks, a light grid, and labels that are never cut."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from altprop.report.canvas import Array, Canvas, fit, text_width
from altprop.report.format import number

_ZEROS = re.compile(r"\.0+(?=\s|$)")
_MANTISSA = re.compile(r"\.?0+(?= × )")
TICK = 9.5
LABEL = 10.5


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis from `low` to `high` with a label and a way to write its ticks.

    `fixed` ticks take the place of those that the axis would choose by itself; none at all if it is empty.
    """

    low: float
    high: float
    label: str = ""
    log: bool = False
    write: Callable[[float], str] = number
    fixed: tuple[float, ...] | None = None

    def place(self, values: Sequence[float] | Array) -> Array:
        """Return positions of values between 0 (low end) and 1 (high end), NaN for what a logarithm cannot show."""
        x = np.asarray(values, dtype=float)
        if not self.log:
            return (x - self.low) / (self.high - self.low)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(x > 0, np.log10(x), np.nan)
        low, high = math.log10(self.low), math.log10(self.high)
        return np.asarray((logs - low) / (high - low))

    def ticks(self, wanted: int = 5) -> list[float]:
        """Return round values inside the axis, about as many as wanted, or the fixed ones."""
        if self.fixed is not None:
            return list(self.fixed)
        if self.log:
            return _decades(self.low, self.high, wanted)
        # One tick does not make a scale.
        tries = (linear_ticks(self.low, self.high, more) for more in range(wanted, wanted + 4))
        return next((ticks for ticks in tries if len(ticks) > 1), linear_ticks(self.low, self.high, wanted))

    def labels(self, ticks: Sequence[float]) -> list[str]:
        """Return the ticks written with the same, sufficient number of decimals."""
        if self.write is not number:
            return [_ZEROS.sub("", self.write(tick)) for tick in ticks]
        step = min((abs(b - a) for a, b in itertools.pairwise(ticks)), default=1.0)
        largest = max((abs(tick) for tick in ticks), default=0.0)
        if largest >= 1e5 or largest < 1e-3:
            return [_MANTISSA.sub("", number(tick)) for tick in ticks]
        if self.log:
            return [f"{tick:g}" if tick >= 1e-4 else _MANTISSA.sub("", number(tick)) for tick in ticks]
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        if round(step * 10**decimals, 6) % 1:
            decimals += 1
        return [f"{tick:.{decimals}f}".replace("-", "−") for tick in ticks]


def linear_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return multiples of 1, 2, 2.5 or 5 times a power of ten between two limits.

    >>> linear_ticks(0.0, 1.0, 5)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") + 0.0 for index in range(first, last + 1)]


def _decades(low: float, high: float, wanted: int) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    whole = last - first + 1
    if whole >= 3:
        stride = max(1, math.ceil(whole / wanted))
        return [10.0**power for power in range(first, last + 1) if (power - first) % stride == 0]
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [f * 10.0**p for p in range(first - 1, last + 1) for f in factors]
        inside = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(inside) >= 3:
            return inside
    return linear_ticks(low, high, wanted)


def spanning(
    values: Sequence[float] | Array,
    label: str = "",
    log: bool = False,
    write: Callable[[float], str] = number,
    margin: float = 0.04,
) -> Axis:
    """Return an axis around all finite values (positive ones if logarithmic), a little wider than they are."""
    x = np.asarray(values, dtype=float)
    x = x[np.isfinite(x) & ((x > 0) | (not log))]
    low, high = (float(x.min()), float(x.max())) if x.size else (1.0, 10.0) if log else (0.0, 1.0)
    if log:
        low, high = math.log10(low), math.log10(high)
        room = max(margin * (high - low), 0.02)
        return Axis(10 ** (low - room), 10 ** (high + room), label, True, write)
    # What differs by rounding alone is equal: no ticks could tell it apart.
    span = high - low if high - low > 1e-9 * max(abs(low), abs(high)) else 0.0
    room = margin * span or 0.05 * abs(high) or 0.5
    return Axis(low - room, high + room, label, False, write)


def without_outliers(values: Sequence[float] | Array) -> Array:
    """Return the finite values within 20 interquartile ranges: one run that blew up must not flatten all others."""
    every: Array = np.asarray(values, dtype=float)
    finite: Array = every[np.isfinite(every)]
    if not finite.size:
        return finite
    low, high = np.quantile(finite, [0.25, 0.75])
    room = 20 * (high - low)
    kept: Array = finite[(finite >= low - room) & (finite <= high + room)]
    return kept


def needs_log(values: Sequence[float] | Array, ratio: float = 30.0) -> bool:
    """Return whether positive values spread so far that a linear axis would hide most of them."""
    x = np.asarray(values, dtype=float)
    x = x[np.isfinite(x)]
    return bool(x.size and x.min() > 0 and x.max() / x.min() > ratio)


class Panel:
    """A rectangle of a canvas with its axes drawn.

    Args:
        canvas: to draw on.
        box: left, top, width, height of the plotting area in points.
        x: horizontal axis; None draws none.
        y: vertical axis; None draws none.
        show_x: whether tick labels and label of x are written.
    """

    def __init__(
        self,
        canvas: Canvas,
        box: tuple[float, float, float, float],
        x: Axis,
        y: Axis,
        show_x: bool = True,
        show_y: bool = True,
    ) -> None:
        self.canvas, self.x, self.y = canvas, x, y
        self.left, self.top, self.width, self.height = box
        self.right, self.bottom = self.left + self.width, self.top + self.height
        self._grid(show_x, show_y)

    def at(self, x: Sequence[float] | Array, y: Sequence[float] | Array) -> tuple[Array, Array]:
        """Return canvas positions of data points; what lies outside is moved to the border."""
        across = self.left + np.clip(self.x.place(x), 0, 1) * self.width
        down = self.bottom - np.clip(self.y.place(y), 0, 1) * self.height
        return across, down

    def line(
        self,
        x: Sequence[float] | Array,
        y: Sequence[float] | Array,
        colour: str,
        width: float = 1.0,
        dash: Sequence[float] | None = None,
        opacity: float = 1.0,
    ) -> None:
        """Draw a line through data points."""
        self.canvas.line(*self.at(x, y), colour, width, dash, opacity)

    def level(
        self, value: float, colour: str, dash: Sequence[float] | None = (2, 2), width: float = 1.0
    ) -> float | None:
        """Draw a horizontal line at a value; return its height on the canvas, or None where it lies outside."""
        share = float(self.y.place([value])[0])
        if not -1e-9 <= share <= 1 + 1e-9:
            return None
        down = self.bottom - share * self.height
        self.canvas.line([self.left, self.right], [down, down], colour, width, dash)
        return down

    def _grid(self, show_x: bool, show_y: bool) -> None:
        canvas = self.canvas
        wanted_x = max(2, int(self.width / 62))
        ticks = self.x.ticks(wanted_x)
        labels = self.x.labels(ticks)
        while len(ticks) > 2 and sum(text_width(text, TICK) + 8 for text in labels) > self.width:
            ticks, labels = ticks[::2], labels[::2]
        across = self.left + self.x.place(ticks) * self.width
        uprights = [(a, self.top, a, self.bottom) for a in across]
        if show_x:
            for a, text in zip(across, labels, strict=True):
                half = text_width(text, TICK) / 2
                canvas.text(min(max(a, half), canvas.width - half), self.bottom + 13, text, "soft", TICK, "middle")
            if self.x.label:
                middle = self.left + self.width / 2
                label = fit(self.x.label, 2 * min(middle, canvas.width - middle), LABEL)
                canvas.text(middle, self.bottom + 28, label, "soft", LABEL, "middle")
        ticks = self.y.ticks(y_ticks(self.height))
        down = self.bottom - self.y.place(ticks) * self.height
        canvas.segments([*uprights, *((self.left, d, self.right, d) for d in down)], "line", 0.75)
        if show_y:
            for d, text in zip(down, self.y.labels(ticks), strict=True):
                canvas.text(self.left - 5, d + 3.4, text, "soft", TICK, "end")
        canvas.segments([(self.left, self.bottom, self.right, self.bottom)], "grey", 1.0)


def y_ticks(height: float) -> int:
    """Return how many ticks a vertical axis of that height wants.

    >>> y_ticks(70), y_ticks(260)
    (2, 7)
    """
    return max(2, int(height / 34))


def left_margin(axis: Axis, height: float) -> float:
    """Return the room for the tick labels of a vertical axis of that height."""
    ticks = axis.ticks(y_ticks(height))
    return 9 + max(text_width(text, TICK) for text in [*axis.labels(ticks), "0"])


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions near the wanted ones, in their order, at least `gap` apart and inside the limits if they fit.

    >>> spread([1.0, 1.0, 9.0], 2.0, 0.0, 10.0)
    [0.0, 2.0, 9.0]
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    blocks: list[tuple[float, list[int]]] = []  # start, members
    gap = min(gap, (high - low) / max(len(order) - 1, 1))
    for index in order:
        members = [index]
        start = min(max(wanted[index], low), high)
        while blocks and blocks[-1][0] + gap * len(blocks[-1][1]) > start:
            members = blocks.pop()[1] + members
            start = sum(wanted[i] - k * gap for k, i in enumerate(members)) / len(members)
            start = min(max(start, low), high - gap * (len(members) - 1))
        blocks.append((start, members))
    placed = [0.0] * len(order)
    for start, members in blocks:
        for place, index in enumerate(members):
            placed[index] = start + place * gap
    return placed
