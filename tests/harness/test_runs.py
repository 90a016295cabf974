"""Runs end to end: results, determinism, resume, faults."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from altprop.errors import AltpropError
from altprop.harness import training_run as training_run_module
from altprop.records.store import RunStore


def record(folder: Path, key: str) -> dict[str, Any]:
    return json.loads((folder / key / "record.json").read_text())  # type: ignore[no-any-return]


def custom(name: str) -> list[str]:
    return ["algorithm=custom", f"algorithm._target_=rules.{name}"]


def test_a_run_learns_and_says_so(run: Callable[..., Any]) -> None:
    row = run("budget.amount=200").iloc[0]
    assert row.status == "completed"
    assert (row.algorithm, row.optimizer, row.task, row.model) == ("backprop", "adam", "digits", "mlp")
    assert row.test > 0.5  # observed .83
    assert row.steps == row.forwards == row.backwards == 200


def test_two_runs_with_the_same_seed_have_the_same_result_block(run: Callable[..., Any], tmp_path: Path) -> None:
    first = run("dropout=standard", "probes=basic", runs="a").iloc[0]
    second = run("dropout=standard", "probes=basic", runs="b").iloc[0]
    other = run("dropout=standard", "probes=basic", "seeds=[1]", runs="a").iloc[0]
    assert first.key == second.key != other.key
    a, b = record(tmp_path / "a", first.key)["result"], record(tmp_path / "b", second.key)["result"]
    assert a == b
    assert record(tmp_path / "a", other.key)["result"] != a
    assert (tmp_path / "a" / first.key / "trace.jsonl").read_bytes() == (
        tmp_path / "b" / first.key / "trace.jsonl"
    ).read_bytes()


def test_probes_change_nothing(run: Callable[..., Any], tmp_path: Path) -> None:
    on = run("dropout=standard", "probes=basic").iloc[0]
    off = run("dropout=standard", "probes=off").iloc[0]
    a, b = record(tmp_path / "runs", on.key)["result"], record(tmp_path / "runs", off.key)["result"]
    for name in ("test_metrics", "ledger", "hits", "flops_by_kind"):
        assert a[name] == b[name]


def test_state_bytes_are_those_of_the_end_where_the_best_state_is_the_first(run: Callable[..., Any]) -> None:
    row = run("optimizer=momentum", "optimizer.lr=0.01", "+optimizer.maximize=true").iloc[0]
    assert row.status == "completed"
    assert row.validation_best > row.validation
    assert row.state_bytes == 4 * row.parameters


def test_the_second_command_runs_nothing(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run("seeds=2")
    monkeypatch.setattr(
        training_run_module.TrainingRun, "block", lambda self: pytest.fail("a settled run was run again")
    )
    assert list(run("seeds=2").seed) == [0, 1]


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_resume_after_a_kill_at_each_block_is_bit_identical(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    options = ["dropout=standard", f"optimizer={optimizer}", "trainer.checkpoint_seconds=0", "probes=basic"]
    whole = run(*options, runs="whole").iloc[0]
    expected = record(tmp_path / "whole", whole.key)["result"]
    original = training_run_module.TrainingRun.block
    blocks = 6
    for stop in range(1, blocks):
        done = 0

        def block(self: training_run_module.TrainingRun, stop: int = stop) -> None:
            nonlocal done
            if done == stop:
                raise RuntimeError("killed")
            done += 1
            original(self)

        with monkeypatch.context() as patch:
            patch.setattr(training_run_module.TrainingRun, "block", block)
            patch.setattr(RunStore, "commit", lambda *a, **k: (_ for _ in ()).throw(KeyError("killed")))
            with pytest.raises(KeyError):
                run(*options, runs=f"part{stop}")
        assert (tmp_path / f"part{stop}" / whole.key / "checkpoint.pt").exists()
        run(*options, runs=f"part{stop}")
        resumed = record(tmp_path / f"part{stop}", whole.key)["result"]
        assert resumed == expected, f"killed after block {stop}"
        assert not (tmp_path / f"part{stop}" / whole.key / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("Raises", "failed", "boom"),
        ("CallsExit", "failed", "sys.exit(3)"),
        ("RunsOut", "out_of_memory", "no memory"),
        ("ReturnsNaN", "non_finite", "at step 7"),
        ("Explodes", "diverged", "rose from"),
        ("PoisonsAParameter", "non_finite", "A parameter stopped being finite"),
        ("FactorisesASingularMatrix", "diverged", "broke down numerically at step 7: linalg.cholesky"),
        ("InvertsASingularArray", "diverged", "broke down numerically at step 7: Singular matrix"),
        ("FactorisesNaN", "non_finite", "broke down numerically at step 7: linalg.cholesky"),
    ],
)
def test_a_fault_is_a_row(run: Callable[..., Any], name: str, status: str, words: str) -> None:
    row = run(*custom(name)).iloc[0]
    assert row.status == status
    assert words in row.reason


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [("LeavesHard", "failed", "exit code 9"), ("Segfaults", "failed", "SIGSEGV"), ("Honest", "completed", "budget")],
)
def test_an_isolated_fault_is_a_row(run: Callable[..., Any], name: str, status: str, words: str) -> None:
    row = run(*custom(name), "isolate=true").iloc[0]
    assert row.status == status
    assert words in row.reason


def test_a_hang_is_killed_at_its_timeout(run: Callable[..., Any]) -> None:
    row = run(*custom("Hangs"), "timeout=2").iloc[0]
    assert row.status == "timed_out"
    assert "timeout=2 s" in row.reason


def test_an_isolated_run_equals_one_in_process(run: Callable[..., Any], tmp_path: Path) -> None:
    inside = run(*custom("Honest"), runs="inside").iloc[0]
    child = run(*custom("Honest"), "isolate=true", runs="child").iloc[0]
    assert inside.key == child.key
    assert record(tmp_path / "inside", inside.key)["result"] == record(tmp_path / "child", child.key)["result"]


def test_a_run_leaves_global_state_alone(run: Callable[..., Any]) -> None:
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    run(*custom("Honest"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_a_missing_device_or_logger_is_told(run: Callable[..., Any]) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(AltpropError, match="use trainer=cpu"):
            run("trainer=gpu")
    with pytest.raises(AltpropError, match=r"logger\.nonsense is no option"):
        run("+logger.nonsense=1")
    with pytest.raises(AltpropError, match="did you mean csv"):
        run("logger.kind=csvv")
