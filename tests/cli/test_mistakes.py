"""Mistakes in a command: one sentence that says what to do, exit code 2, no record, and torch is never imported."""

import importlib.util
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import altprop
from altprop import catalogue
from altprop.errors import AltpropError
from altprop.harness.composition import compose_cell
from altprop.harness.sweep import Outcome, median_of
from altprop.harness.validation import validate

# One process makes all the mistakes of the table, each as a command of its own.
COMMANDS = """
import contextlib, io, json, os, sys, time
from altprop.cli.run import run
for command in json.load(sys.stdin):
    told = [io.StringIO(), io.StringIO()]
    started = time.process_time()
    with contextlib.redirect_stdout(told[0]), contextlib.redirect_stderr(told[1]):
        code = run(command.split())
    spent = time.process_time() - started
    print(json.dumps([command, code, *(one.getvalue() for one in told), 'torch' in sys.modules, os.listdir(), spent]))
"""
MISTAKES = [
    ("+seed=3", "seed is no option; say seeds=[3]"),
    ("seed=3", "seed is no option; say seeds=[3]"),
    ("+optmizer.lr=.5", "optmizer is no option; did you mean optimizer?"),
    ("+algorithms=dfa", "algorithms is no option; did you mean algorithm?"),
    ("+trainer.max_epochs=3", "say budget.currency=epochs budget.amount=3"),
    ("+max_steps=3", "say budget.currency=steps budget.amount=3"),
    ("+trainer.acelerator=gpu", "trainer.acelerator is no option; did you mean accelerator?"),
    ("+probes.row=3", "probes.row is no option; did you mean rows?"),
    ("+logger.projekt=a", "logger.projekt is no option; did you mean project?"),
    ("+budget.amounts=3", "budget.amounts is no option; did you mean amount?"),
    ("budget.curency=steps", "budget.curency is no option; did you mean currency?"),
    ("+model.width=-3", "model.width is no option of MLP; known are: activation, hidden, initialisation, norm"),
    ("+model.hiden=[3]", "model.hiden is no option of MLP; did you mean hidden?"),
    ("model.hidden=[0]", "model.hidden must be a list of whole numbers of at least 1; got [0]"),
    ("model.activation=rely", "unknown model.activation=rely; did you mean relu"),
    ("+model.spec=1", "model.spec is no option of MLP"),
    ("dropout=standard dropout.p=2", "dropout.p must be a number from 0 to 0.999999; got 2"),
    (
        "dropout=standard +dropout.rate=.1",
        "dropout.rate is no option of StandardDropout; known are: layers, p, p_input",
    ),
    ("optimizer.lr=-1", "optimizer.lr must be a number of at least 0; got -1"),
    ("optimizer=sgd optimizer.momentum=2", "optimizer.momentum must be a number of at least 0 and below 1; got 2"),
    ("+optimizer.momentm=.9", "optimizer.momentm is no option of Adam; known are:"),
    ("+optimizer.momentum=.9", "optimizer.momentum is no option of Adam"),
    ("optimizer.amsgrad=3", "optimizer.amsgrad must be true or false; got 3"),
    ("optimizer.schedule=cosin", "unknown optimizer.schedule=cosin; did you mean cosine?"),
    ("algorithm=dfa algorithm.scale=0", "algorithm.scale must be a number above 0; got 0"),
    ("algorithm=dfa algorithm.distribution=cauchy", "unknown algorithm.distribution=cauchy; known are: normal"),
    ("algorithm=genetic algorithm.population=2.5", "algorithm.population must be a whole number of at least 2"),
    ("algorithm=backprop +algorithm.scale=2", "algorithm.scale is no option of Backprop"),
    ("-m algorithm=genetic,backprop algorithm.sigma=2", "algorithm.sigma is no option of Backprop; known are: none"),
    ("-m algorithm=genetic,snes algorithm.sigm=2", "algorithm.sigm is no option of Genetic; did you mean sigma?"),
    ("algorithm=custom algorithm._target_=nowhere.Rule", "cannot import nowhere"),
    ("algorithm=custom algorithm._target_=torch.load", "_target_=torch.load is a function; name a class"),
    ("algorithm=custom algorithm._target_=altprop.models.mlp.MLP", "is not a class of altprop.algorithm.Algorithm"),
    ("task.batch_size=0", "task.batch_size must be a whole number of at least 1, or full; got 0"),
    ("task.validation=2", "task.validation must be a share between 0 and 1, or none; got 2"),
    ("task.loss=cubic", "unknown task.loss=cubic; known are:"),
    ("task=table", "task=table needs task.path; say task.path=..."),
    ("task=table task.path=no.csv task.target=y", "there is no file no.csv"),
    ("task=arrays task.path=no.npz", "task.path: there is no file no.npz"),
    ("task=images task.path=nowhere", "task.path: there is no folder nowhere"),
    ("task.penalty.l3=1", "task.penalty.l3 is no penalty; known are: l1, l2, max_norm"),
    ("+task.bits=3", "task.bits is no option of Digits"),
    ("budget.amount=-1", "budget.amount must be a number above 0; got -1"),
    ("trainer=gpu", "trainer=gpu needs a GPU and"),
    ("trainer=null", "trainer=null names nothing; known are: cpu, ddp, gpu"),
    ("probes=ful", "probes=ful is unknown; did you mean full?"),
    ("probes=true", "probes=true names nothing; known are: basic, full, off, standard"),
    ("+few_examples=digits_99", "few_examples=digits_99 is unknown; did you mean"),
    ("hydra/launcher=joblibb", "hydra/launcher=joblibb is unknown; did you mean joblib?"),
    ("dfa", "dfa is no override; say algorithm=dfa"),
    ("seeds 3", "seeds is no override; say seeds=..."),
    ("--seeds 3", "--seeds is no flag; say seeds=..."),
    ("--algorithm=dfa", "--algorithm=dfa is no flag; say algorithm=dfa"),
    ("algorithm=genetic optimizer=sgd", "genetic takes no optimizer; leave optimizer=sgd out"),
    ("algorithm=manual_backprop optimizer.lr=.5", "manual_backprop takes no optimizer; leave optimizer.lr=.5 out"),
    ("algorithm=eprop task=adding algorithm.horizon=3", "algorithm.horizon is no option of EProp; known are:"),
    ("algorithm=kfac algorithm.fisher=type3", "unknown algorithm.fisher=type3; did you mean type-2?"),
    ("algorithm=genetic algorithm.crossover=twopoint", "did you mean two_point?"),
    ("algorithm=bfgs algorithm.line_search=wolf", "unknown algorithm.line_search=wolf; known are: backtracking"),
    ("task=classical task.function=rosenbrok", "unknown task.function=rosenbrok; known are: bard, beale"),
    ("task=adding model=leaky_rnn model.leak=2", "model.leak must be a number above 0 and at most 1; got 2"),
    ("budget.currency=episodes", "task=digits has no environment to have episodes in"),
    ("quick=maybe", "quick must be true or false; got 'maybe'"),
    ("isolate=perhaps", "isolate must be true or false; got 'perhaps'"),
    ("claims=[{claim:So.}]", "claims[0] lacks source"),
    ("budget.stop_at_target=maybe", "budget.stop_at_target must be true or false; got 'maybe'"),
    ("stack_seeds=nein", "stack_seeds must be true or false; got 'nein'"),
    ("trainer.threads=0", "trainer.threads must be a whole number of at least 1; got 0"),
    ("trainer.precision=8", "unknown trainer.precision=8; known are:"),
    ("trainer.precision=64-true", "trainer.precision=64-true would change nothing; say dtype=float64"),
    ("trainer.precision=16-mixed", "trainer.precision=16-mixed needs a GPU; say trainer.precision=bf16-mixed"),
    ("trainer.devices=2", "trainer.devices above 1 share a run; say trainer=ddp"),
    ("trainer.strategy=fsdp", "unknown trainer.strategy=fsdp; known are: auto, ddp"),
    ("+trainer.overfit_rows=-1", "trainer.overfit_rows must be a whole number of at least 1; got -1"),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Return command -> exit code, stdout, stderr, whether torch was imported, files left, seconds of the processor."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        cwd=tmp_path_factory.mktemp("mistakes"),
        input=json.dumps([arguments for arguments, _ in MISTAKES]),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    return {command: rest for command, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_a_mistake_is_one_sentence(answers: dict[str, list[Any]], arguments: str, words: str) -> None:
    code, out, told, torch, files, seconds = answers[arguments]
    assert words in told
    assert (code, out, torch, files) == (2, "", False, [])
    assert told.startswith("altprop: ")
    assert told.count("\n") == 1
    assert seconds < 1  # seen: .1 to .2, the first .5


@pytest.mark.parametrize("logger", ["tensorboard", "mlflow", "wandb"])
def test_an_absent_logger_names_its_extra(monkeypatch: pytest.MonkeyPatch, logger: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AltpropError, match=rf"logger={logger} needs a package .*; pip install 'altprop\[tracking\]'"):
        validate(composed(f"logger={logger}"))


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("cartpole", r"task=cartpole needs gymnasium, which is not installed; run: pip install 'altprop\[rl\]'"),
        ("sunspots", r"needs statsmodels, .* 'altprop\[data\]'"),
        ("nettalk_sequence", r"needs wordfreq, .* 'altprop\[speech-data\]'"),
    ],
)
def test_an_absent_package_of_a_task_names_its_extra(monkeypatch: pytest.MonkeyPatch, task: str, words: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AltpropError, match=words):
        validate(composed(f"task={task}"))


