"""What stands around the cells of a command: progress, outcomes across processes, and the report at the end."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from altprop.harness.planning import Outcome
from altprop.records import files, process

SWEEP_VARIABLE = "ALTPROP_SWEEP"
SCRATCH_VARIABLE = "ALTPROP_SCRATCH"
_MARKS = {
    "completed": "done",
    "reached_target": "done",
    "refused": "refused",
    "interrupted": "interrupted",
    "running": "elsewhere",
}


class SweepLog:
    """A file that the cells of one command append to, one JSON line each; any process reads the whole.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls) -> SweepLog | None:
        """Return the log of the command that runs, or None outside one."""
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
        return self.behind(0)[0]

    def behind(self, place: int) -> tuple[list[dict[str, Any]], int]:
        """Return the lines behind a byte and the byte where they end; a line that is being written counts later."""
        if not self.path.exists():
            return [], place
        with self.path.open("rb") as file:
            file.seek(place)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        return [json.loads(line) for line in whole.splitlines()], place + len(whole)

    def command(self) -> str | None:
        """Return the command line as it was given."""
        return next((str(row["text"]) for row in self.rows() if row["kind"] == "command"), None)

    def at_work(self) -> list[str]:
        """Return the cells that a process has begun and not ended."""
        last = {(row["host"], row["pid"]): row for row in self.rows() if "pid" in row}
        return sorted({str(row["name"]) for row in last.values() if row["kind"] == "begin"})

    def cells(self) -> list[dict[str, Any]]:
        """Return the lines of finished cells."""
        return [row for row in self.rows() if row["kind"] == "cell"]

    def silent(self) -> int:
        """Return how many cells of the sweep did not report."""
        return sum(int(row["cells"]) for row in self.rows() if row["kind"] == "start") - len(self.cells())

    def outcomes(self) -> list[Outcome]:
        """Return all outcomes so far."""
        return [Outcome(**item) for row in self.cells() for item in row["outcomes"]]


def begin(name: str) -> None:
    """Put on the log that this process begins a cell, so that it can be named if the process dies of it."""
    log = SweepLog.open()
    if log is not None:
        log.write({"kind": "begin", "name": name, **_process()})


def _process() -> dict[str, Any]:
    return {"host": process.host(), "pid": os.getpid()}


def report_cell(outcomes: Sequence[Outcome], seconds: float) -> None:
    """Put a finished cell on the log and print its line: place, counts, time left."""
    log = SweepLog.open()
    if log is None:
        return
    log.write({"kind": "cell", "outcomes": [asdict(o) for o in outcomes], "seconds": seconds, **_process()})
    rows = log.rows()
    start = next(row for row in rows if row["kind"] == "start")
    cells = [row for row in rows if row["kind"] == "cell"]
    done, total = len(cells), int(start["cells"])
    failed = sum(1 for row in cells if any(o["status"] in FAILURES and o["role"] != "trial" for o in row["outcomes"]))
    left = (time.time() - start["time"]) / done * (total - done)
    line = line_of(outcomes, done, total, failed, left)
    if start["relayed"]:
        log.write({"kind": "line", "text": line})
    else:
        print(line, file=sys.stderr, flush=True)


def line_of(cell: Sequence[Outcome], done: int, total: int, failed: int, left: float) -> str:
    """Return the line of a finished cell: its place, what became of its runs, and the time that is left."""
    outcomes = [o for o in cell if o.role == "run"] or list(cell)
    first = outcomes[0]
    ended = states(outcomes)
    executed = sum(o.executed for o in cell)
    cached = "" if executed else ", from records"
    metric = median_of(outcomes)
    trials, tuned = ([o for o in cell if o.role == role] for role in ("trial", "tuned"))
    if trials:
        seeds = len({o.seed for o in trials})
        several = f" of {seeds} seeds" if seeds > 1 else ""
        metric += f"; {len(trials) // seeds} trials{several}: {states(trials)}"
        metric += f"; tuned: {states(tuned) or 'none'}{median_of(tuned)}"
    reason = next((o.reason for o in outcomes if o.status in FAILURES or o.status == "refused"), "")
    tail = f"  {reason[:200]}" if reason else ""
    time_left = f"  {left // 60:.0f}:{left % 60:02.0f} left" if done < total else ""
    failures = f", {failed} failed" if failed else ""
    return f"[{done}/{total}{failures}] {first.label} on {first.workload}: {ended}{cached}{metric}{tail}{time_left}"


