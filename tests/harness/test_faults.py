"""Faulty learners in sweeps, serial and with two workers: each costs its own cell and no other, and is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from altprop.cli.run import run

from .commands import command, records

SMALL = [
    "probes=off",
    "model.hidden=[8]",
    "budget.currency=steps",
    "budget.amount=20",
    "budget.grid=2",
    "budget.block=10",
    "seeds=[3]",
]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
GOOD = ("Honest", "AlsoHonest")


@dataclass(frozen=True)
class Fault:
    """A learner of `rules`, the options that it needs, and how its run must end."""

    rule: str
    status: str
    words: str
    options: tuple[str, ...] = ()

    @property
    def final(self) -> bool:
        """Whether the same command leaves it as it is."""
        return self.status == "non_finite"

    @property
    def code(self) -> int:
        """Exit code of the command: a run that stopped being finite has its result."""
        return 0 if self.final else 1


FAULTS = [
    Fault("Raises", "failed", "RuntimeError: boom"),
    Fault("CallsExit", "failed", "sys.exit(3)"),
    Fault("LeavesHard", "failed", "exit code 9", ("isolate=true",)),
    Fault("Segfaults", "failed", "died of SIGSEGV", ("isolate=true",)),
    Fault("RunsOut", "out_of_memory", "no memory is left"),
    Fault("Grows", "out_of_memory", "more than memory=1.5GB", ("memory=1.5GB",)),
    Fault("ReturnsNaN", "non_finite", "The loss is not finite at step 7"),
    Fault("PoisonsAParameter", "non_finite", "A parameter stopped being finite"),
    Fault("Hangs", "timed_out", "timeout=15 s", ("timeout=15",)),
]


def sweep(folder: Path, faults: Sequence[Fault], launcher: Sequence[str] = ()) -> list[str]:
    """Returns a command: the faulty learners with a good one before and one behind them."""
    rules = [GOOD[0], *(fault.rule for fault in faults), GOOD[1]]
    options = sorted({option for fault in faults for option in fault.options})
    learners = "algorithm._target_=" + ",".join(f"rules.{rule}" for rule in rules)
    return ["-m", *SMALL, *options, *launcher, f"runs_dir={folder}", "algorithm=custom", learners]


def by_algorithm(folder: Path) -> dict[str, dict[str, Any]]:
    return {record["axes"]["algorithm"]: record for record in records(folder).values()}


def leftovers(folder: Path) -> list[str]:
    """Returns what ended runs must not leave: leases, temporary files, checkpoints, scratch folders."""
    patterns = ("*/lease*.json", "**/.*", "*/checkpoint.pt", "*/record.unreadable*")
    return sorted(str(path.relative_to(folder)) for pattern in patterns for path in folder.glob(pattern))


def check(folder: Path, faults: Sequence[Fault], code: int, out: str, err: str) -> dict[str, dict[str, Any]]:
    """Every learner has its record, the good ones a result, the report is there, and nothing lies about."""
    found = by_algorithm(folder)
    assert set(found) == {*GOOD, *(fault.rule for fault in faults)}
    assert [found[name]["status"] for name in GOOD] == ["completed", "completed"]
    page = (folder / "report" / "report.html").read_text()
    for fault in faults:
        assert found[fault.rule]["status"] == fault.status, found[fault.rule]["reason"]
        assert fault.words in found[fault.rule]["reason"]
        assert fault.words in page
    assert code == max(fault.code for fault in faults), err
    assert f"{len(found)} runs, {len(found)} executed" in out
    assert "Traceback" not in err
    assert leftovers(folder) == []
    return found


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.rule)
def test_a_fault_costs_one_cell(tmp_path: Path, capfd: pytest.CaptureFixture[str], fault: Fault) -> None:
    code = run(sweep(tmp_path / "runs", [fault]))
    check(tmp_path / "runs", [fault], code, *capfd.readouterr())


@pytest.mark.slow
@pytest.mark.parametrize("isolated", [False, True])
def test_faults_cost_one_cell_each_beside_other_workers(tmp_path: Path, isolated: bool) -> None:
    faults = [fault for fault in FAULTS if bool(fault.options) is isolated]
    code, out, err = command(tmp_path, *sweep(tmp_path / "runs", faults, JOBLIB))
    check(tmp_path / "runs", faults, code, out, err)


@pytest.mark.slow
def test_the_same_command_runs_what_failed_and_that_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    faults = [fault for fault in FAULTS if not fault.options]
    arguments = sweep(tmp_path / "runs", faults)
    first = check(tmp_path / "runs", faults, run(arguments), *capfd.readouterr())
    assert run(arguments) == 1
    assert f"{len(first)} runs, {sum(not fault.final for fault in faults)} executed" in capfd.readouterr().out
    after = by_algorithm(tmp_path / "runs")
    same = {name for name, record in after.items() if record["measured"] == first[name]["measured"]}
    assert same == {*GOOD, *(fault.rule for fault in faults if fault.final)}
    assert {name: record["status"] for name, record in after.items()} == {n: r["status"] for n, r in first.items()}


@pytest.mark.slow
def test_a_worker_that_is_lost_without_isolation_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """loky gives up the whole sweep then: the command says so in a line, and everything that ended stays."""
    fault, folder = Fault("LeavesHard", "failed", "exit code 9"), tmp_path / "runs"
    one_by_one = [*JOBLIB, "hydra.launcher.pre_dispatch=1"]
    code, out, err = command(tmp_path, *sweep(folder, [fault], one_by_one))
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("altprop: ")]
    assert "a worker of joblib died (" in line
    assert "at work on: LeavesHard·hidden=[8] on digits" in line
    assert "with isolate=true" in line
    assert "Traceback" not in err
    kept = by_algorithm(folder)
    assert set(kept) == {"Honest"}
    assert "1 run, 1 executed" in out
    assert (folder / "report" / "report.html").exists()

    assert run([*sweep(folder, [fault]), "isolate=true"]) == 1
    assert "3 runs, 2 executed" in capfd.readouterr().out
    found = by_algorithm(folder)
    assert found["Honest"] == kept["Honest"]
    assert (found["AlsoHonest"]["status"], found["LeavesHard"]["status"]) == ("completed", "failed")
    assert leftovers(folder) == []
