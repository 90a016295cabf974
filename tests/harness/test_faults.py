"""One faulty learner and two good ones in a sweep, serial and with two workers: exactly one cell is lost, and told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .commands import command, records

SMALL = [
    "probes=off",
    "model.hidden=[8]",
    "budget.currency=steps",
    "budget.amount=20",
    "budget.grid=2",
    "budget.block=10",
    "seeds=[3]",
    "runs_dir=runs",
]
SERIAL: list[str] = []
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


@dataclass(frozen=True)
class Fault:
    """A learner of `rules`, the options that it needs, and how its run must end."""

    rule: str
    status: str
    words: str
    options: tuple[str, ...] = ()

    @property
    def code(self) -> int:
        """Exit code of the command: a run that stopped being finite has its result."""
        return 0 if self.status == "non_finite" else 1


FAULTS = [
    Fault("Raises", "failed", "RuntimeError: boom"),
    Fault("CallsExit", "failed", "sys.exit(3)"),
    Fault("LeavesHard", "failed", "exit code 9 and left no record", ("isolate=true",)),
    Fault("Segfaults", "failed", "died of SIGSEGV", ("isolate=true",)),
    Fault("RunsOut", "out_of_memory", "no memory is left"),
    Fault("Grows", "out_of_memory", "more than memory=1.5GB", ("memory=1.5GB",)),
    Fault("ReturnsNaN", "non_finite", "The loss is not finite at step 7"),
    Fault("PoisonsAParameter", "non_finite", "A parameter stopped being finite"),
    Fault("Hangs", "timed_out", "timeout=10 s", ("timeout=10",)),
]


def sweep(fault: Fault, launcher: list[str]) -> list[str]:
    learners = f"algorithm._target_=rules.Honest,rules.{fault.rule},rules.AlsoHonest"
    return ["-m", *SMALL, *fault.options, *launcher, "algorithm=custom", learners]


def by_algorithm(folder: Path) -> dict[str, dict[str, Any]]:
    return {record["axes"]["algorithm"]: record for record in records(folder).values()}


def leftovers(folder: Path) -> list[str]:
    """Returns what a finished run must not leave: leases, temporary files, checkpoints, scratch folders."""
    patterns = ("*/lease*.json", "**/.*", "*/checkpoint.pt", "*/record.unreadable*")
    return sorted(str(path.relative_to(folder)) for pattern in patterns for path in folder.glob(pattern))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [SERIAL, JOBLIB], ids=["serial", "joblib"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.rule)
def test_a_fault_costs_one_cell(tmp_path: Path, fault: Fault, launcher: list[str]) -> None:
    if launcher:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="extra `parallel` is not installed")
    code, out, err = command(tmp_path, *sweep(fault, launcher))
    found = by_algorithm(tmp_path / "runs")
    assert set(found) == {"Honest", fault.rule, "AlsoHonest"}
    assert [found[name]["status"] for name in ("Honest", "AlsoHonest")] == ["completed", "completed"]
    lost = found[fault.rule]
    assert lost["status"] == fault.status, lost["reason"]
    assert fault.words in lost["reason"]
    assert code == fault.code, err
    assert "3 runs, 3 executed" in out
    assert "Traceback" not in err
    page = (tmp_path / "runs" / "report" / "report.html").read_text()
    assert fault.words.split(" and ")[0] in page
    assert leftovers(tmp_path / "runs") == []

    again, out, err = command(tmp_path, *sweep(fault, launcher))
    expected = 0 if fault.status == "non_finite" else 1
    assert again == fault.code, err
    assert f"3 runs, {expected} executed" in out
    after = by_algorithm(tmp_path / "runs")
    assert [after[name]["measured"] == found[name]["measured"] for name in ("Honest", "AlsoHonest")] == [True, True]
    assert (after[fault.rule]["measured"] == lost["measured"]) is (expected == 0)
    assert after[fault.rule]["status"] == fault.status


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["LeavesHard", "Segfaults"])
def test_a_worker_that_is_lost_without_isolation_is_told(tmp_path: Path, rule: str) -> None:
    """loky gives up the whole sweep then: the command says so in a line, and everything that ended stays."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="extra `parallel` is not installed")
    fault = Fault(rule, "failed", "process")
    one_by_one = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.launcher.pre_dispatch=1"]
    code, out, err = command(tmp_path, *sweep(fault, one_by_one))
    assert code == 1
    lines = [line for line in err.splitlines() if line.startswith("altprop: ")]
    assert len(lines) == 1, err
    assert "a worker of joblib died (" in lines[0]
    assert f"at work on: {rule} on digits" in lines[0]
    assert "with isolate=true" in lines[0]
    assert "Traceback" not in err
    kept = by_algorithm(tmp_path / "runs")
    assert set(kept) == {"Honest"}
    assert "1 runs, 1 executed" in out
    assert (tmp_path / "runs" / "report" / "report.html").exists()

    code, out, _ = command(tmp_path, *sweep(fault, JOBLIB), "isolate=true")
    assert code == 1
    assert "3 runs, 2 executed" in out
    found = by_algorithm(tmp_path / "runs")
    assert found["Honest"] == kept["Honest"]
    assert found["AlsoHonest"]["status"] == "completed"
    assert found[rule]["status"] == "failed"
    assert leftovers(tmp_path / "runs") == []
