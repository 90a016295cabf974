"""The drawings of section 6: what the best of k trials reaches, and how the result hangs on each searched option."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from altprop.report.canvas import Array, Canvas, fit, text_width
from altprop.report.draw import WIDE, Figure, end_of, groups, heading, key, marked_line, slug, together
from altprop.report.format import setting, short
from altprop.report.model import Learner, Option, Table
from altprop.report.panel import LABEL, TICK, Axis, Panel, left_margin, needs_log, spanning
from altprop.report.results import in_metric
from altprop.report.robustness import Searched, score
from altprop.report.statistics import median

TOP, BOTTOM, RIGHT, LINE = 26.0, 40.0, 12.0, 14.0


def best_figures(table: Table, found: Sequence[Searched]) -> list[Figure]:
    """Draw the expected best of k over k, a line a learner, from the k on where no draw can hold failures alone."""
    shown = [one for one in found if one.curves.finite_from is not None]
    if not shown or max(one.curves.n for one in shown) < 2:
        return []
    curves = {one.learner.name: _curve(table, one) for one in shown}
    values = np.concatenate(list(curves.values()))
    # An error of one bad trial would press all others to the ground.
    y = spanning(values, log=table.sign < 0 and needs_log(values, 8.0), margin=0.06)
    largest = max(one.curves.n for one in shown)
    x = Axis(1.0, float(largest), "k, number of trials", False, setting, tuple(map(float, _whole_ticks(largest))))
    title = f"expected best of k trials, validation {table.metric}, {short(table.workload, 50)}"

    def draw(panel: Panel, learner: Learner, _: float) -> tuple[float, float] | None:
        line = curves[learner.name]
        ks = np.arange(1.0, line.size + 1)
        marked_line(panel, ks, line, learner.style)
        return end_of(panel, ks, line)

    caption = (
        "What the best of k trials reaches on average, over all ways to draw k of those that were run; it is on the "
        "validation metric that trials are chosen by, so it flatters. A line begins at the least k of which no draw "
        "can hold failed trials alone: below, the expectation is failed."
    )
    learners, stem = [one.learner for one in shown], slug("best_of_k", table.workload)
    return together(stem, title, f"{title}: one line a learner", learners, (x, y), draw, caption)


def _curve(table: Table, one: Searched) -> Array:
    """Return E_k in the metric's unit, NaN where it is failed."""
    return np.array([in_metric(e, table.sign) if math.isfinite(e) else math.nan for e in one.curves.expected])


def _whole_ticks(largest: int) -> list[int]:
    """Return the ticks of an axis of counts from 1: at most eight whole numbers, evenly apart.

    >>> _whole_ticks(5), _whole_ticks(16)
    ([1, 2, 3, 4, 5], [1, 4, 8, 12, 16])
    """
    step = next(step for power in range(12) for step in (10**power, 2 * 10**power, 4 * 10**power) if largest / step < 8)
    return sorted({1, *range(step, largest + 1, step)})


def sensitivity(table: Table, found: Sequence[Searched]) -> list[Figure]:
    """Draw every trial against each searched option, a figure an option (and group of learners if there are many)."""
    options: dict[str, list[Searched]] = {}
    for one in found:
        for option in one.tuning.options:
            options.setdefault(option.path, []).append(one)
    figures: list[Figure] = []
    # The option that most learners share, nearly always the learning rate, comes first.
    for path in sorted(options, key=lambda path: (-len(options[path]), path)):
        parts = groups(list({one.learner.name: one.learner for one in options[path]}.values()))
        y = _value_axis(table, options[path])
        for part, learners in enumerate(parts):
            chosen = [one for one in options[path] if one.learner in learners]
            figures.append(_sensitivity(table, path, chosen, y, part, len(parts), not figures))
    return figures


def _value_axis(table: Table, found: Sequence[Searched]) -> Axis:
    scores = [score(table, *trial.runs) for one in found for trial in one.tuning.trials]
    values = [in_metric(value, table.sign) for value in scores if math.isfinite(value)]
    values += [at for one in found if (at := _at_default(table, one.learner)) is not None]
    return spanning(values, log=table.sign < 0 and needs_log(values), margin=0.06)


def _at_default(table: Table, learner: Learner) -> float | None:
    """Return the median validation metric of a learner's runs at its defaults, None where it failed or has none."""
    runs = [] if learner.tuned else table.tried(learner.name)
    middle = median(np.array([score(table, run) for run in runs])) if runs else -math.inf
    return in_metric(middle, table.sign) if math.isfinite(middle) else None


class OptionScale:
    """The horizontal axis of an option that several learners search: one range around all, or the choices of all."""

    def __init__(self, path: str, options: Sequence[Option], values: Sequence[Any]) -> None:
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        limits = [at for one in options for at in (one.low, one.high) if at is not None]
        named = any(one.choices for one in options) or len(numbers) < len(values)
        self.names = list(dict.fromkeys(setting(v) for v in [*(c for one in options for c in one.choices), *values]))
        if not named:
            self.names = []
            log = all(one.log for one in options) and min([*limits, *numbers], default=0.0) > 0
            self.axis = spanning(
                [*limits, *map(float, numbers)], path + (", log scale" if log else ""), log, setting, 0.02
            )
        else:
            places = tuple(float(place) for place in range(len(self.names)))
            self.axis = Axis(-0.5, len(self.names) - 0.5, path, False, lambda at: self.names[round(at)], places)

    def at(self, value: Any, shift: float) -> float:
        """Place a value in data units; choices are spread by `shift`, -0.5 to 0.5, so that learners part."""
        return self.names.index(setting(value)) + 0.7 * shift if self.names else float(value)


