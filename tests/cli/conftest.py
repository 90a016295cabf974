"""The command line in process: exit code, what it printed, and its records."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

import altprop
from altprop.cli.run import run as run_command

sys.path.insert(0, str(Path(__file__).parents[1] / "harness"))  # `rules` is found by its name

SMALL = [
    "budget.currency=steps",
    "budget.amount=20",
    "budget.grid=2",
    "budget.block=10",
    "probes=off",
    "report=false",
]


@dataclass
class Answer:
    """What a command did."""

    code: int
    out: str
    err: str
    runs: Path

    @property
    def rows(self) -> pd.DataFrame:
        return altprop.load(self.runs)


@pytest.fixture
def command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run `altprop` with small budgets."""

    def go(*arguments: str, small: bool = True) -> Answer:
        runs = tmp_path / "runs"
        capfd.readouterr()
        code = run_command([*arguments, *(SMALL if small else []), f"runs_dir={runs}"])
        captured = capfd.readouterr()
        return Answer(code, captured.out, captured.err, runs)

    return go
