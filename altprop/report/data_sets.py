"""Which workloads are of one data set: options, budgets and precisions make workloads, and no new data."""

from __future__ import annotations

from collections.abc import Sequence

from altprop.report.format import plural
from altprop.report.model import Report, Table


def data_sets(tables: Sequence[Table]) -> list[list[Table]]:
    """Group workloads by their data, in the order of each group's first.

    Two workloads are of one data set if some of their runs saw the same data, or if they have the same task and nothing
    tells their data apart: hashes of data in different precisions differ in any case.
    """
    groups: list[list[Table]] = []
    for table in tables:
        found = next((group for group in groups if any(_same(table, other) for other in group)), None)
        if found is None:
            groups.append([table])
        else:
            found.append(table)
    return groups


def weights(tables: Sequence[Table]) -> dict[str, float]:
    """Return workload -> its share in the data set that it is of."""
    return {table.workload: 1 / len(group) for group in data_sets(tables) for table in group}


def counted(report: Report) -> str:
    """Say how many tasks the report has, and workloads where these are more, in words."""
    groups = data_sets(report.tables)
    text = plural(len(groups), "task")
    return text if len(groups) == len(report.tables) else f"{text} in {plural(len(report.tables), 'workload')}"


def _same(one: Table, other: Table) -> bool:
    mine, theirs = _hashes(one), _hashes(other)
    if mine & theirs:
        return True
    task = _task(one) == _task(other)
    comparable = bool(mine and theirs) and _precisions(one) == _precisions(other)
    return task and not comparable


def _task(table: Table) -> str:
    return str((table.facts.get("axes") or {}).get("task") or table.workload)


def _hashes(table: Table) -> set[str]:
    found = (run.block("identity").get("data") for run in table.everything)
    return {str(value) for value in found if value is not None}


def _precisions(table: Table) -> set[str]:
    return {str(run.record.data["config"].get("dtype")) for run in table.everything}
