"""Seconds a step, from timing records that match the runs: the only source of what the report claims about time."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from altprop.records import timing as records
from altprop.records.record import Record
from altprop.records.timing import Timed, Timing
from altprop.report.format import plural
from altprop.report.model import Report, Table
from altprop.report.step_time import StepTime, TableTiming

Pair = tuple[str, str]


def attach(report: Report, runs: Sequence[Path]) -> Report:
    """Give every table the timing record that matches its runs; say what is left out, and why.

    Args:
        report: without times.
        runs: folders of records.
    """
    timings, notes = records.load_timings(list(runs))
    known = {table.workload for table in report.tables}
    elsewhere = sorted({one.workload for one in timings} - known)
    if elsewhere:
        notes.append(f"Timing records of workloads without runs here are ignored: {', '.join(elsewhere)}.")
    tables = []
    for table in report.tables:
        chosen, said = _choose(table, [one for one in timings if one.workload == table.workload])
        notes += said
        tables.append(table if chosen is None else _timed(table, chosen))
    return replace(report, tables=tables, timing_notes=notes)


def _timed(table: Table, timing: TableTiming) -> Table:
    """Count the seconds of every run by the step, where all learners can be."""
    if not timing.complete:
        return replace(table, timing=timing)
    runs = {
        name: [replace(run, step_seconds=timing.rows[name].cpu if name in timing.rows else None) for run in group]
        for name, group in table.runs.items()
    }
    return replace(table, runs=runs, timing=timing)


def _choose(table: Table, timings: Sequence[Timing]) -> tuple[TableTiming | None, list[str]]:
    """Return the record that times most of a table's learners, of equals the latest; and sentences on the ignored."""
    owners = {_cell(run.record): name for name in table.runs for run in table.tried(name)}
    notes = []
    usable = []
    for timing in timings:
        matched, sentence = _match(table, timing, owners)
        notes += [sentence] if sentence else []
        if any(one.cpu for one in matched.values()):
            usable.append((timing, matched))
    if not usable:
        return None, notes
    timing, matched = max(usable, key=lambda pair: sum(bool(one.cpu) for one in pair[1].values()))
    if len(usable) > 1:
        left = plural(len(usable) - 1, "timing record")
        notes.append(f"Ignored: {left} of {table.workload} with fewer learners, or earlier than the one that is shown.")
    return _summarise(table, timing, matched), notes


def _cell(record: Record) -> Pair:
    """Return what a timing must agree with: the cell's key and the fingerprint."""
    return str(record.data.get("cell") or ""), str(record.data["provenance"].get("fingerprint") or "")


def _match(table: Table, timing: Timing, owners: dict[Pair, str]) -> tuple[dict[str, Timed], str]:
    """Return learner -> its entry in a timing record, and a sentence on the entries that match no run."""
    cells = {cell: name for (cell, _), name in owners.items()}
    matched = {cells[one.cell]: one for one in timing.learners if not one.cpu and one.cell in cells}
    done = [one for one in timing.learners if one.cpu]
    matched |= {owners[pair]: one for one in done if (pair := (one.cell, one.fingerprint)) in owners}
    strange = [one.label for one in done if one.cell not in cells]
    other = [one.label for one in done if one.cell in cells and (one.cell, one.fingerprint) not in owners]
    said = []
    if other:
        said.append(f"{', '.join(other)} (timed on another machine or with other versions than the runs)")
    if strange:
        said.append(f"{', '.join(strange)} (no run here has their key: other code or settings, or not in this report)")
    return matched, f"Ignored in a timing record of {table.workload}: {'; '.join(said)}." if said else ""


def _summarise(table: Table, timing: Timing, matched: dict[str, Timed]) -> TableTiming:
    base = matched.get(table.reference or "")
    reference = table.reference if base is not None and base.cpu else None
    rows, untimed, complete = {}, {}, True
    for name in table.runs:
        one = matched.get(name)
        if one is not None and one.cpu:
            rows[name] = _step_time(name, one, base if reference and name != reference else None)
        elif table.tried(name):
            untimed[name] = one.reason if one is not None and one.reason else "not in the timing record"
            complete = complete and not any(run.ended for run in table.tried(name))
    return TableTiming(rows, untimed, int(timing.data["rounds"]), reference, complete)


def _step_time(name: str, one: Timed, base: Timed | None) -> StepTime:
    ratios = records.ratios(one.cpu, base.cpu) if base is not None else []
    return StepTime(
        name=name,
        cpu=statistics.median(one.cpu),
        wall=statistics.median(one.wall),
        interval=records.median_interval(one.cpu),
        spread=records.spread(one.cpu),
        ratio=records.median_interval(ratios) if ratios else None,
        ratio_spread=records.spread(ratios) if ratios else 0.0,
        kinds={kind: statistics.median(values) for kind, values in (one.breakdown or {}).items()},
        block=one.block,
        first=one.first,
        again=one.again,
    )
