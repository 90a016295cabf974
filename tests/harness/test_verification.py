"""The oracles of a class become its oracle check: measured once for each state of its code, whatever they do."""

import json
import random
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from altprop.algorithm import Algorithm
from altprop.conformance.state import generator_states
from altprop.errors import AltpropError
from altprop.harness import verification as module
from altprop.harness.verification import measure, verify, verify_runs
from altprop.records.oracle_checks import load_oracle_checks
from altprop.resolve import resolve_class

DFA = "altprop.algorithms.feedback.dfa.DirectFeedbackAlignment"

RULE = '''
"""A rule with oracles."""
import random, sys, warnings
import numpy as np
import torch
from altprop import Algorithm, Oracle
named = lambda given: [Oracle(name, *one, differs=name.startswith("not ")) for name, one in given.items()]

class Rule(Algorithm):
    def _setup(self, problem):
        self.problem = problem

    def _step(self, batch):
        return self.problem.objective(batch)

    @classmethod
    def oracles(cls):
        return named({ORACLES})
'''


def rule(folder: Path, oracles: str, name: str = "proven_rule") -> type[Algorithm]:
    """Write a rule into a file, import it anew and return the class."""
    (folder / f"{name}.py").write_text(RULE.replace("{ORACLES}", oracles))
    sys.modules.pop(name, None)
    return resolve_class(f"{name}.Rule", Algorithm)  # type: ignore[type-abstract]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions of a file within one second
    return tmp_path


def test_an_oracle_check_holds_what_the_oracles_say(tmp_path: Path) -> None:
    oracle_check = verify("dfa", DFA, tmp_path)
    kind = resolve_class(DFA, Algorithm)  # type: ignore[type-abstract]
    assert {one.name: (one.error, one.tolerance) for one in oracle_check.oracles} == {
        oracle.name: (oracle.measure(), oracle.tolerance) for oracle in kind.oracles()
    }
    assert [one.differs for one in oracle_check.oracles].count(True) == 2
    assert oracle_check.failing == []
    assert oracle_check.settled
    assert oracle_check.data["provenance"]["torch"] == torch.__version__
    assert oracle_check.data["provenance"]["threads"] == 1
    assert all(one.seconds > 0 for one in oracle_check.oracles)


def test_a_known_oracle_check_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = verify("dfa", DFA, tmp_path)
    before = first.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(module, "measure", lambda kind: pytest.fail("it was measured again"))
        assert verify("dfa", DFA, tmp_path).data == first.data
    calls = []
    monkeypatch.setattr(module, "measure", lambda kind: (calls.append(kind), measure(kind))[1])
    verify("dfa", DFA, tmp_path, again=True)
    verify("another_name", DFA, tmp_path)
    assert len(calls) == 2
    assert first.path.read_bytes() != before  # times differ


@pytest.mark.parametrize(
    "change",
    [
        {"provenance.torch": "0.1"},
        {"provenance.cpu": "another"},
        {"provenance.fingerprint": "0"},
        {"target": "other.X"},
    ],
    ids=str,
)
def test_an_oracle_check_of_other_versions_is_measured_again(tmp_path: Path, change: dict[str, str]) -> None:
    oracle_check = verify("dfa", DFA, tmp_path)
    data = json.loads(oracle_check.path.read_text())
    for path, value in change.items():
        place = data["provenance"] if path.startswith("provenance") else data
        place[path.rpartition(".")[2]] = value
    oracle_check.path.write_text(json.dumps(data))
    again = verify("dfa", DFA, tmp_path)
    assert again.data["provenance"] == oracle_check.data["provenance"]
    assert again.target == DFA


def test_a_torn_oracle_check_is_measured_again(tmp_path: Path) -> None:
    oracle_check = verify("dfa", DFA, tmp_path)
    oracle_check.path.write_text("{")
    assert verify("dfa", DFA, tmp_path).failing == []


