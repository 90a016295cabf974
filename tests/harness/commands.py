"""Start `altprop` in a process of its own, and read what it left."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from ..forked import Command

BASE = ["probes=off", "report=false", "model.hidden=[8]", "dropout=standard"]
SHORT = ["budget.currency=steps", "budget.amount=40", "budget.grid=4", "budget.block=10"]


def start(folder: Path, *arguments: str) -> Command:
    """Start a command in a folder; learners of `rules` are found by their name."""
    return _started(folder, "-m", "altprop.cli.run", *arguments)


def start_code(folder: Path, code: str, *arguments: str) -> Command:
    """Start a program in a folder, given as its text and its arguments."""
    return _started(folder, "-c", code, *arguments)


def _started(folder: Path, *arguments: str) -> Command:
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return Command([sys.executable, *arguments], folder, environment)


def finish(process: Command) -> tuple[int, str, str]:
    """Wait for a command; returns its exit code and what it printed."""
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def command(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run a command to its end."""
    return finish(start(folder, *arguments))


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns key -> content of record.json."""
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/record.json")}


def results(folder: Path) -> dict[str, Any]:
    """Returns key -> deterministic block."""
    return {key: record["result"] for key, record in records(folder).items()}
