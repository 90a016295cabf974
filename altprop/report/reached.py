"""Which learner reaches the same target on which workload of one data set, as a map."""

from __future__ import annotations

from collections.abc import Sequence

from altprop.report.draw import Figure, told_map
from altprop.report.model import Learner, Report, Table
from altprop.report.times import outcomes

MIN_WORKLOADS = 3
"""Workloads that make a map."""


def reached(report: Report) -> list[Figure]:
    """Draw the share of runs that meet the middle target: learners down, workloads across; [] for fewer than three.

    A learner that was tuned everywhere stands there as tuned alone. Controls are left out.
    """
    tables = [table for table in report.tables if table.targets]
    if len(tables) < MIN_WORKLOADS:
        return []
    learners = _shown(report, tables)
    targets = [list(table.targets)[len(table.targets) // 2] for table in tables]
    columns = _without_common([table.workload for table in tables])

    def cell(r: int, c: int) -> tuple[str, float, str]:
        # Where every trial broke down nothing was chosen, and the defaults stand for the learner.
        name, table = learners[r].name, tables[c]
        name = name if name in table.runs else name.removesuffix("·tuned")
        found = outcomes(table, name, targets[c], "flops") if name in table.runs else []
        hits = sum(outcome.hit for outcome in found)
        text = f"{hits} of {len(found)}" if found else "–"
        return ("c0", 0.15 + 0.55 * hits / len(found), text) if hits else ("band", 1.0, text)

    names = [one.name.removesuffix("·tuned") for one in learners]
    label = "share of runs that reach the middle target, by learner and workload"
    title = f"runs that reach the target {', '.join(dict.fromkeys(targets))}"
    caption = "Every workload has the same data and target; the darker, the more of the seeds arrive."
    return [told_map("reached", title, label, names, columns, cell, caption)]


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
