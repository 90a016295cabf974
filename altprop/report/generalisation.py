"""How much worse a learner is on the test set than on rows that it has seen."""

from __future__ import annotations

import math

import numpy as np

from altprop.report.blocks import Block, Cell, Cells, Grid, Text, right
from altprop.report.format import number, signed
from altprop.report.model import Report, Table, as_number


def generalisation(report: Report, table: Table) -> list[Block]:
    """Return a table of the metric and the loss on training rows and on the test set; [] where no run recorded both."""
    names = list(dict.fromkeys([table.metric, "loss"]))
    rows: list[Cells] = []
    for name in table.runs:
        runs = [run for run in table.tried(name) if run.ended]
        pairs = {
            one: [(_of(run.block("train_metrics"), one), _of(run.block("test_metrics"), one)) for run in runs]
            for one in names
        }
        known = {one: [pair for pair in found if all(map(math.isfinite, pair))] for one, found in pairs.items()}
        if all(known.values()):
            rows.append([Cell(learner=report.by_name[name]), *(cell for one in names for cell in _cells(known[one]))])
    if not rows:
        return []
    text = (
        "Medians of the runs that ended, at the end and without noise, smoothing and penalties; training rows are as "
        "many as test rows at the most, spread over all. The gap is test less training, with its least and its largest."
    )
    head: Cells = [
        "learner",
        *(cell for one in names for cell in right(f"{one},\ntraining", f"{one},\ntest", f"{one},\ngap")),
    ]
    return [
        Text("Generalisation gap", "h4"),
        Text(text, "note"),
        Grid(f"Generalisation gap on {table.workload}", head, rows),
    ]


def _of(metrics: dict[str, object], name: str) -> float:
    value = as_number(metrics.get(name), math.nan)
    return math.nan if value is None else value


def _cells(pairs: list[tuple[float, float]]) -> Cells:
    seen, tested = (float(np.median(each)) for each in zip(*pairs, strict=True))
    gaps = [b - a for a, b in pairs]
    gap = float(np.median(gaps))
    return [
        *right(number(seen), number(tested)),
        Cell(signed(gap), f"{signed(min(gaps))} to {signed(max(gaps))}", "r", sort=gap),
    ]
