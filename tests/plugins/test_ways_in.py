"""The three settings for other people's plugins, through the console scripts of an environment of its own."""

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # each makes an environment, and each command imports torch

SMALL = ("task=iris", "budget.currency=steps", "budget.amount=6", "budget.grid=2", "budget.block=3")
QUIET = ("probes=off", "report=false")

RULE = '''"""A rule in one file."""

import torch

from altprop.algorithm import Algorithm
from altprop.capabilities import Capability


class MyRule(Algorithm):
    """Gradient descent by hand."""

    requires = frozenset({Capability.GRADIENT})

    def __init__(self, rate: float = 0.1) -> None:
        self.rate = rate

    def _setup(self, problem):
        pass

    def _step(self, batch):
        loss, grads = self.problem.gradient(batch)
        self.problem.assign(self.problem.flat() - self.rate * self.problem.flatten(grads))
        return loss
'''
YAML = "# A rule of mine.\nname: my_rule\n_target_: my_rule.MyRule\nrate: 0.2\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a rule in one file, and a conf folder beside it."""
    (tmp_path / "my_rule.py").write_text(RULE)
    (tmp_path / "conf" / "algorithm").mkdir(parents=True)
    (tmp_path / "conf" / "algorithm" / "my_rule.yaml").write_text(YAML)
    return tmp_path


def test_one_file_and_no_yaml(bare: Any, folder: Path) -> None:
    custom = ("algorithm=custom", "algorithm._target_=my_rule.MyRule")
    done = bare.run(folder, "altprop", *custom, "+algorithm.rate=0.3", *SMALL, *QUIET)
    assert done.returncode == 0, done.stderr
    ((label, record),) = bare.records(folder).items()
    assert label == "MyRule(rate=0.3)"
    assert (record["status"], record["axes"]["optimizer"]) == ("completed", "none")
    checked = bare.run(folder, "altprop-check", "my_rule:MyRule")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_conf_folder(bare: Any, folder: Path) -> None:
    done = bare.run(folder, "altprop", "--config-dir", "conf", "algorithm=my_rule", *SMALL, *QUIET)
    assert done.returncode == 0, done.stderr
    assert bare.records(folder)["my_rule"]["config"]["algorithm"]["rate"] == 0.2
    listed = bare.run(folder, "altprop-list", "algorithm", "--config-dir", "conf")
    assert "A rule of mine. [conf]" in listed.stdout
    unknown = bare.run(folder, "altprop", "--config-dir", "conf", "algorithm=my_rul", *SMALL)
    assert (unknown.returncode, unknown.stderr) == (2, "altprop: algorithm=my_rul is unknown; did you mean my_rule?\n")


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_conf_folder_in_a_sweep(bare: Any, folder: Path, launcher: str) -> None:
    sweep = ("algorithm=glob([my_*,nul*])", f"hydra/launcher={launcher}")
    done = bare.run(folder, "altprop", "-m", "--config-dir", "conf", *sweep, *SMALL, *QUIET)
    assert done.returncode == 0, done.stderr
    assert {label: r["status"] for label, r in bare.records(folder).items()} == {
        "my_rule": "completed",
        "null": "completed",
    }


def test_a_distribution_brings_every_kind_of_plugin(example: Any, tmp_path: Path) -> None:
    everything = ("algorithm=sign_descent", "optimizer=halving", "dropout=jitter", "model=squared", "task=corner")
    done = example.run(tmp_path, "altprop", *everything, *SMALL[1:], *QUIET)
    assert done.returncode == 0, done.stderr
    ((label, record),) = example.records(tmp_path).items()
    assert label == "sign_descent+halving·dropout=jitter·model=squared"
    assert (record["status"], record["workload"]) == ("completed", "corner[6 steps]")


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_distribution_is_swept_by_a_glob(example: Any, tmp_path: Path, launcher: str) -> None:
    names = {"sign_descent", "backprop", "bptt"}
    sweep = (f"algorithm=glob([{','.join(name[:-1] + '*' for name in sorted(names))}])", "task=corner")
    done = example.run(tmp_path, "altprop", "-m", *sweep, f"hydra/launcher={launcher}", *SMALL[1:], *QUIET)
    assert done.returncode == 0, done.stderr
    found = {r["axes"]["algorithm"]: r["status"] for r in example.records(tmp_path).values()}
    assert found == {"sign_descent": "completed", "backprop": "completed", "bptt": "refused"}


