"""How far predicted probabilities can be believed: negative log-likelihood and calibration error on the test set."""

from __future__ import annotations

import math

import numpy as np

from altprop.report.blocks import Block, Cell, Grid, Text
from altprop.report.format import MISSING, number
from altprop.report.model import Report, Table, as_number

ERROR = "calibration_error"
"""Recorded where a loss makes outputs probabilities; the loss of an evaluation is the negative log-likelihood then."""
VARIANCE = "prediction_variance"
"""Recorded where predictions average noisy passes."""


def calibration(report: Report, table: Table) -> list[Block]:
    """Return a table of the measures for each learner; [] where no run recorded a calibration error."""
    found = {name: _known(table, name) for name in table.runs}
    found = {name: metrics for name, metrics in found.items() if metrics}
    if not found:
        return []
    noisy = any(VARIANCE in one for metrics in found.values() for one in metrics)
    names = ["loss", ERROR, *[VARIANCE] * noisy]
    rows: list[list[Cell | str]] = [
        [Cell(learner=report.by_name[name]), *(_cell([one[n] for one in metrics if n in one]) for n in names)]
        for name, metrics in found.items()
    ]
    text = (
        "Medians of the runs that ended, over all of them in small type. The expected calibration error is how far "
        "confidence lies from accuracy, over 15 bins of confidence (Guo et al. 2017): 0 is calibrated."
    )
    text += " Where predictions average noisy passes, their variance over the passes, summed over classes." * noisy
    titles = ("negative log-likelihood", "calibration error", *["variance over\nnoisy passes"] * noisy)
    head: list[Cell | str] = ["learner", *(Cell(title, kind="r") for title in titles)]
    return [
        Text("Predicted probabilities on the test set", "h4"),
        Text(text, "note"),
        Grid(f"Predicted probabilities on {table.workload}", head, rows),
    ]


def _known(table: Table, name: str) -> list[dict[str, float]]:
    """Return the finite measures of each run that ended and has loss and calibration error."""
    every = [
        {key: value for key, given in run.block("test_metrics").items() if (value := as_number(given)) is not None}
        for run in table.tried(name)
        if run.ended
    ]
    return [
        one for one in every if math.isfinite(one.get("loss", math.nan)) and math.isfinite(one.get(ERROR, math.nan))
    ]


def _cell(values: list[float]) -> Cell:
    if not values:
        return Cell(MISSING, kind="r")
    middle = float(np.median(values))
    return Cell(number(middle), f"{number(min(values))} to {number(max(values))}", "r", sort=middle)
