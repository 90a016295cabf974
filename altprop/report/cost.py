"""Section 5: what each learner cost, by call, by kind of FLOPs and in memory; seconds are shown without claims."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from altprop.records.timing import GROUPS, KINDS
from altprop.report.model import Learner, Report, Run, Table, as_number

COUNTS = (
    "steps",
    "updates",
    "samples",
    "forwards",
    "backwards",
    "jvps",
    "hvps",
    "evaluations",
    "environment_steps",
)
BYTES = ("peak_bytes", "saved_bytes", "state_bytes")


@dataclass(frozen=True)
class CostRow:
    """Median cost of a learner on one workload over the runs that have a ledger; None where nothing is recorded."""

    learner: Learner
    runs: int
    flops: float | None
    forward_equivalents: float | None
    counts: dict[str, float | None]
    octets: dict[str, float | None]
    cpu: float | None
    cpu_range: tuple[float, float] | None
    wall: float | None
    residual: float | None
    uncounted: dict[str, int]
    kinds: dict[str, float]


def cost_rows(report: Report, table: Table) -> list[CostRow]:
    """Return one row a learner that ran."""
    rows = []
    for name in table.runs:
        runs = [run for run in table.tried(name) if run.block("ledger")]
        if runs:
            rows.append(_row(report.by_name[name], runs))
    return rows


def _row(learner: Learner, runs: Sequence[Run]) -> CostRow:
    cpu = [value for run in runs if (value := as_number(run.record.measured.get("cpu_seconds"))) is not None]
    uncounted: dict[str, int] = {}
    for run in runs:
        for name, times in run.block("uncounted_ops").items():
            uncounted[str(name)] = max(uncounted.get(str(name), 0), int(as_number(times) or 0))
    whole = sum(sum(_positive(run).values()) for run in runs)
    kinds = {kind: sum(_positive(run).get(kind, 0.0) for run in runs) / whole for kind in KINDS} if whole else {}
    residual = [abs(value) for run in runs if (value := run.value("flops_residual")) is not None]
    return CostRow(
        learner=learner,
        runs=len(runs),
        flops=_median(run.spent("flops") for run in runs),
        forward_equivalents=_median(run.spent("forward_equivalents") for run in runs),
        counts={name: _median(run.spent(name) for run in runs) for name in COUNTS},
        octets={name: _median(run.octets(name) for run in runs) for name in BYTES},
        cpu=_median(cpu),
        cpu_range=(min(cpu), max(cpu)) if len(cpu) > 1 else None,
        wall=_median(as_number(run.record.measured.get("wall_seconds")) for run in runs),
        residual=max(residual, default=None),
        uncounted=dict(sorted(uncounted.items())),
        kinds=kinds,
    )


def _positive(run: Run) -> dict[str, float]:
    """Return FLOPs by kind as breakdowns name them, what no primitive does as "other"."""
    found: dict[str, float] = {}
    for kind, value in run.block("flops_by_kind").items():
        amount = as_number(value) or 0.0
        if amount > 0 and math.isfinite(amount):
            name = GROUPS.get(kind, "other")
            found[name] = found.get(name, 0.0) + amount
    return found


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.median(known)) if known else None
