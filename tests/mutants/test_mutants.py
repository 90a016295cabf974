"""The harness of mutants: every family has some, each is killed, and what verifies nothing is told."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import catalogue
import pytest
from catalogue import ROOT

MIN_MUTANTS = 5
FAMILIES = sorted(path.parent.name for path in (ROOT / "algorithms").glob("*/__init__.py"))


def harness(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.mutants", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


# One of each outcome.
EXAMPLES = """
["killed by an oracle"]
file = "algorithms/control/null.py"
old = "self.problem.objective(batch)"
new = "2 * self.problem.objective(batch)"
killers = ["oracles of null"]

["killed by the second"]
file = "algorithms/control/null.py"
old = "self.problem.objective(batch)"
new = "2 * self.problem.objective(batch)"
killers = ["oracles of null: no weight changes", "oracles of null: its loss is the objective"]

["nothing changes"]
file = "algorithms/control/null.py"
old = "return self.problem.objective(batch)"
new = "return (self.problem.objective(batch))"
killers = ["oracles of null", "tests/mutants/either.py::test_passes"]

["text is gone"]
file = "algorithms/control/null.py"
old = "return self.problem.objectives(batch)"
new = "return None"
killers = ["oracles of null"]

["file is gone"]
file = "algorithms/control/nil.py"
old = "a"
new = "b"
killers = ["oracles of null"]

["no Python"]
file = "algorithms/control/null.py"
old = "return self.problem.objective(batch)"
new = "return ("
killers = ["oracles of null"]

["an error is no check"]
file = "algorithms/control/null.py"
old = "return self.problem.objective(batch)"
new = "return 1 / 0"
killers = ["oracles of null"]

["an exit"]
file = "algorithms/control/null.py"
old = "return self.problem.objective(batch)"
new = "__import__('os')._exit(3)"
killers = ["oracles of null"]

["no such oracle"]
file = "algorithms/control/null.py"
old = "return self.problem.objective(batch)"
new = "return 2 * self.problem.objective(batch)"
killers = ["oracles of null: its gain"]

["no such test"]
file = "algorithms/control/null.py"
old = "return self.problem.objective(batch)"
new = "return 2 * self.problem.objective(batch)"
killers = ["tests/mutants/either.py::test_nothing"]

["fails without it"]
file = "algorithms/control/null.py"
old = "return self.problem.objective(batch)"
new = "return 2 * self.problem.objective(batch)"
killers = ["tests/mutants/either.py::test_fails"]
"""
FATES = {
    "killed by an oracle": "oracles of null: its loss is the objective",
    "killed by the second": "oracles of null: its loss is the objective",
    "nothing changes": "SURVIVED",
    "text is gone": "STALE its old text occurs 0 times in algorithms/control/null.py",
    "file is gone": "STALE there is no algorithms/control/nil.py",
    "no Python": "BROKEN SyntaxError: ",
    "an error is no check": "CRASHED null, no weight changes: ZeroDivisionError: ",
    "an exit": "CRASHED the process ended with exit code 3",
    "no such oracle": "CRASHED null has no oracle its gain",
    "no such test": "CRASHED tests/mutants/either.py::test_nothing: no test ran (pytest ended with 4)",
    "fails without it": "tests/mutants/either.py::test_fails",
}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    folder = tmp_path_factory.mktemp("mutants")
    (folder / "examples.toml").write_text(EXAMPLES)
    return harness("--catalogue", str(folder))


@pytest.mark.parametrize("name", FATES)
def test_every_fate_is_told_in_its_row(examples: subprocess.CompletedProcess[str], name: str) -> None:
    (row,) = [line for line in examples.stdout.splitlines() if line.startswith("examples ") and f" {name} " in line]
    _, _, told = row.partition(name)
    assert told.split(maxsplit=1)[1].startswith(FATES[name])


def test_only_kills_by_sound_checks_count(examples: subprocess.CompletedProcess[str]) -> None:
    assert examples.returncode == 1, examples.stderr
    *_, warning, last = examples.stdout.splitlines()
    found = "killed tests/mutants/either.py::test_fails"
    assert warning == f"NOT KILLED examples, fails without it: the check fails without it too, {found}"
    assert last.startswith("2 of 11 mutants killed, ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["no_such_family"],
            "tests.mutants: unknown family no_such_family; known are: backprop, circuit, closed_form, ",
        ),
        (["--catalogue", "{folder}"], "tests.mutants: half.toml, 'x': a mutant has file, old, new and killers"),
    ],
)
def test_an_unusable_catalogue_is_told_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "half.toml").write_text('[x]\nfile = "a.py"\nold = "a"\nnew = "b"\nkillers = []\n')
    done = harness(*(argument.replace("{folder}", str(tmp_path)) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_mutants(family: str) -> None:
    """A new folder in algorithms/ needs tests/mutants/families/FAMILY.toml, with mutants of each of its algorithms."""
    assert family in catalogue.families(), f"write {MIN_MUTANTS} mutants into tests/mutants/families/{family}.toml"
    edited = Counter(mutant.file for mutant in catalogue.load([family]))
    own = {file: count for file, count in edited.items() if file.startswith(f"algorithms/{family}/")}
    assert sum(own.values()) >= MIN_MUTANTS
    for path in (ROOT / "conf").glob("*/*.yaml"):
        for module in re.findall(rf"^_target_: altprop[.](algorithms[.]{family}[.]\w+)[.]", path.read_text(), re.M):
            assert module.replace(".", "/") + ".py" in own, f"{module} has no mutant"


def test_every_mutant_still_applies() -> None:
    stale = {(mutant.family, mutant.name): mutant.stale() for mutant in catalogue.load()}
    assert {key: reason for key, reason in stale.items() if reason is not None} == {}


@pytest.mark.slow
def test_every_mutant_is_killed() -> None:
    done = harness()
    assert done.returncode == 0, done.stdout + done.stderr
