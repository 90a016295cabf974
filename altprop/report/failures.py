"""Sections 1 and 8: what was planned and what became of it, cell by cell, and every run that broke off."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

from altprop.records.status import RunStatus
from altprop.report.blocks import Block, Cell, Code, Fold, Points, Text, note
from altprop.report.format import plural
from altprop.report.model import ENDED, Learner, Report, Run, Table

_PLACE = re.compile(r'(?<=File ")[^"\n]*?/(?:site-packages/|python3\.\d+/(?!site-packages/)|(?=altprop/))')
"""The folders in front of a package's name in a line of a traceback."""


@dataclass(frozen=True)
class Matrix:
    """Learner x workload with a status in every cell, and the refusal sentences in their numbering.

    A cell says such as "2 completed, 1 diverged"; its kind is "good", "mixed", "bad", "refused" or "none".
    """

    rows: list[tuple[Learner, list[Cell]]]
    sentences: list[str]


def matrix(report: Report) -> Matrix:
    """Return what was compared; equal refusal sentences share a number."""
    numbers: dict[str, int] = {}
    rows = []
    for learner in report.learners:
        cells = []
        for table in report.tables:
            runs = table.runs.get(learner.name, [])
            refused = {str(run.record.data["reason"]) for run in runs if run.status == "refused"}
            notes = tuple(sorted(numbers.setdefault(reason, len(numbers) + 1) for reason in sorted(refused)))
            cells.append(_cell(runs, notes))
        rows.append((learner, cells))
    return Matrix(rows, list(numbers))


def _cell(runs: list[Run], notes: tuple[int, ...]) -> Cell:
    if not runs:
        return Cell("not run", kind="none")
    counts = Counter(run.status for run in runs)
    order = [status.value for status in RunStatus]
    # Seeds of a refused cell are refused all at once: no count is worth printing.
    if set(counts) == {"refused"}:
        return Cell("refused", kind="refused", notes=notes)
    text = ", ".join(f"{counts[status]} {words(status)}" for status in sorted(counts, key=order.index))
    good = sum(counts[status] for status in ENDED)
    mood = "good" if good == len(runs) else "mixed" if good else "bad"
    return Cell(text, kind=mood, notes=notes)


def words(status: str) -> str:
    """Return a status as people write it.

    >>> words("out_of_memory")
    'out of memory'
    """
    return status.replace("_", " ")


def tally(report: Report) -> str:
    """Say how all runs ended, in one phrase."""
    counts = Counter(run.status for run in report.runs)
    order = [status.value for status in RunStatus]
    return ", ".join(f"{counts[status]} {words(status)}" for status in sorted(counts, key=order.index))


@dataclass(frozen=True)
class Failure:
    """Runs of one cell that broke off in the same way.

    Attributes:
        runs: one a seed. status, meaning: how they ended, as a word and as a sentence.
        reason: what the record says. traceback: of the first run that has one, or empty.
        last: step of the last finite value of the first run, or None.
        commands: to run each of them again.
    """

    workload: str
    learner: str
    status: str
    meaning: str
    reason: str
    seeds: str
    last: int | None
    traceback: str
    commands: list[str]
    runs: list[Run]


def failures(report: Report) -> list[Failure]:
    """Return every run that neither ended properly nor was refused, like ones together, in the order of the tables."""
    found = []
    for table in report.tables:
        for name in table.runs:
            alike: dict[tuple[str, str], list[Run]] = defaultdict(list)
            for run in table.tried(name):
                if not run.ended:
                    alike[run.status, str(run.record.data["reason"])].append(run)
            found += [_failure(table, name, *kind, runs) for kind, runs in sorted(alike.items())]
    return found


def _portable(traceback: str) -> str:
    """Return a traceback without the folders in which altprop and libraries lie on the machine that ran.

    >>> _portable('File "/home/me/.venv/lib/python3.11/site-packages/torch/x.py", line 1')
    'File "torch/x.py", line 1'
    >>> _portable('File "/home/me/altprop/rule.py", line 1, File "/usr/lib/python3.11/json/a.py"')
    'File "altprop/rule.py", line 1, File "json/a.py"'
    """
    return _PLACE.sub("", traceback)


def _failure(table: Table, learner: str, status: str, reason: str, runs: list[Run]) -> Failure:
    tracebacks = [str(run.record.data.get("traceback") or "") for run in runs]
    last = runs[0].value("last_finite_step")
    return Failure(
        workload=table.workload,
        learner=learner,
        status=words(status),
        meaning=RunStatus(status).sentence,
        reason=reason,
        seeds=("seed " if len(runs) == 1 else "seeds ") + ", ".join(str(run.seed) for run in runs),
        last=None if last is None else int(last),
        traceback=next((_portable(text) for text in tracebacks if text), ""),
        commands=[str(run.record.data.get("rerun") or "") for run in runs],
        runs=runs,
    )


def summary(found: list[Failure]) -> str:
    """Say how many runs broke off, in a sentence."""
    runs = sum(len(failure.runs) for failure in found)
    if not runs:
        return "No run broke off."
    return f"{plural(runs, 'run')} broke off. They are counted in every table, never dropped and never averaged in."


def failures_section(report: Report) -> list[Block]:
    """Return every run that broke off with its reason and its command, and the records that are not shown."""
    found = failures(report)
    blocks: list[Block] = [Text(summary(found))]
    for one in found:
        last = "" if one.last is None else f" The last finite step was {one.last}."
        reason = "" if one.reason == one.meaning else f" {one.reason}"
        blocks += [Text(f"{one.learner} on {one.workload}, {one.seeds}: {one.status}", "h4")]
        blocks += [Text(f"{one.meaning}{reason}{last}")]
        blocks += [Fold("Traceback", [Code(one.traceback)], written=True)] if one.traceback else []
        blocks += [*note(f"To run {'it' if len(one.commands) == 1 else 'them'} again:"), Code("\n".join(one.commands))]
    if report.unreadable:
        blocks += [Text("Records that could not be read", "h4"), Points(report.unreadable)]
    if report.superseded:
        older = [f"{one.label} on {one.workload}, seed {one.seed}: {one.key}" for one in report.superseded]
        blocks += [Text("Older runs of the same learner, task and seed, left out", "h4"), Points(older)]
    return blocks