def test_a_glob_over_all_finds_what_is_listed(example: Any, tmp_path: Path) -> None:
    """Nothing runs: every learner that there will ever be would, in each of these environments."""
    code = "from altprop.harness.composition import spell; print(spell('algorithm=glob(*)'))"
    (tmp_path / "spell.py").write_text(code)
    done = example.run(tmp_path, str(tmp_path / "spell.py"))
    assert done.returncode == 0, done.stderr
    listed = json.loads(example.run(tmp_path, "altprop-list", "algorithm", "--json").stdout)["algorithm"]
    found = done.stdout.strip().removeprefix("algorithm=").split(",")
    assert sorted(name.strip("'") for name in found) == sorted(set(listed) - {"custom"})


def test_a_distribution_is_listed_without_being_imported(example: Any, tmp_path: Path) -> None:
    listed = example.run(tmp_path, "altprop-list", "--json", python=("-X", "importtime"))
    assert listed.returncode == 0, listed.stderr
    found = json.loads(listed.stdout)
    for group, name in (
        ("algorithm", "sign_descent"),
        ("task", "corner"),
        ("optimizer", "halving"),
        ("dropout", "jitter"),
        ("model", "squared"),
    ):
        assert found[group][name]["origin"] == "example"
        assert "somebody else's" in found[group][name]["summary"]
    assert found["matrix"]["sign_descent"]["corner"] is None
    imported = {line.rsplit("|", 1)[1].strip() for line in listed.stderr.splitlines() if line.startswith("import time")}
    assert imported.isdisjoint({"example_rules", "example_rules.conf", "torch"})


def test_a_distribution_passes_the_suite(example: Any, tmp_path: Path) -> None:
    done = example.run(tmp_path, "altprop-check", "sign_descent", "task=corner")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("all rules hold") == 2


def test_broken_distributions_are_rows_and_stop_nobody(broken: Any, tmp_path: Path) -> None:
    listed = broken.run(tmp_path, "altprop-list", "algorithm", "--json")
    assert listed.returncode == 0, listed.stderr
    problems = {name: row["problem"] for name, row in json.loads(listed.stdout)["algorithm"].items()}
    assert "not found" in problems["nowhere"]
    assert "untidy.yaml" in problems["untidy"]
    assert "TELEPATHY" in problems["greedy"]
    assert problems["raising"] is problems["backprop"] is None  # nothing is imported to list
    done = broken.run(tmp_path, "altprop", "-m", "algorithm=backprop,raising", *SMALL, *QUIET)
    assert done.returncode == 1, done.stderr
    found = {r["axes"]["algorithm"]: r for r in broken.records(tmp_path).values()}
    assert found["backprop"]["status"] == "completed"
    assert found["raising"]["status"] == "failed"
    assert "boom at import" in found["raising"]["reason"]


@pytest.mark.parametrize(
    ("name", "words"), [("untidy", "untidy.yaml"), ("nowhere", "not found"), ("greedy", "TELEPATHY")]
)
def test_a_broken_distribution_says_in_one_line_what_is_wrong(
    broken: Any, tmp_path: Path, name: str, words: str
) -> None:
    done = broken.run(tmp_path, "altprop", f"algorithm={name}", *SMALL, *QUIET)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists() or not broken.records(tmp_path)


def test_a_broken_distribution_cannot_be_checked(broken: Any, tmp_path: Path) -> None:
    done = broken.run(tmp_path, "altprop-check", "untidy")
    assert done.returncode == 2
    assert "untidy.yaml" in done.stderr