def _sensitivity(
    table: Table, path: str, found: Sequence[Searched], y: Axis, part: int, parts: int, first: bool
) -> Figure:
    declared = [option for one in found for option in one.tuning.options if option.path == path]
    values = [t.values[path] for one in found for t in one.tuning.trials if t.values.get(path) is not None]
    defaults = [option.default for option in declared if option.default is not None]
    scale = OptionScale(path, declared, [*values, *defaults])
    failed = [one for one in found if one.curves.failed]
    strip = 8.0 + 6.0 * len(failed) if failed else 0.0
    learners = list({one.learner.name: one.learner for one in found}.values())
    tall = 300.0 - TOP - BOTTOM
    left = max(left_margin(y, tall), 40.0)
    legend = _legend(learners, left)
    top = TOP + LINE * (1 + max(row for _, row, _, _ in legend)) + 4.0
    height = top + strip + tall + BOTTOM
    title = f"validation {table.metric} of every trial over {short(path, 40)}, {short(table.workload, 40)}"
    canvas = Canvas(WIDE, height, title)
    heading(canvas, title, part, parts)
    for learner, row, across, text in legend:
        key(canvas, across, TOP + LINE * row + 2, learner.style, 20)
        canvas.text(across + 24, TOP + LINE * row + 5.6, text, learner.style.colour, LABEL, bold=True)
    # Failed trials stand at the worse edge: below where more is better, above where less is.
    above = bool(strip) and table.sign < 0
    bare = Axis(scale.axis.low, scale.axis.high, "", scale.axis.log, scale.axis.write, scale.axis.fixed)
    box = (left, top + (strip if above else 0.0), WIDE - left - RIGHT, tall)
    below = bool(strip) and not above
    panel = Panel(canvas, box, bare if below else scale.axis, y, show_x=not below)
    edge = None
    if strip:
        edge_top = top if above else top + tall
        canvas.boxes([(left, edge_top, box[2], strip)], "band")
        flat = Axis(0.0, 1.0, "", False, setting, ())
        edge = Panel(canvas, (left, edge_top, box[2], strip), scale.axis if below else bare, flat, below, show_y=False)
        canvas.text(left - 5, edge_top + strip / 2 + 3.4, "failed", "soft", TICK, "end")
    for place, one in enumerate(found):
        shift = (place - (len(found) - 1) / 2) / max(len(found), 1)
        _trials(table, path, one, panel, scale, shift)
        if edge is not None and one in failed:
            xs = [
                scale.at(t.values[path], shift)
                for t in one.tuning.trials
                if t.values.get(path) is not None and math.isinf(score(table, *t.runs))
            ]
            places, _ = edge.at(xs, [0.5] * len(xs))
            down = edge.top + 4 + 6.0 * (failed.index(one) + 0.5)
            canvas.markers(places, [down] * len(xs), "cross", one.learner.style.colour, 6.5)
    caption = (
        "Every trial a marker at the option's value, on the scale of its declared space; a line joins them where "
        "nothing else was searched. The large marker is the default, at the median of the learner's runs with it (a "
        "tick on the axis where these failed or are missing). Crosses at the edge: failed trials."
    )
    stem = slug("sensitivity", table.workload, path) + (f"-{part + 1}" if parts > 1 else "")
    return Figure(stem, canvas, caption if first else "")


def _trials(table: Table, path: str, one: Searched, panel: Panel, scale: OptionScale, shift: float) -> None:
    """Draw one learner's trials, and its default."""
    style = one.learner.style
    points = sorted(
        (scale.at(trial.values[path], shift), score(table, *trial.runs))
        for trial in one.tuning.trials
        if trial.values.get(path) is not None
    )
    xs = np.array([x for x, _ in points], dtype=float)
    ys = np.array([in_metric(s, table.sign) if math.isfinite(s) else math.nan for _, s in points], dtype=float)
    if len(one.tuning.options) == 1 and not scale.names:
        panel.line(xs, ys, style.colour, 1.1 * style.width, style.dash, 0.7)
    panel.canvas.markers(*panel.at(xs, ys), style.marker, style.colour, 5.5, 0.85)
    default = next(option.default for option in one.tuning.options if option.path == path)
    if default is None:
        return
    at, height = scale.at(default, shift), _at_default(table, one.learner)
    across, down = panel.at([at], [panel.y.low if height is None else height])
    shape, size = ("tick", 13.0) if height is None else (style.marker, 12.0)
    panel.canvas.markers(across, down, shape, style.colour, size)


def _legend(learners: Sequence[Learner], left: float) -> list[tuple[Learner, int, float, str]]:
    """Return where the learners' keys stand above a panel: row, position and name, as many in a row as it holds."""
    placed = []
    row, across = 0, left
    for learner in learners:
        text = fit(learner.name, WIDE - left - 24 - RIGHT, LABEL, bold=True)
        width = 24 + text_width(text, LABEL, bold=True)
        if across > left and across + width > WIDE - RIGHT:
            row, across = row + 1, left
        placed.append((learner, row, across, text))
        across += width + 14
    return placed
