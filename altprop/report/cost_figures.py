"""The drawings of section 5: quality against FLOPs and memory with the Pareto frontier, and where the FLOPs go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from altprop.records.timing import KINDS
from altprop.report.canvas import Canvas, text_width
from altprop.report.cost import CostRow
from altprop.report.draw import WIDE, Figure, heading, key, name_of, name_width, slug
from altprop.report.format import count, octets, seconds, short
from altprop.report.health_figures import shades
from altprop.report.model import CURRENCIES, Learner, Report, Run, Table, as_number
from altprop.report.panel import LABEL, TICK, Axis, Panel, left_margin, needs_log, spanning, y_ticks
from altprop.report.results import in_metric

SHADE = {"forward": 1, "block passes": 3, "backward": 5, "products": 8, "population": 11, "update": 14}


@dataclass(frozen=True)
class Point:
    """A learner in a plane of cost and quality: each ended run and their median; of `score` more is better."""

    learner: Learner
    costs: list[float]
    values: list[float]
    cost: float
    value: float
    score: float


def points(report: Report, table: Table, cost: str) -> list[Point]:
    """Return the quality at each run's best validation point, against its cost.

    The cost is what was spent up to there, or the peak of a kind of bytes. A learner whose median run
    failed has no point.
    """
    found = []
    for name in table.runs:
        tried = table.tried(name)
        pairs = [pair for run in tried if (pair := _pair(table, run, cost)) is not None]
        if 2 * len(pairs) > len(tried):
            costs, values = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            scores = sorted([table.sign * v for v in values] + [-math.inf] * (len(tried) - len(pairs)))
            score = (scores[(len(scores) - 1) // 2] + scores[len(scores) // 2]) / 2
            middle = in_metric(score, table.sign)
            found.append(Point(report.by_name[name], costs, values, float(np.median(costs)), middle, score))
    return found


def _pair(table: Table, run: Run, cost: str) -> tuple[float, float] | None:
    """Return (cost, quality) of a run that ended."""
    value = run.value("test_best") if table.quality == "test" else run.value("validation_best")
    value = value if value is not None else run.value(table.quality)
    if not run.ended or value is None or not math.isfinite(value):
        return None
    if cost in CURRENCIES:
        curve = run.curve("test_best", table.metric)
        spent = float(curve.x[cost][-1]) if curve is not None else run.spent(cost)
    else:
        spent = run.octets(cost)
    return None if spent is None or not math.isfinite(spent) else (spent, value)


def frontier(found: Sequence[Point]) -> list[Point]:
    """Return the points that no other one beats in cost and quality at once, by rising cost."""
    best, kept = -math.inf, []
    for point in sorted(found, key=lambda point: (point.cost, -point.score)):
        if point.score > best:
            best = point.score
            kept.append(point)
    return kept


def pareto(report: Report, table: Table, cost: str, title: str) -> Figure | None:
    """Draw quality against a cost, every ended run small, the median large, the frontier of the medians joined."""
    found = points(report, table, cost)
    if not found:
        return None
    height, top, bottom, right = 320.0, 26.0, 40.0, 20.0
    tall = height - top - bottom
    values = [value for point in found for value in point.values]
    chance = as_number(table.facts.get("chance"))
    y = spanning(
        [*values, *([chance] if chance is not None else [])], log=table.sign < 0 and needs_log(values), margin=0.07
    )
    costs = [value for point in found for value in point.costs]
    positive = [value for value in costs if value > 0]
    log = needs_log(positive, 8.0)
    write = {"flops": count, "cpu_seconds": seconds}.get(cost, octets)
    x = spanning(positive if log else [0.0, *costs], title + (", log scale" if log else ""), log, write, 0.06)
    if not log:
        x = Axis(0.0, x.high, x.label, False, write)
    strip = 34.0 if log and len(positive) < len(costs) else 0.0
    left = left_margin(y, tall)
    where = f"{table.quality} {table.metric} at best validation, {short(table.workload, 60)}"
    canvas = Canvas(WIDE, height, f"{where}, against {title}")
    heading(canvas, where)
    panel = Panel(canvas, (left + strip, top, WIDE - left - strip - right, tall), x, y, show_y=not strip)
    if strip:
        panel = _with_zero(canvas, panel, left, strip)
    taken: list[tuple[float, float, float, float]] = []
    if chance is not None:
        panel.level(chance, "soft", (1.5, 2.5))
        down = float(panel.at([x.high], [chance])[1][0])
        canvas.text(panel.right - 4, down - 3, "chance", "soft", TICK - 1, "end")
        taken.append((panel.right - 40, down - 12, panel.right, down))

    def spot(cost: float, value: float) -> tuple[float, float]:
        across, down = panel.at([cost if cost > 0 or not log else x.low], [value])
        return (left + strip / 2 if log and cost <= 0 else float(across[0])), float(down[0])

    # Who is beaten in seconds is a claim about seconds.
    names = [point.learner.name for point in found]
    claimed = cost != "cpu_seconds" or (table.timing is not None and table.timing.claims(*names))
    edge = frontier(found) if claimed else []
    corners = []
    for before, after in zip([None, *edge], edge, strict=False):
        if before is not None:
            corners.append((spot(after.cost, after.value)[0], spot(before.cost, before.value)[1]))
        corners.append(spot(after.cost, after.value))
    if corners:
        canvas.line([c[0] for c in corners], [c[1] for c in corners], "grey", 1.0)
    for point in found:
        style = point.learner.style
        each = [spot(c, v) for c, v in zip(point.costs, point.values, strict=True)]
        canvas.markers([e[0] for e in each], [e[1] for e in each], style.marker, style.colour, 5.0, 0.45)
        a, b = spot(point.cost, point.value)
        canvas.markers([a], [b], style.marker, style.colour, 10.0)
        taken.append((a - 5, b - 5, a + 5, b + 5))
    for point in found:
        _label(
            canvas,
            point,
            *spot(point.cost, point.value),
            taken,
            (panel.left - strip, top, panel.right + right, panel.bottom),
        )
    line = "; the line joins the medians that nobody beats in quality and cost at once" if claimed else ""
    caption = (
        f"Every run that ended as a small marker, the median large{line}. A learner whose median run failed has no "
        "marker."
    )
    if cost == "cpu_seconds" and table.timing is not None:
        caption += f" {table.timing.note}"
    return Figure(slug("pareto", table.workload, cost), canvas, caption)


def _with_zero(canvas: Canvas, panel: Panel, left: float, strip: float) -> Panel:
    """Draw a strip left of a logarithmic panel for a cost of zero, and the ticks of y left of that."""
    canvas.boxes([(left, panel.top, strip - 8, panel.height)], "band")
    canvas.text(left + (strip - 8) / 2, panel.bottom + 13, "0", "soft", TICK, "middle")
    ticks = panel.y.ticks(y_ticks(panel.height))
    for tick, text in zip(ticks, panel.y.labels(ticks), strict=True):
        down = panel.bottom - float(panel.y.place([tick])[0]) * panel.height
        canvas.text(left - 5, down + 3.4, text, "soft", TICK, "end")
    return panel


def _label(
    canvas: Canvas,
    point: Point,
    x: float,
    y: float,
    taken: list[tuple[float, float, float, float]],
    box: tuple[float, float, float, float],
) -> None:
    """Write a learner's name at the first free place around its marker; leave it out where all are taken."""
    text = name_of(point.learner)
    width = text_width(text, LABEL, bold=True) * 0.94
    for distance in (0.0, 12.0, 24.0, 38.0, 54.0, 72.0):
        for dx, dy, anchor in (
            (9, 3.5, "start"),
            (-9, 3.5, "end"),
            (0, -9 - distance, "middle"),
            (0, 17 + distance, "middle"),
        ):
            for shift in (0.0,) if distance == 0.0 or dx == 0 else (-distance, distance):
                left = x + dx - {"start": 0.0, "end": width, "middle": width / 2}[anchor]
                base = y + dy + (shift if dx else 0.0)
                area = (left - 1, base - 10, left + width + 1, base + 3)
                inside = area[0] >= box[0] and area[2] <= box[2] and area[1] >= box[1] - 8 and area[3] <= box[3]
                if inside and not any(_overlap(area, other) for other in taken):
                    if distance:
                        canvas.line([x, x + dx if dx else x], [y, base - 3], point.learner.style.colour, 0.6, None, 0.6)
                    canvas.text(x + dx, base, text, point.learner.style.colour, LABEL, anchor, bold=True)
                    taken.append(area)
                    return


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def breakdown(table: Table, rows: Sequence[CostRow]) -> Figure | None:
    """Draw the shares of FLOPs by kind, one bar a learner, the total beside it."""
    bars = [Bar(row.learner, row.kinds, count(row.flops)) for row in rows if row.kinds]
    caption = (
        "Shares of all FLOPs that the learner spent, over its runs; the total is the median run's. “Other” is what no "
        "primitive of the problem does."
    )
    return _bars(table, bars, KINDS, ("flops_by_kind", "where the FLOPs go", "total"), caption)


