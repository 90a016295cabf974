"""Two processes that share a run give what one gives on the joint batch, or are refused with a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMMON = ["dtype=float64", "optimizer=momentum", "optimizer.lr=0.05", "task.batch_size=50", "budget.amount=60"]


def record(folder: Path, key: str) -> dict[str, Any]:
    return json.loads((folder / key / "record.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.slow
def test_two_processes_equal_one_on_the_joint_batch(run: Callable[..., Any], tmp_path: Path) -> None:
    one = run(*COMMON, "probes=basic", runs="one").iloc[0]
    two = run(*COMMON, "probes=basic", "trainer=ddp", runs="two").iloc[0]
    assert two.status == "completed", two.reason
    a, b = record(tmp_path / "one", one.key)["result"], record(tmp_path / "two", two.key)["result"]
    assert a["test_metrics"]["loss"] == pytest.approx(b["test_metrics"]["loss"], abs=1e-12)
    assert a["identity"] == b["identity"]
    for name in ("steps", "updates", "samples", "flops"):
        assert a["ledger"][name] == pytest.approx(b["ledger"][name], rel=1e-9), name


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("algorithm=dfa", "learns from more than averaged gradients"),
        ("dropout=standard", "use dropout=none"),
        ("model.normalisation=batch", "use normalisation=layer"),
    ],
)
def test_what_cannot_be_shared_is_refused(run: Callable[..., Any], option: str, words: str) -> None:
    row = run("trainer=ddp", option).iloc[0]
    assert row.status == "refused"
    assert words in row.reason
