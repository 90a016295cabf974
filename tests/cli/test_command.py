"""`altprop` from its command line: answers, exit codes, bad input, sweeps with faults."""

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import MissingConfigException

from altprop.cli.application import _for_each_cell, explain
from altprop.cli.run import run

Command = Callable[..., Any]


def test_one_cell(command: Command) -> None:
    answer = command("seeds=[3]")
    assert answer.code == 0
    assert "[1/1] backprop+adam on digits[20 steps]: done" in answer.err
    assert list(answer.rows.seed) == [3]


def test_an_algorithm_without_optimizer_runs_once_in_a_sweep_over_optimizers(command: Command) -> None:
    answer = command("-m", "algorithm=backprop,null", "optimizer=sgd,adam")
    assert answer.code == 0
    assert sorted(answer.rows.label) == ["backprop+adam", "backprop+sgd", "null"]
    assert "4 runs, 3 executed" in answer.out


def test_an_option_that_the_default_algorithm_lacks_is_asked_of_those_of_the_sweep(command: Command) -> None:
    answer = command("-m", "algorithm=genetic,snes", "algorithm.sigma=0.5", "model.hidden=[4,4]")
    assert answer.code == 0
    assert sorted(answer.rows.label) == ["genetic(sigma=0.5)·hidden=[4,4]", "snes(sigma=0.5)·hidden=[4,4]"]


def test_what_a_choice_would_change_is_left_as_it_is() -> None:
    kept = [
        "algorithm.population=null",
        "model.activation='null'",
        "task.path='/a/b,c'",
        "algorithm.x=1,2",
        "seeds=3",
        "+task.x=a",
    ]
    asked = ["algorithm.sigma=0.5", "model.hidden=[4,4]", "algorithm._target_=my.Rule"]
    choices = ["algorithm.sigma=choice(0.5)", "model.hidden=choice([4,4])"]
    choices += ["algorithm._target_=choice(my.Rule)"]
    assert _for_each_cell(["-m", *kept, *asked]) == ["-m", *kept, *choices]
    assert _for_each_cell([*kept, *asked]) == [*kept, *asked]


def test_the_same_command_again_executes_nothing(command: Command) -> None:
    command("-m", "optimizer=sgd,adam", "seeds=2")
    again = command("-m", "optimizer=sgd,adam", "seeds=2")
    assert again.code == 0
    assert "4 runs, 0 executed" in again.out


def test_whom_the_report_compares_with_can_be_named(command: Command) -> None:
    small = ["task=iris", "budget.currency=steps", "budget.amount=20", "budget.grid=2", "budget.block=10", "probes=off"]
    sweep = ["-m", "optimizer=sgd,adam", "seeds=2", *small]
    answer = command(*sweep, "reference=backprop+sgd", small=False)
    page = answer.runs / "report" / "report.md"
    assert "backprop+sgd (reference)" in page.read_text()
    again = command(*sweep, small=False)
    assert "4 runs, 0 executed" in again.out  # it is no part of a run
    assert "backprop+adam (reference)" in page.read_text()
    wrong = command(*sweep, "reference=sgd", small=False).err
    assert "no report was built: no learner of the report is called sgd; known are: backprop+adam, backprop+" in wrong


def test_more_seeds_run_only_the_new_ones(command: Command) -> None:
    command("seeds=2")
    assert "3 runs, 1 executed" in command("seeds=3").out


def test_faults_leave_the_others_running(command: Command) -> None:
    faults = "rules.Raises,rules.CallsExit,rules.ReturnsNaN,rules.Honest,rules.Missing,nowhere.Class"
    answer = command("-m", "algorithm=custom", f"algorithm._target_={faults}")
    assert answer.code == 2  # two of the cells are mistakes, and have no record
    status = dict(zip(answer.rows.algorithm, answer.rows.status, strict=True))
    assert status == {
        "Raises": "failed",
        "CallsExit": "failed",
        "ReturnsNaN": "non_finite",
        "Honest": "completed",
    }
    assert "rules has no Missing" in answer.err
    assert "cannot import nowhere" in answer.err


def test_a_cell_that_cannot_run_is_refused_with_a_sentence(command: Command) -> None:
    answer = command("algorithm=bptt", "task=digits")
    assert answer.code == 2
    assert "altprop: nothing ran, every cell was refused" in answer.err
    row = answer.rows.iloc[0]
    assert row.status == "refused"
    assert row.reason == "bptt needs a recurrent model; task digits with model mlp offers none; try task=adding"


