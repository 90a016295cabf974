"""Sixty-four seeds at once end, in distribution, where sixty-four others end one by one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ks_2samp

from altprop.optim.stacked import StackedUpdater

COMMAND = ("task=iris", "budget.currency=steps", "budget.amount=60", "budget.grid=2", "probes=off")
LEARNERS = {
    "adam, dropout": ("optimizer=adam", "dropout=standard"),
    "dfa": ("algorithm=dfa", "optimizer=sgd"),
}


@pytest.fixture
def losses(run: Callable[..., Any], tmp_path: Path) -> Callable[..., list[float]]:
    """Run a cell and return the last validation loss of each seed."""

    def found(name: str, *overrides: str) -> list[float]:
        run(*COMMAND, *overrides, runs=name)
        runs = [path.parent for path in (tmp_path / name).glob("*/record.json")]
        stacked = {json.loads((at / "record.json").read_text())["measured"].get("stacked") for at in runs}
        assert stacked == {64 if name == "at_once" else None}
        traces = [[json.loads(line) for line in (at / "trace.jsonl").read_text().splitlines()] for at in runs]
        return [[row for row in rows if row.get("split") == "validation"][-1]["metrics"]["loss"] for rows in traces]

    return found


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNERS)
def test_they_end_alike(losses: Callable[..., list[float]], learner: str) -> None:
    at_once = losses("at_once", *LEARNERS[learner], "seeds=64")
    others = losses("loop", *LEARNERS[learner], f"seeds=[{','.join(map(str, range(64, 128)))}]", "stack_seeds=false")
    assert len(set(at_once)) == len(set(others)) == 64
    assert ks_2samp(at_once, others).pvalue > 0.05


@pytest.mark.slow
def test_steps_that_go_half_too_far_are_noticed(
    losses: Callable[..., list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = StackedUpdater.apply
    longer = lambda self, found, members: apply(self, {name: 1.5 * d for name, d in found.items()}, members)  # noqa: E731
    monkeypatch.setattr(StackedUpdater, "apply", longer)
    at_once = losses("at_once", "optimizer=sgd", "optimizer.lr=0.02", "seeds=64")
    others = losses(
        "loop",
        "optimizer=sgd",
        "optimizer.lr=0.02",
        f"seeds=[{','.join(map(str, range(64, 128)))}]",
        "stack_seeds=false",
    )
    assert ks_2samp(at_once, others).pvalue < 1e-3
