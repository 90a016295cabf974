"""Sections 0 and 1: what each learner reached on each workload, with intervals, tests and flags."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from altprop.report.canvas import Canvas, fit, text_width
from altprop.report.draw import WIDE, Figure, heading, key, name_of, name_width, slug
from altprop.report.format import number, places, plural, short
from altprop.report.model import Learner, Report, Run, Table, as_number
from altprop.report.paired import Comparison, compare_family
from altprop.report.panel import LABEL, TICK, Axis, Panel, needs_log, spanning
from altprop.report.statistics import Interval, Summary, median, median_interval, summarise


@dataclass(frozen=True)
class Row:
    """A learner's final results on one workload, in the metric's own unit and direction.

    Attributes:
        learner: whose they are. runs: all of them, the refused ones included.
        summary: of the scores (more is better); None if every run was refused.
        median: of the metric; -inf where it falls on a failure, None without runs.
        middle: the median with its exact interval, or with the range of all runs where these are too few for one.
        mean, iqm: of the metric, with limits; None where the rules forbid them.
        best: median over seeds of the metric at each run's best validation point.
        share: median as a share of the gap from chance to the tuned reference.
        to_oracle: what is missing to the oracle, more is worse.
        comparison: against the reference, in score units.
        difference: mean paired difference in the metric's unit, more being more.
        flags: sentences that must stand beside the row.
    """

    learner: Learner
    runs: list[Run]
    summary: Summary | None = None
    median: float | None = None
    middle: Interval | None = None
    mean: Interval | None = None
    iqm: Interval | None = None
    best: float | None = None
    share: float | None = None
    to_oracle: float | None = None
    comparison: Comparison | None = None
    difference: Interval | None = None
    flags: tuple[str, ...] = ()

    @property
    def score(self) -> float:
        """Median score for ordering; minus infinity where it is failed or there is none."""
        return -math.inf if self.summary is None else self.summary.median


def in_metric(score: float, sign: int) -> float:
    """Return a score as a value of the metric; a failure stays minus infinity, whichever way the metric points.

    >>> in_metric(-0.25, -1), in_metric(-math.inf, -1)
    (0.25, -inf)
    """
    return score if math.isinf(score) else sign * score + 0.0


def interval_in_metric(interval: Interval | None, sign: int) -> Interval | None:
    """Return an interval of scores as one of the metric, a limit that falls on a failure staying minus infinity."""
    if interval is None or sign > 0 or math.isinf(interval.estimate):
        return interval
    flipped = interval.flipped()
    return replace(flipped, high=-math.inf) if flipped.high == math.inf else flipped


_SHARES = {"accuracy", "f1", "auc", "precision", "recall"}
_SIZES = {"loss", "error", "mse", "rmse", "nmse", "mae", "ndei", "gap", "perplexity"}


def limits_of(table: Table) -> tuple[float, float]:
    """Return what the metric can be, by its name and as long as no value contradicts it."""
    told = set(table.metric.lower().split("_"))
    low, high = (0.0, 1.0) if told & _SHARES else (0.0, math.inf) if told & _SIZES else (-math.inf, math.inf)
    values = [in_metric(s, table.sign) for name in table.runs for s in table.scores(name).values() if math.isfinite(s)]
    return (low, high) if all(low <= value <= high for value in values) else (-math.inf, math.inf)


def within(interval: Interval | None, limits: tuple[float, float]) -> Interval | None:
    """Return an interval cut off at what the metric can be; a limit that falls on a failure stays.

    >>> within(Interval(0.98, 0.95, 1.02, "t"), (0.0, 1.0))
    Interval(estimate=0.98, low=0.95, high=1.0, method='t')
    """
    if interval is None:
        return None
    low, high = (
        end if end is None or math.isinf(end) else min(max(end, limits[0]), limits[1])
        for end in (interval.low, interval.high)
    )
    return replace(interval, low=low, high=high)


def rows(report: Report, table: Table) -> list[Row]:
    """Return one row a learner, in the order of the learners."""
    names = [name for name in table.runs if table.tried(name)]
    reference = table.reference if table.reference in names else None
    family = {name: table.scores(name) for name in names if _tested(report, name)}
    compared = compare_family(family, reference, table.margin) if reference else {}
    summaries = {name: summarise(list(table.scores(name).values())) for name in names}
    made, limits = [], limits_of(table)
    for name, runs in table.runs.items():
        learner = report.by_name[name]
        summary = summaries.get(name)
        if summary is None:
            made.append(Row(learner, runs))
            continue
        comparison = compared.get(name)
        value = in_metric(summary.median, table.sign)
        oracle = as_number(table.facts.get("oracle"))
        finite = math.isfinite(value)
        made.append(
            Row(
                learner,
                runs,
                summary,
                value,
                interval_in_metric(_middle(list(table.scores(name).values()), summary), table.sign),
                within(interval_in_metric(summary.mean, table.sign), limits),
                within(interval_in_metric(summary.iqm, table.sign), limits),
                _best(table, name),
                (value - table.unit[0]) / table.unit[1] if table.unit and finite else None,
                table.sign * (oracle - value) if oracle is not None and finite else None,
                comparison,
                interval_in_metric(comparison.difference, table.sign) if comparison else None,
                _flags(report, table, learner, summaries),
            )
        )
    return made


def _middle(scores: list[float], summary: Summary) -> Interval:
    found = median_interval(scores)
    return replace(found, low=summary.low, high=summary.high, method="range") if found.low is None else found


def _tested(report: Report, learner: str) -> bool:
    """Return whether a learner is of the family of tests: controls are there to fail, and a twin is there already."""
    return report.by_name[learner].reference or not (report.by_name[learner].control or learner in report.twins)


def _best(table: Table, learner: str) -> float | None:
    values = []
    for run in table.tried(learner):
        value = run.value("test_best" if table.quality == "test" else "validation_best")
        values.append(table.sign * value if run.ended and value is not None else -math.inf)
    if not values or all(math.isinf(value) for value in values):
        return None
    return in_metric(median(np.array(values)), table.sign)


def _flags(report: Report, table: Table, learner: Learner, summaries: dict[str, Summary]) -> tuple[str, ...]:
    """Return what a reader must not overlook: it is at chance or below, or does not beat a control."""
    mine = summaries[learner.name]
    found = [f"the results of {report.twins[learner.name]}, to the digit"] if learner.name in report.twins else []
    chance = as_number(table.facts.get("chance"))
    if chance is not None and math.isfinite(mine.median):
        # Scores near chance scatter around it: what counts is where their interval lies.
        level = table.sign * chance
        limits = (mine.mean.low, mine.mean.high) if mine.mean is not None else (None, None)
        low, high = (mine.median if limit is None else limit for limit in limits)
        if learner.control:
            found += ["control beaten by chance"] if high < level else ["at chance"] if low <= level else []
        elif mine.median <= level:
            found.append("not above chance")
        elif low <= level:
            found.append("cannot be told from chance")
    if not learner.control:
        controls = [one for one in report.learners if one.control and one.name in summaries]
        unbeaten = [one.name for one in controls if summaries[one.name].median >= mine.median]
        if unbeaten:
            found.append("does not beat " + ", ".join(unbeaten))
    return tuple(found)


def dots(report: Report, table: Table, found: list[Row]) -> Figure | None:
    """Draw every seed's final metric as a dot, the median as a bar, the interval as a line; failures at the edge."""
    shown = [row for row in found if row.summary is not None]
    if not any(row.summary.ended for row in shown if row.summary):
        return None
    pitch, top, bottom = 22.0, 44.0, 40.0
    height = top + pitch * len(shown) + bottom
    left = 38 + name_width([row.learner for row in shown])
    right = 40.0
    values = [in_metric(score, table.sign) for row in shown for score in table.scores(row.learner.name).values()]
    marks = table.marks
    finite = [value for value in values if math.isfinite(value)]
    # What is better the higher it is has its best at the top, where a logarithm would crowd those that are good.
    wide = needs_log([*finite, *(value for _, value in marks if value > 0)]) and min(finite, default=0) > 0
    log = wide and table.sign < 0
    inside = [value for _, value in marks if value > 0 or not log]
    x = spanning(
        [*finite, *inside], f"{table.quality} {table.metric}" + (", log scale" if log else ""), log, margin=0.03
    )
    title = f"final {table.quality} {table.metric}, {short(table.workload, 60)}"
    canvas = Canvas(WIDE, height, f"{title}: every seed of every learner, median and interval")
    heading(canvas, title)
    box = (left, top, WIDE - left - right, pitch * len(shown))
    panel = Panel(canvas, box, x, Axis(0.0, 1.0), show_y=False)
    _uprights(panel, marks)
    for place, row in enumerate(shown):
        _dot_row(panel, table, row, top + pitch * (place + 0.5))
    caption = (
        "Every seed a marker, the bar is the median. The line is the 95 % t-interval of the mean, drawn only where no "
        "run failed; k/n counts the runs that came to their end. Dotted uprights: chance, oracle and baselines."
    )
    return Figure(slug("final", table.workload), canvas, caption)