def test_other_code_has_another_oracle_check(folder: Path) -> None:
    rule(folder, '{"a": (lambda: 0.0, 1.0)}')
    first = verify("r", "proven_rule.Rule", folder / "runs")
    rule(folder, '{"a": (lambda: 0.0, 2.0)}')
    second = verify("r", "proven_rule.Rule", folder / "runs")
    assert first.source != second.source
    assert first.path != second.path
    assert second.oracles[0].tolerance == 2.0
    assert len(load_oracle_checks(folder / "runs")[0]) == 2


@pytest.mark.parametrize(
    ("oracle", "words"),
    [
        ("lambda: 1 / 0", "ZeroDivisionError: division by zero (proven_rule.py, line 18)"),
        ("lambda: sys.exit(3)", "SystemExit: 3 (proven_rule.py, line 18)"),
        ("lambda: (_ for _ in ()).throw(MemoryError())", "MemoryError (proven_rule.py, line 18)"),
        ("lambda: None", "TypeError: float() argument must be a string or a real number, not 'NoneType'"),
        ("lambda: torch.zeros(2)", "ValueError: only one element tensors can be converted"),
        ("3", "TypeError: 'int' object is not callable"),
        ("lambda: torch.ones(2) @ torch.ones(3)", "(proven_rule.py, line 18)"),
        ('lambda: (_ for _ in ()).throw(ValueError("two\\n lines"))', "ValueError: two lines"),
    ],
)
def test_an_oracle_that_raises_is_a_failed_oracle_check(folder: Path, oracle: str, words: str) -> None:
    rule(folder, '{"good": (lambda: 0.0, 1.0), "bad": (' + oracle + ', 1.0), "not bad": (' + oracle + ", 1.0)}")
    oracle_check = verify("r", "proven_rule.Rule", folder / "runs")
    assert [one.passed for one in oracle_check.oracles] == [True, False, False]
    assert words in oracle_check.oracles[1].reason
    assert "\n" not in oracle_check.oracles[1].reason
    assert len(oracle_check.failing) == 2


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="this system has no alarm")
def test_an_oracle_that_does_not_end_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 0.3)
    before = signal.getsignal(signal.SIGALRM)
    kind = rule(folder, '{"hangs": (lambda: sum(0 for _ in iter(int, 1)), 1.0), "holds": (lambda: 0.0, 1.0)}')
    (hangs, holds), problem = measure(kind)
    assert problem == ""
    assert not hangs.passed
    assert hangs.reason.startswith("TimeoutError: it did not end within 0.3 s (")
    assert holds.passed
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_raised_is_asked_again(folder: Path) -> None:
    """An exception may be the machine's: memory, a missing library."""
    rule(folder, '{"a": (lambda: 0.0 if hasattr(sys, "_fine") else 1 / 0, 1.0)}')
    assert verify("r", "proven_rule.Rule", folder / "runs").failing
    sys._fine = True  # type: ignore[attr-defined]
    try:
        assert verify("r", "proven_rule.Rule", folder / "runs").failing == []
    finally:
        del sys._fine  # type: ignore[attr-defined]


def test_what_fails_to_hold_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule(folder, '{"a": (lambda: 2.0, 1.0)}')
    assert verify("r", "proven_rule.Rule", folder / "runs").failing
    monkeypatch.setattr(module, "measure", lambda kind: pytest.fail("it was measured again"))
    assert verify("r", "proven_rule.Rule", folder / "runs").failing


def test_what_is_no_oracle_is_told(folder: Path) -> None:
    rule(folder, '{}) or {"a": 1.0}.items() or (None')
    found = verify("r", "proven_rule.Rule", folder / "runs").failing
    assert found == ["oracles() raised TypeError: oracles() must return altprop.Oracle values; got a tuple"]


def test_a_class_that_cannot_name_its_oracles(folder: Path) -> None:
    rule(folder, "1 / 0")
    oracle_check = verify("r", "proven_rule.Rule", folder / "runs")
    assert oracle_check.oracles == ()
    assert oracle_check.failing == ["oracles() raised ZeroDivisionError: division by zero (proven_rule.py, line 18)"]