def time_breakdown(report: Report, table: Table) -> Figure | None:
    """Draw the shares of a step's CPU seconds by kind of work, one bar a learner, the median step beside it."""
    rows = table.timing.rows.values() if table.timing is not None else ()
    bars = [Bar(report.by_name[row.name], row.shares, seconds(row.cpu)) for row in rows if row.shares]
    caption = (
        "Shares of the CPU seconds of a step, timed in rounds of their own. “Other” is what no primitive of the "
        "problem does: a rule's own products, and its housekeeping. Beside it: the median step, of the counted rounds."
    )
    return _bars(table, bars, KINDS, ("seconds_by_kind", "where the seconds go", "a step"), caption)


@dataclass(frozen=True)
class Bar:
    """One learner's bar: kind -> share, and the text beside it."""

    learner: Learner
    shares: Mapping[str, float]
    total: str


def _bars(
    table: Table, bars: Sequence[Bar], kinds: Sequence[str], words: tuple[str, str, str], caption: str
) -> Figure | None:
    """Draw one bar a learner; `words` are the stem of the file's name, the title and the heading of the totals."""
    if not bars:
        return None
    stem, title, heads = words
    used = [kind for kind in kinds if any(bar.shares.get(kind, 0) > 0 for bar in bars)]
    keys, line, x = [], 0, 2.0
    for kind in used:
        width = 14 + text_width(kind, TICK)
        if x + width > WIDE - 12 - text_width(heads, TICK):
            line, x = line + 1, 2.0
        keys.append((kind, x, 25.0 + 15 * line))
        x += width + 12
    pitch, top, right = 21.0, 46.0 + 15 * line, 52.0
    left = 38 + name_width([bar.learner for bar in bars])
    height = top + pitch * len(bars) + 12
    what = "FLOPs" if stem == "flops_by_kind" else "CPU seconds"
    canvas = Canvas(WIDE, height, f"{what} by kind, {short(table.workload)}")
    heading(canvas, f"{title}, {short(table.workload, 60)}")
    for kind, x, y in keys:
        canvas.boxes([(x, y, 10, 10)], _colour(kind))
        canvas.text(x + 14, y + 9, kind, "soft", TICK)
    canvas.text(WIDE - 2, top - 12, heads, "soft", TICK, "end")
    room = WIDE - left - right
    boxes: dict[str, list[tuple[float, float, float, float]]] = {kind: [] for kind in used}
    for place, bar in enumerate(bars):
        y = top + pitch * place
        key(canvas, 2, y + 8, bar.learner.style, 20)
        canvas.text(28, y + 11.6, name_of(bar.learner), bar.learner.style.colour, LABEL, bold=True)
        start = left
        for kind in used:
            width = room * bar.shares.get(kind, 0.0)
            if width > 0:
                boxes[kind].append((start, y, max(width - 0.8, 0.4), 15))
            start += width
        canvas.text(WIDE - 2, y + 11.6, bar.total, "ink", TICK, "end")
    for kind in used:
        canvas.boxes(boxes[kind], _colour(kind))
    return Figure(slug(stem, table.workload), canvas, caption)


def _colour(kind: str) -> str:
    """Return the same colour for a kind in both breakdowns."""
    return shades()[SHADE[kind]] if kind in SHADE else "grey"
