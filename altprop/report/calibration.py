"""How far predicted probabilities can be believed: negative log-likelihood and calibration error on the test set."""

from __future__ import annotations

import math

import numpy as np

from altprop.report.blocks import Block, Cell, Grid, Text
from altprop.report.format import number
from altprop.report.model import Report, Table, as_number

ERROR = "calibration_error"
"""Recorded where a loss makes outputs probabilities; the loss of an evaluation is the negative log-likelihood then."""


def calibration(report: Report, table: Table) -> list[Block]:
    """Return a table of both measures for each learner; [] where no run recorded a calibration error."""
    rows: list[list[Cell | str]] = []
    for name in table.runs:
        metrics = [run.block("test_metrics") for run in table.tried(name) if run.ended]
        pairs = [(as_number(one.get("loss")), as_number(one.get(ERROR))) for one in metrics]
        known = [(a, b) for a, b in pairs if a is not None and b is not None and math.isfinite(a) and math.isfinite(b)]
        if known:
            rows.append(
                [Cell(learner=report.by_name[name]), *(_cell([pair[place] for pair in known]) for place in range(2))]
            )
    if not rows:
        return []
    text = (
        "Medians of the runs that ended, over all of them in small type. The expected calibration error is how far "
        "confidence lies from accuracy, over 15 bins of confidence (Guo et al. 2017): 0 is calibrated."
    )
    head: list[Cell | str] = ["learner", Cell("negative log-likelihood", kind="r"), Cell("calibration error", kind="r")]
    return [
        Text("Predicted probabilities on the test set", "h4"),
        Text(text, "note"),
        Grid(f"Predicted probabilities on {table.workload}", head, rows),
    ]


def _cell(values: list[float]) -> Cell:
    middle = float(np.median(values))
    return Cell(number(middle), f"{number(min(values))} to {number(max(values))}", "r", sort=middle)