def states(outcomes: Sequence[Outcome]) -> str:
    """Return how runs ended, with their number where there are several."""
    counts = Counter(_MARKS.get(o.status, o.status) for o in outcomes)
    return ", ".join(f"{n} {name}" if len(outcomes) > 1 else name for name, n in counts.items())


def median_of(outcomes: Sequence[Outcome]) -> str:
    """Return the metric with its median, nothing where no run has one."""
    evaluated = sorted((o.test, o.metric) for o in outcomes if o.test is not None)  # not one that runs elsewhere
    if not evaluated:
        return ""
    test, metric = evaluated[len(evaluated) // 2]
    return f"  {metric} {test:.4g}"


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


def on_terminal() -> bool:
    """Return whether somebody looks on: then a table stands in place of lines, drawn by the command's own process."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


_LOCAL = (["hydra", "_internal"], ["hydra_plugins", "hydra_joblib_launcher"])
"""Packages of the launchers whose workers are on this machine and share its terminal."""


def _share(runs: Path) -> None:
    """Move the log, and the folder that launchers use, to where workers on other machines find them.

    Raises:
        AltpropError: the folder of records cannot be written.
    """
    with files.readable_errors(runs):
        files.make_folder(runs)
        folder = Path(tempfile.mkdtemp(prefix=".altprop-", dir=runs.resolve()))
        log = SweepLog.open()
        if log is not None:
            shared = folder / log.path.name
            shared.write_bytes(log.path.read_bytes() if log.path.exists() else b"")
            os.environ[SWEEP_VARIABLE] = str(shared)
    os.environ[SCRATCH_VARIABLE] = str(folder)


def death_of_worker(error: Exception, log: SweepLog) -> str | None:
    """Return what to say where an error means that a launcher lost a worker, None for any other error.

    Cells never raise, so what a launcher raises is its own: a worker that was killed, or took itself away, with the
    cell at hand. loky then ends the other workers too.
    """
    launchers = {one.__module__.partition(".")[0] for one in type(error).__mro__} & {"joblib", "ray", "submitit"}
    if not launchers:
        return None
    codes = re.search(r"exit codes of the workers are (\{.*?\})", str(error))
    detail = codes[1] if codes else type(error).__name__
    lost = ", ".join(log.at_work()) or "none that had begun"
    return (
        f"a worker of {launchers.pop()} died ({detail}) while at work on: {lost}. Ended runs are kept. The same "
        "command runs the rest; with isolate=true a run that takes its process along ends alone, with its reason"
    )


class SweepCallback(Callback):
    """Hydra's callback: opens the log before the cells, where all workers find it."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin the log of a single cell."""
        self._start(config, 1)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin the log of a sweep, and move it to where workers on other machines find it."""
        hydra = config.hydra
        remote = str(hydra.launcher.get("_target_", "")).split(".")[:2] not in _LOCAL
        if remote:
            _share(Path(str(config.get("runs_dir") or "runs")))
        # A sweeper that searches says how many jobs it takes.
        trials = hydra.sweeper.get("n_trials")
        cells = count_cells(list(hydra.overrides.task), hydra.sweeper.get("params")) if trials is None else int(trials)
        self._start(config, cells, remote or on_terminal())

    def _start(self, config: DictConfig, cells: int, relayed: bool = False) -> None:
        log = SweepLog.open()
        if log is not None and not any(row["kind"] == "start" for row in log.rows()):
            place = {"cells": cells, "time": time.time(), "relayed": relayed}
            log.write({"kind": "start", **place, "config": _end_settings(config)})


def _end_settings(config: DictConfig) -> dict[str, Any]:
    """Return what the end of a command needs of its configuration, even where a cell's own is broken."""
    names = ("runs_dir", "report", "report_dir", "title", "reference")
    found = {name: config.get(name) for name in names if name in config}
    kept = {name: value for name, value in found.items() if value is None or isinstance(value, (str, bool))}
    claims = config.get("claims")
    return kept | ({} if claims is None else {"claims": OmegaConf.to_container(claims)})
