"""What stands around the cells of a command: progress, outcomes across processes, and the report at the end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from altprop.harness.cell import Outcome

SWEEP_VARIABLE = "ALTPROP_SWEEP"
_MARKS = {
    "completed": "done",
    "reached_target": "done",
    "refused": "refused",
    "interrupted": "interrupted",
    "running": "elsewhere",
}


class Board:
    """A file that the cells of one command append to, one JSON line each; any process reads the whole.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls) -> Board | None:
        """Return the board of the command that runs, or None outside one."""
        path = os.environ.get(SWEEP_VARIABLE)
        return cls(Path(path)) if path else None

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line in one write."""
        line = json.dumps(row) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def rows(self) -> list[dict[str, Any]]:
        """Return all lines."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines() if line.strip()]

    def cells(self) -> list[dict[str, Any]]:
        """Return the lines of finished cells."""
        return [row for row in self.rows() if row["kind"] == "cell"]

    def outcomes(self) -> list[Outcome]:
        """Return all outcomes so far."""
        return [Outcome(**item) for row in self.cells() for item in row["outcomes"]]


def announce(outcomes: Sequence[Outcome], seconds: float) -> None:
    """Put a finished cell on the board and print its line: place, counts, time left."""
    board = Board.open()
    if board is None:
        return
    board.write({"kind": "cell", "outcomes": [asdict(o) for o in outcomes], "seconds": seconds})
    rows = board.rows()
    start = next(row for row in rows if row["kind"] == "start")
    cells = [row for row in rows if row["kind"] == "cell"]
    done, total = len(cells), int(start["cells"])
    failed = sum(1 for row in cells if any(o["status"] in FAILURES and o["role"] != "trial" for o in row["outcomes"]))
    left = (time.time() - start["time"]) / done * (total - done)
    print(_line(outcomes, done, total, failed, left), file=sys.stderr, flush=True)


def _line(cell: Sequence[Outcome], done: int, total: int, failed: int, left: float) -> str:
    outcomes = [o for o in cell if o.role == "run"] or list(cell)
    first = outcomes[0]
    states = _states(outcomes)
    executed = sum(o.executed for o in cell)
    cached = "" if executed else ", from records"
    metric = _median(outcomes)
    trials, tuned = ([o for o in cell if o.role == role] for role in ("trial", "tuned"))
    if trials:
        metric += f"; {len(trials)} trials: {_states(trials)}; tuned: {_states(tuned) or 'none'}{_median(tuned)}"
    reason = next((o.reason for o in outcomes if o.status in FAILURES or o.status == "refused"), "")
    tail = f"  {reason[:200]}" if reason else ""
    time_left = f"  {left // 60:.0f}:{left % 60:02.0f} left" if done < total else ""
    failures = f", {failed} failed" if failed else ""
    return f"[{done}/{total}{failures}] {first.label} on {first.workload}: {states}{cached}{metric}{tail}{time_left}"


def _states(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(_MARKS.get(o.status, o.status) for o in outcomes)
    return ", ".join(f"{n} {name}" if len(outcomes) > 1 else name for name, n in counts.items())


def _median(outcomes: Sequence[Outcome]) -> str:
    values = sorted(o.test for o in outcomes if o.test is not None)
    return f"  {outcomes[0].metric} {values[len(values) // 2]:.4g}" if values else ""


FAILURES = frozenset({"failed", "out_of_memory", "timed_out"})


def count_cells(overrides: Sequence[str], params: Mapping[str, Any] | None) -> int:
    """Return how many jobs a sweep has: the product of the choices of all swept overrides."""
    given = [f"{name}={value}" for name, value in (params or {}).items()]
    swept = {o.partition("=")[0]: o for o in [*given, *overrides]}
    total = 1
    for override in OverridesParser.create().parse_overrides(list(swept.values())):
        if override.is_sweep_override():
            total *= sum(1 for _ in override.sweep_string_iterator())
    return total


class SweepCallback(Callback):
    """Hydra's callback: opens the board before the cells and builds the report after them."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """A single cell."""
        self._start(config, 1)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """A sweep."""
        hydra = config.hydra
        self._start(config, count_cells(list(hydra.overrides.task), hydra.sweeper.get("params")))

    def _start(self, config: DictConfig, cells: int) -> None:
        board = Board.open()
        if board is not None and not board.rows():
            board.write({"kind": "start", "cells": cells, "time": time.time(), "config": _doors(config)})


def _doors(config: DictConfig) -> dict[str, Any]:
    """Return what the end of a command needs of its configuration, even where a cell's own is broken."""
    names = ("runs_dir", "report", "report_dir", "title")
    found = {name: config.get(name) for name in names if name in config}
    return {name: value for name, value in found.items() if value is None or isinstance(value, (str, bool))}