def test_a_refused_cell_among_others_is_a_row(command: Command) -> None:
    answer = command("-m", "algorithm=bptt,backprop", "task=digits")
    assert answer.code == 0
    assert sorted(answer.rows.status) == ["completed", "refused"]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("task=digit", "task=digit is unknown; did you mean digits"),
        ("algorithm=bakprop", "algorithm=bakprop is unknown; did you mean backprop"),
        ("optimizer=adamm", "did you mean adam"),
        ("model.hidden=[-3]", "model.hidden must be a list of whole numbers of at least 1; got [-3]"),
        ("model.activation=rely", "unknown model.activation=rely; did you mean relu"),
        ("model.normalisation=bath", "did you mean batch"),
        ("budget.amount=0", "budget.amount must be a number above 0; got 0"),
        ("budget.amount=.nan", "budget.amount must be a number above 0"),
        ("budget.currency=flop", "did you mean flops"),
        ("+task.targets.top=null", "task.targets.top must be a number"),
        ("task.batch_size=-2", "task.batch_size must be a whole number of at least 1, or full; got -2"),
        ("task.validation=2", "task.validation must be a share between 0 and 1, or none; got 2"),
        ("optimizer.lr=-1", "optimizer.lr must be a number of at least 0; got -1"),
        ("dtype=float16", "did you mean float"),
        ("seeds=0", "seeds must be a whole number of at least 1; got 0"),
        ("seeds=[1,1]", "seeds must be a list of different whole numbers"),
        ("algorithm.foo=1", "algorithm.foo"),
        ("nonsense=1", "nonsense"),
        ("not an override", "not an override"),
    ],
)
def test_bad_input_is_one_line_before_any_training(
    command: Command, monkeypatch: pytest.MonkeyPatch, argument: str, words: str
) -> None:
    monkeypatch.setattr("altprop.cli.application.run_cell", lambda cell: pytest.fail("it trained"))
    name = argument.partition("=")[0]
    small = [o for o in ("budget.currency=steps", "budget.amount=20") if o.partition("=")[0] != name]
    answer = command(argument, *small, "report=false", small=False)
    assert answer.code == 2
    assert words in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not answer.runs.exists()


@pytest.mark.parametrize(
    ("group", "name", "extra"),
    [
        ("launcher", "submitit_slurm", "slurm"),
        ("launcher", "ray", "ray"),
        ("sweeper", "optuna", "tune"),
    ],
)
def test_an_absent_launcher_names_its_extra(group: str, name: str, extra: str) -> None:
    chosen = f"hydra/{group}={name}"
    error = MissingConfigException(
        f"In 'hydra/config': Could not find 'hydra/{group}/{name}'\nAvailable options: basic"
    )
    assert explain(error, [chosen]) == f"{chosen} needs a package that is not there; pip install 'altprop[{extra}]'"
    other = MissingConfigException("In 'task/x': Could not find 'task/y'")
    assert "pip install" not in explain(other, [chosen])


def test_a_mistake_is_told_within_two_seconds(tmp_path: Path) -> None:
    started = time.perf_counter()
    answer = _process(tmp_path, "altprop.cli.run", "model.hidden=[-3]")
    elapsed = time.perf_counter() - started
    assert answer.returncode == 2
    assert "torch" not in _imported(tmp_path, "altprop.cli.run", "model.hidden=[-3]")
    assert elapsed < 10  # observed .7 s on an idle machine; the bound that matters is that torch is not imported


@pytest.mark.parametrize("target", ["torch.load", "numpy.load", "joblib.load", "os.system", "torch.nn.Linear"])
def test_only_classes_of_the_expected_base_are_built(command: Command, target: str) -> None:
    answer = command("algorithm=custom", f"algorithm._target_={target}", "+algorithm.f=/tmp/x")
    if answer.code == 2:  # told from its source
        assert f"_target_={target} is a function; name a class" in answer.err
        assert not answer.runs.exists()
    else:
        assert answer.code == 1
        assert "is not a class of altprop.algorithm.Algorithm; refused" in answer.rows.iloc[0].reason


@pytest.mark.parametrize("module", ["altprop.cli.run", "altprop.cli.listing"])
def test_help_and_listing_import_no_torch(tmp_path: Path, module: str) -> None:
    arguments = ["--help"] if module.endswith("run") else []
    imported = _imported(tmp_path, module, *arguments)
    assert imported.isdisjoint({"torch", "pytorch_lightning", "sklearn", "deap", "pandas", "matplotlib"})


def test_an_unwritable_folder_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert run(["budget.currency=steps", "budget.amount=5", f"runs_dir={blocked}/runs", "report=false"]) == 2
    assert "cannot hold records" in capfd.readouterr().err


def _process(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=folder, capture_output=True, text=True, env={**os.environ}
    )


def _imported(folder: Path, module: str, *arguments: str) -> set[str]:
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, *arguments], cwd=folder, capture_output=True, text=True
    )
    lines = [line for line in answer.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


def test_a_worker_with_a_fresh_process_is_no_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What loky says of one that has grown; any other warning still shows."""

    def start(arguments: list[str]) -> None:
        warnings.warn(arguments[0], UserWarning, stacklevel=1)

    monkeypatch.setattr("altprop.cli.application.start", start)
    monkeypatch.chdir(tmp_path)
    run(["A worker stopped while some jobs were given to the executor. This can be caused by a memory leak."])
    with pytest.raises(UserWarning, match="else"):
        run(["something else"])
