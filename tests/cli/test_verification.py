"""OracleChecks from the command line: made before the page, kept by altprop-check, compared by altprop-reproduce."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from altprop.cli import check as check_module
from altprop.cli import run as run_module
from altprop.cli.reproduce import main as reproduce
from altprop.harness import verification as verification
from altprop.records.oracle_checks import OracleCheck, load_oracle_checks

Command = Callable[..., Any]
SMALL = ("task=iris", "budget.currency=steps", "budget.amount=10", "budget.grid=2", "budget.block=5", "probes=off")
RULE = '''"""A rule that is not what it says."""
from altprop import Algorithm, Oracle


class Pretends(Algorithm):
    def _setup(self, problem):
        """Nothing."""

    def _step(self, batch):
        return self.problem.objective(batch)

    @classmethod
    def oracles(cls):
        return Oracle("is <b>backprop</b>", lambda: 0.5, 1e-12), Oracle("not that", lambda: 1.0, 0.1, differs=True), \\
            Oracle("raises", lambda: 1 / 0, 1.0)
'''


@pytest.fixture
def rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A rule in one file whose oracles fail, and the overrides that choose it."""
    (tmp_path / "pretending.py").write_text(RULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield ["algorithm=custom", "algorithm._target_=pretending.Pretends"]
    sys.modules.pop("pretending", None)


def oracle_checks(runs: Path) -> dict[str, OracleCheck]:
    return {oracle_check.algorithm: oracle_check for oracle_check in load_oracle_checks(runs)[0]}


def test_a_command_proves_its_algorithms_before_the_page(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = command("-m", "algorithm=backprop,null,bptt", *SMALL, small=False)
    assert answer.code == 0
    made = oracle_checks(answer.runs)
    assert list(made) == ["backprop", "null"]  # bptt was refused
    sources = {row.algorithm: row.provenance["sources"]["algorithm"] for row in answer.rows.itertuples()}
    assert {name: oracle_check.code for name, oracle_check in made.items()} == {n: sources[n] for n in made}
    page = (answer.runs / "report" / "report.html").read_text()
    count = sum(len(oracle_check.oracles) for oracle_check in made.values())
    assert f"{count} of {count} oracle checks of 2 algorithms hold" in page
    assert "other code" not in page
    assert len(answer.rows) == 3  # an oracle check is no run
    monkeypatch.setattr(verification, "measure", lambda kind: pytest.fail("it was measured again"))
    again = command("-m", "algorithm=backprop,null,bptt", *SMALL, small=False)
    assert "3 runs, 0 executed" in again.out
    assert (answer.runs / "report" / "report.html").read_text() == page


def test_without_a_report_nothing_is_proven(command: Command) -> None:
    answer = command(*SMALL, "report=false", small=False)
    assert answer.code == 0
    assert oracle_checks(answer.runs) == {}


def test_what_fails_is_told_and_costs_no_run(command: Command, rule: list[str]) -> None:
    answer = command(*rule, *SMALL, small=False)
    assert answer.code == 0
    assert "altprop: Pretends fails its oracle check: the oracle 'is <b>backprop</b>' measures 0.5" in answer.err
    assert "the oracle 'raises' raised ZeroDivisionError: division by zero (pretending.py, line 15)" in answer.err
    page = (answer.runs / "report" / "report.html").read_text()
    assert "Pretends fails 2 of its 3 oracle checks: “is &lt;b&gt;backprop&lt;/b&gt;”, “raises”; it may not be" in page
    assert "<b>backprop" not in page


def test_the_time_is_told_where_it_is_above_a_second(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "asking took" not in command("algorithm=null", *SMALL, small=False).out
    monkeypatch.setattr(verification, "SLOW", -1.0)
    assert "3 of 3 oracle checks hold; asking took 0.0 s" in command("algorithm=null", *SMALL, small=False).out


def test_ctrl_c_while_proofs_are_made(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(verification, "verify_runs", interrupted)
    answer = command("algorithm=null", *SMALL, small=False)
    assert answer.code == 130
    assert "interrupted; the runs are safe" in answer.err
    assert len(answer.rows) == 1


def check(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        check_module.main(arguments)
    return int(stop.value.code or 0)


@pytest.fixture
def no_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the rules of the conformance suite out: they have tests of their own."""
    monkeypatch.setattr("altprop.conformance.suite.check", lambda target: iter(()))


@pytest.mark.usefixtures("no_rules")
def test_check_measures_anew_and_keeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    assert check("null", "task=iris", "--runs", str(runs)) == 0
    (oracle_check,) = oracle_checks(runs).values()
    out = capsys.readouterr().out
    assert f"3 of 3 oracle checks hold: {oracle_check.path}" in out
    assert "only algorithms have oracles" in out
    data = json.loads(oracle_check.path.read_text())
    data["oracles"] = []
    oracle_check.path.write_text(json.dumps(data))
    assert check("null", "--runs", str(runs)) == 0
    assert len(oracle_checks(runs)["null"].oracles) == 3


@pytest.mark.usefixtures("no_rules")
def test_check_of_a_class_keeps_what_its_runs_look_for(
    command: Command, rule: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check("pretending:Pretends", "--runs", str(tmp_path / "runs")) == 1
    (oracle_check,) = oracle_checks(tmp_path / "runs").values()
    assert (oracle_check.algorithm, oracle_check.target) == ("Pretends", "pretending.Pretends")
    oracle_check.path.write_text(oracle_check.path.read_text().replace('"raises"', '"not kept"').replace("null", "0.0"))
    monkeypatch.setattr(verification, "measure", lambda kind: pytest.fail("it was measured again"))
    assert command(*rule, *SMALL, small=False).code == 0


@pytest.mark.usefixtures("no_rules")
def test_check_writes_nothing_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check("null") == 0
    assert list(tmp_path.iterdir()) == []


def test_check_keeps_no_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("backprop", "--gradient", "--runs", "runs") == 2
    assert "leave --gradient out" in capsys.readouterr().err


@pytest.fixture
def published(command: Command, tmp_path: Path) -> Path:
    """A published report: records with their oracle checks."""
    runs = command("algorithm=null", *SMALL, small=False).runs
    folder = tmp_path / "reports" / "small"
    shutil.copytree(runs, folder / "records", ignore=shutil.ignore_patterns("report"))
    return folder


def again(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        reproduce(arguments)
    return int(stop.value.code or 0)


def test_reproduce_measures_and_compares_proofs(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def rerun(arguments: list[str]) -> int:
        place = Path(next(a for a in arguments if a.startswith("runs_dir=")).partition("=")[2])
        shutil.copytree(published / "records", place, ignore=shutil.ignore_patterns("oracle_checks"))
        return 0

    monkeypatch.setattr(run_module, "run", rerun)
    here = tmp_path / "here"
    assert again(str(published), "--runs", str(here)) == 0
    assert "3 of 3 published oracle checks hold here as well." in capfd.readouterr().out
    path = oracle_checks(here)["null"].path
    data = json.loads(path.read_text())
    data["oracles"][0]["error"] = 0.25
    data["oracles"][1]["name"] = "renamed"
    path.write_text(json.dumps(data))
    assert again(str(published), "--runs", str(here), "--compare-only") == 1
    out = capfd.readouterr().out
    assert "1 of 3 published oracle checks hold here as well." in out
    assert "no longer: null: the oracle 'no weight changes' measures 0.25, above its tolerance 0" in out
    assert "not measured here: null: its loss is the objective" in out
    path.unlink()
    assert again(str(published), "--runs", str(here), "--compare-only") == 0
    assert "0 of 3 published oracle checks hold here as well." in capfd.readouterr().out
