"""Compose and run small cells in process."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import altprop

sys.path.insert(0, str(Path(__file__).parent))  # `rules` is found by its name, as a user's own file would be

SMALL = [
    "budget.currency=steps",
    "budget.amount=30",
    "budget.grid=3",
    "budget.block=5",
    "probes=off",
    "model.hidden=[8]",
]


@pytest.fixture(scope="session")
def run_into() -> Callable[..., Any]:
    """Run a small digits cell, its records to a folder, and return its rows."""

    def go(folder: Path, *overrides: str) -> Any:
        return altprop.run([*SMALL, f"runs_dir={folder}", *overrides])

    return go


@pytest.fixture
def run(run_into: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Run a small digits cell and return its rows."""

    def go(*overrides: str, runs: str = "runs") -> Any:
        return run_into(tmp_path / runs, *overrides)

    return go
