"""The page of a single run: its numbers, a few probes along the way, and the last state of each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from altprop.report.blocks import Cell
from altprop.report.failures import words
from altprop.report.format import brief, count, number, octets, percent, seconds
from altprop.report.health import layers_of, natural, whole
from altprop.report.model import Run, Table, as_number

SHOWN = 6
WHOLE_COLUMNS = (
    "spent",
    "gradient norm",
    "forward slope",
    "backward slope",
    "update ratio",
    "alignment",
    "null band",
    "efficiency",
)
LAYER_COLUMNS = (
    "layer",
    "gradient RMS",
    "forward signal",
    "backward signal",
    "update ratio",
    "alignment",
    "dead",
    "saturated",
)


@dataclass(frozen=True)
class RunPage:
    """Everything that is shown of one run, as text.

    Attributes:
        facts: (name, value). probes: rows of WHOLE_COLUMNS. layers: rows of LAYER_COLUMNS, at the last probe.
        note: in words, where probes had nothing to measure.
    """

    run: Run
    facts: list[tuple[str, str]]
    probes: list[list[Cell | str]]
    layers: list[list[Cell | str]]
    note: str


def run_page(table: Table, run: Run, with_layers: bool) -> RunPage:
    """Return the page of one run; `with_layers` adds the table of its layers."""
    rows = run.probes
    chosen = np.linspace(0, max(len(rows) - 1, 0), min(SHOWN, len(rows))).round().astype(int).tolist()
    notes = {str(row["note"]) for row in rows if row.get("note")}
    last = next((layers_of(row) for row in reversed(rows) if layers_of(row)), {}) if with_layers else {}
    return RunPage(
        run=run,
        facts=_facts(table, run),
        probes=[_probe(rows[index]) for index in chosen if any(v is not None for v in whole(rows[index]).values())],
        layers=[_layer(name, last[name]) for name in sorted(last, key=natural)],
        note=", ".join(sorted(notes)),
    )


def _facts(table: Table, run: Run) -> list[tuple[str, str]]:
    measured = run.record.measured
    facts = [
        ("ended", words(run.status)),
        (f"{table.quality} {table.metric}", number(run.value(table.quality))),
        (f"{table.quality} at best validation", number(run.value("test_best"))),
        ("validation", number(run.value("validation"))),
        ("steps", count(run.spent("steps"))),
        ("FLOPs", count(run.spent("flops"))),
        ("CPU time of the learner", seconds(as_number(measured.get("cpu_seconds")))),
        ("memory at the peak", octets(run.octets("peak_bytes"))),
        ("kept for the way back", octets(run.octets("saved_bytes"))),
        ("parameters", count(run.value("parameters"))),
        ("key", run.record.key[:12]),
    ]
    return [(name, value) for name, value in facts if value != "–"]


def _told(value: Any) -> str:
    """Return a probed value: a number, or the word that stands for it."""
    return value if isinstance(value, str) else brief(as_number(value))


def _figures(*texts: str) -> list[Cell | str]:
    return [Cell(text, kind="r") for text in texts]


def _probe(row: dict[str, Any]) -> list[Cell | str]:
    values = whole(row)
    low, high = as_number(values.get("alignment_low")), as_number(values.get("alignment_high"))
    band = f"{number(low, 2)} to {number(high, 2)}" if low is not None and high is not None else "–"
    return _figures(
        percent(as_number(row.get("fraction"))),
        _told(values.get("gradient_norm")),
        _told(values.get("forward_slope")),
        _told(values.get("backward_slope")),
        _told(values.get("update_ratio")),
        _told(values.get("alignment")),
        band,
        _told(values.get("descent_efficiency")),
    )


def _layer(name: str, values: dict[str, Any]) -> list[Cell | str]:
    found = _figures(
        _told(values.get("gradient_rms")),
        _told(values.get("forward_signal")),
        _told(values.get("backward_signal")),
        _told(values.get("update_ratio")),
        _told(values.get("alignment")),
        percent(as_number(values.get("dead_fraction")), 1),
        percent(as_number(values.get("saturated_fraction")), 1),
    )
    return [name, *found]