def _uprights(panel: Panel, marks: list[tuple[str, float]]) -> None:
    """Draw dotted uprights with their names above, on two levels so that neighbours do not run into each other."""
    canvas = panel.canvas
    ends = [-math.inf, -math.inf]
    for name, value in sorted(marks, key=lambda mark: mark[1]):
        place = float(panel.x.place([value])[0])
        if not -1e-9 <= place <= 1 + 1e-9:
            continue
        across = panel.left + place * panel.width
        canvas.line([across, across], [panel.top - 3, panel.bottom], "soft", 0.9, (1.5, 2.5))
        text = fit(name, 90, TICK - 1)
        half = text_width(text, TICK - 1) / 2
        across = min(max(across, half), canvas.width - half)
        level = next((index for index, end in enumerate(ends) if across - half > end), None)
        if level is not None:
            ends[level] = across + half + 4
            canvas.text(across, panel.top - 6 - 10 * level, text, "soft", TICK - 1, "middle")


def _dot_row(panel: Panel, table: Table, row: Row, y: float) -> None:
    canvas, style, summary = panel.canvas, row.learner.style, row.summary
    assert summary is not None  # The caller draws only these.
    canvas.segments([(panel.left, y + 11, panel.right, y + 11)], "line", 0.5)
    key(canvas, 2, y, style, 20)
    canvas.text(28, y + 3.6, name_of(row.learner), style.colour, LABEL, bold=True)
    if row.mean is not None and row.mean.low is not None and row.mean.high is not None:
        low = max(row.mean.low, panel.x.low)
        across, _ = panel.at([low, row.mean.high], [0.5, 0.5])
        canvas.line(across, [y, y], style.colour, 4.5, None, 0.25)
    scores = np.array(list(table.scores(row.learner.name).values()))
    values = np.array([in_metric(score, table.sign) for score in scores if math.isfinite(score)])
    if values.size:
        across, _ = panel.at(values, np.full(values.size, 0.5))
        canvas.markers(across, np.full(values.size, y), style.marker, style.colour, 6.5, 0.8)
    if row.median is not None and math.isfinite(row.median):
        across, _ = panel.at([row.median], [0.5])
        canvas.markers(across, [y], "tick", "ink", 14)
    note = f"{summary.ended}/{summary.n}"
    canvas.text(WIDE - 2, y + 3.6, note, "ink" if summary.failed else "soft", TICK, "end", bold=bool(summary.failed))
    if summary.failed and row.median is not None and math.isinf(row.median):
        canvas.text(panel.right - 4, y + 3.6, "median failed", "ink", TICK, "end")


def described(row: Row) -> str:
    """Describe a learner's result in words: the median with its interval, and the count of runs."""
    summary, middle = row.summary, row.middle
    assert summary is not None  # Asked only of learners that ran.
    assert middle is not None
    text = f"median {number(row.median)}"
    if summary.n > 1 and middle.low is not None and middle.high is not None and math.isfinite(middle.estimate):
        kind = "all runs" if middle.method == "range" else "95 % interval"
        low, high = (number(limit, places(middle)) for limit in (middle.low, middle.high))
        text += f" ({kind} {low} to {high})"
    completed = "all" if not summary.failed else f"{summary.ended} of"
    return f"{text}, {completed} {plural(summary.n, 'run')} completed"
