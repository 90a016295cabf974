"""Which learner reaches the same target on which workload of one task, as a map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from altprop.report.data_sets import data_sets
from altprop.report.draw import Figure, told_map
from altprop.report.format import MISSING, brief
from altprop.report.model import Learner, Report, Table
from altprop.report.results import in_metric
from altprop.report.statistics import median
from altprop.report.times import outcomes

MIN_WORKLOADS = 3
"""Workloads that make a map."""
MAX_WITH_MEDIANS = 4
"""Workloads beside which a cell has room for a median."""


def reached(report: Report) -> list[Figure]:
    """Draw the share of runs that meet the middle target, and their median at the end: learners down, workloads across.

    A learner that was tuned everywhere stands there as tuned alone. Controls are left out. There is no map for fewer
    than three workloads, nor for those of several tasks.
    """
    tables = [table for table in report.tables if table.targets]
    tasks = {table.workload.partition("[")[0] for table in report.tables}
    if len(tables) < MIN_WORKLOADS or len(tasks) > 1:
        return []
    learners = shown(report, tables)
    targets = [list(table.targets)[len(table.targets) // 2] for table in tables]
    columns = [name.replace(", ", ",\n") for name in _without_common([table.workload for table in tables])]
    with_medians = len(tables) <= MAX_WITH_MEDIANS

    def cell(r: int, c: int) -> tuple[str, float, str]:
        # Where every trial broke down nothing was chosen, and the defaults stand for the learner.
        name, table = learners[r].name, tables[c]
        name = name if name in table.runs else name.removesuffix("·tuned")
        found = outcomes(table, name, targets[c], "flops") if name in table.runs else []
        hits = sum(outcome.hit for outcome in found)
        text = f"{hits} of {len(found)}" if found else MISSING
        text += f" · {brief(_typical(table, name))}" if found and with_medians else ""
        return ("c0", 0.15 + 0.55 * hits / len(found), text) if hits else ("band", 1.0, text)

    names = [one.name.removesuffix("·tuned") for one in learners]
    label = "share of runs that reach the middle target, by learner and workload"
    title = f"runs that reach the target {', '.join(dict.fromkeys(targets))}"
    same = "data" if len(data_sets(tables)) == 1 else "task"
    caption = f"Every workload has the same {same} and target; the darker, the more of the seeds arrive."
    if with_medians:
        caption += (
            f" Beside their number stands the median over the seeds of the {tables[0].quality} {tables[0].metric}."
        )
    return [told_map("reached", title, label, names, columns, cell, caption)]


def _typical(table: Table, name: str) -> float:
    return in_metric(median(np.array([table.score(run) for run in table.runs[name]])), table.sign)


def shown(report: Report, tables: Sequence[Table]) -> list[Learner]:
    """Return who ran these workloads, without controls; a learner that was tuned stands there as tuned alone."""
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