def test_an_absent_optimizer_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AltpropError, match=r"optimizer=lion comes from pytorch_optimizer, .*'altprop\[optimizers\]'"):
        validate(composed("optimizer=lion"))


def test_a_driver_leaves_the_last_word_on_a_gpu_to_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for path, told in ((str(tmp_path), False), (str(tmp_path / "absent"), sys.platform == "linux")):
        monkeypatch.setattr("altprop.harness.validation.DRIVERS", (path,))
        with pytest.raises(AltpropError, match="use trainer=cpu") if told else nullcontext():
            validate(composed("trainer=gpu"))


@pytest.mark.parametrize("group", ["algorithm", "optimizer", "dropout", "task", "model", "probes", "logger"])
def test_every_choice_of_ours_is_valid(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "here")
    for name, entry in catalogue.entries(group).items():
        if not catalogue.left_open(entry.values):
            validate(composed(f"{group}='{name}'"))


def composed(*overrides: str) -> dict[str, Any]:
    return OmegaConf.to_container(compose_cell(overrides), resolve=True)  # type: ignore[return-value]


def test_a_string_is_one_override() -> None:
    with pytest.raises(AltpropError, match="task=iriss is unknown; did you mean iris"):
        altprop.run("task=iriss")


def test_progress_names_the_metric_where_a_seed_runs_elsewhere() -> None:
    elsewhere = Outcome("a", "b", 0, "running", "", False)
    assert (
        median_of([elsewhere, Outcome("a", "b", 1, "completed", "", True, 0.9111, "accuracy")]) == "  accuracy 0.9111"
    )