def test_oracles_leave_no_trace_and_see_none(folder: Path) -> None:
    """They draw the same each time, whatever was drawn before; threads, switches, generators and warnings stay."""
    kind = rule(
        folder,
        """{
            "draws": (lambda: float(torch.rand(()) + np.random.rand() + random.random()), 9.0),
            "again": (lambda: float(torch.rand(()) + np.random.rand() + random.random()), 9.0),
            "switches": (lambda: torch.get_num_threads() * (torch.set_default_dtype(torch.float64) is None), 1.0),
            "grad": (lambda: float(torch.set_grad_enabled(False) is None), 9.0),
            "warns": (lambda: float(warnings.warn("careful") is None), 9.0),
        }""",
    )
    threads = torch.get_num_threads()
    before = generator_states()
    torch.set_num_threads(2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            first, problem = measure(kind)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert problem == ""
    assert generator_states() == before
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == (torch.float32, True)
    torch.rand(3), random.random()
    second, _ = measure(kind)
    assert [one.error for one in first] == [one.error for one in second]
    assert first[0].error == first[1].error
    assert first[2].error == 1.0  # one thread
    assert all(one.passed for one in first)


def test_only_algorithms_with_a_result_are_proven(run: Callable[..., Any], tmp_path: Path) -> None:
    run("budget.amount=10", "seeds=2")
    run("budget.amount=10", "algorithm=custom", "algorithm._target_=rules.Raises")
    run("budget.amount=10", "algorithm=bptt")  # refused
    run("budget.amount=10", "algorithm=custom", "algorithm._target_=rules.ReturnsNaN")
    verification = verify_runs(tmp_path / "runs")
    assert [(oracle_check.algorithm, len(oracle_check.oracles) > 0) for oracle_check in verification.oracle_checks] == [
        ("ReturnsNaN", False),
        ("backprop", True),
    ]
    assert verification.skipped == []
    assert verification.complaints() == []
    assert verify_runs(tmp_path / "runs", []).oracle_checks == []
    assert len(load_oracle_checks(tmp_path / "runs")[0]) == 2


def test_the_runs_carry_the_code_that_the_oracle_check_is_of(run: Callable[..., Any], tmp_path: Path) -> None:
    row = run("budget.amount=10").iloc[0]
    (oracle_check,) = verify_runs(tmp_path / "runs", [row.key]).oracle_checks
    assert row.provenance["sources"]["algorithm"] == oracle_check.code != oracle_check.source


def test_an_algorithm_that_cannot_be_imported_any_more_is_said(
    run: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule(folder, "{}", "leaving")
    run("budget.amount=10", "algorithm=custom", "algorithm._target_=leaving.Rule")
    (folder / "leaving.py").write_text("import sys\nsys.exit(4)\n")
    monkeypatch.delitem(sys.modules, "leaving")
    verification = verify_runs(folder / "runs")
    assert verification.oracle_checks == []
    assert verification.complaints() == ["Rule is not verified: importing leaving.Rule called sys.exit(4)"]


def test_a_path_that_is_no_algorithm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AltpropError, match="is not a class of"):
        verify("x", "altprop.harness.verification.Verification", tmp_path)


def test_complaints_and_counts(folder: Path) -> None:
    rule(folder, '{"a": (lambda: 2.0, 1.0), "not b": (lambda: 2.0, 1.0)}')
    verification = module.Verification([verify("r", "proven_rule.Rule", folder / "runs")], ["x is not verified: gone"])
    assert verification.complaints() == [
        "x is not verified: gone",
        "r fails its oracle check: the oracle 'a' measures 2, above its tolerance 1",
    ]
    assert verification.count() == "1 of 2 oracle checks hold"


def test_a_cached_oracle_check_needs_no_torch(tmp_path: Path) -> None:
    """A command that finds all its runs and oracle checks imports nothing heavy for them."""
    import subprocess

    verify("dfa", DFA, tmp_path)
    source = (
        "import sys\nfrom altprop.harness.verification import verify\n"
        f"check = verify('dfa', {DFA!r}, {str(tmp_path)!r})\nprint(len(check.oracles), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "False"]
