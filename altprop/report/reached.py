"""Which learner reaches the same target on which workload of one data set, as a map."""

from __future__ import annotations

from collections.abc import Sequence

from altprop.report.canvas import Canvas, fit, text_width
from altprop.report.draw import NAME, WIDE, Figure, heading
from altprop.report.model import Learner, Report, Table
from altprop.report.panel import TICK
from altprop.report.times import outcomes

FEWEST = 3
"""Workloads that make a map."""


def reached(report: Report) -> list[Figure]:
    """Draw the share of runs that meet the middle target: learners down, workloads across; [] for fewer than three.

    A learner that was tuned everywhere stands there as tuned alone. Controls are left out.
    """
    tables = [table for table in report.tables if table.targets]
    if len(tables) < FEWEST:
        return []
    learners = _shown(report, tables)
    targets = [list(table.targets)[len(table.targets) // 2] for table in tables]
    columns = _without_common([table.workload for table in tables])
    names = [fit(one.name.removesuffix("·tuned"), NAME, TICK) for one in learners]
    left, top, tall = 8 + max(text_width(name, TICK) for name in names), 42.0, 17.0
    wide = (WIDE - left - 2) / len(tables)
    label = "share of runs that reach the middle target, by learner and workload"
    canvas = Canvas(WIDE, top + tall * len(names) + 4, label)
    heading(canvas, f"runs that reach the target {', '.join(dict.fromkeys(targets))}")
    for c, name in enumerate(columns):
        canvas.text(left + wide * (c + 0.5), top - 6, fit(name, wide - 2, TICK), "soft", TICK, "middle")
    for r, (one, told) in enumerate(zip(learners, names, strict=True)):
        middle = top + tall * (r + 0.5) + 3.4
        canvas.text(left - 5, middle, told, "soft", TICK, "end")
        for c, (table, target) in enumerate(zip(tables, targets, strict=True)):
            # Where every trial broke down nothing was chosen, and the defaults stand for the learner.
            name = one.name if one.name in table.runs else one.name.removesuffix("·tuned")
            found = outcomes(table, name, target, "flops") if name in table.runs else []
            hits = sum(outcome.hit for outcome in found)
            box = [(left + wide * c, top + tall * r, wide - 0.7, tall - 0.7)]
            canvas.boxes(box, "band")
            if hits:
                canvas.boxes(box, "c0", 0.15 + 0.55 * hits / len(found))
            count = f"{hits} of {len(found)}" if found else "–"
            canvas.text(left + wide * (c + 0.5), middle, count, "ink" if hits else "soft", TICK, "middle")
    caption = "Every workload has the same data and target; the darker, the more of the seeds arrive."
    return [Figure("reached", canvas, caption)]


def _shown(report: Report, tables: Sequence[Table]) -> list[Learner]:
    ran = [one for one in report.learners if not one.control and any(table.tried(one.name) for table in tables)]
    tuned = {one.name.removesuffix("·tuned") for one in ran if one.tuned}
    return [one for one in ran if one.tuned or one.name not in tuned]


def _without_common(names: Sequence[str]) -> list[str]:
    """Return names without the task, where all have the same.

    >>> _without_common(["deep[depth=2]", "deep[depth=50]"])
    ['depth=2', 'depth=50']
    """
    stems = {name.partition("[")[0] for name in names}
    return [name.partition("[")[2].strip("[]") or name for name in names] if len(stems) == 1 else list(names)
