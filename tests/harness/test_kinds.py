"""Learners of samplers and codes end to end, and pairs of task and learner that do not fit."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kinds
import pandas as pd
import pytest

import altprop
from altprop import catalogue
from altprop.capabilities import PredictorKind, evaluated_as
from altprop.errors import AltpropError

SHORT = ["budget.currency=steps", "budget.amount=4", "budget.grid=2", "budget.block=2", "report=false", "probes=off"]


@pytest.fixture
def planted(tmp_path: Path) -> Callable[..., Any]:
    """Run a planted task under some learner and return its row."""

    def go(task: str, *overrides: str) -> Any:
        folder = kinds.plant(tmp_path, f"kinds.{task}")
        given = [*SHORT, f"runs_dir={tmp_path / 'runs'}", "task=planted", *overrides]
        return altprop.run(given, config_dir=folder).iloc[0]

    return go


def custom(name: str) -> tuple[str, str]:
    return "algorithm=custom", f"algorithm._target_=kinds.{name}"


def test_a_sampler_is_evaluated_by_the_tasks_own_metric(planted: Callable[..., Any]) -> None:
    """After 4 steps the mean is (1/2, 0); 500 samples lie around it with a standard deviation of .045."""
    row = planted("Centred", *custom("Sampling"))
    assert (row.status, row.metric) == ("completed", "distance")
    assert abs(row.test - 0.5) < 5 / math.sqrt(500)
    assert row.test != row.validation  # other draws, of the same evaluation stream


def test_the_draws_of_an_evaluation_come_again(planted: Callable[..., Any], tmp_path: Path) -> None:
    """All marks of a run draw alike, so that what changes is the learner: the sample mean moves as the mean does."""
    row = planted("Centred", *custom("Sampling"))
    trace = altprop.load_trace(tmp_path / "runs")
    values = trace[(trace.kind == "evaluation") & (trace.split == "validation") & (trace.name == "distance")].value
    found = values.tolist()
    task = kinds.Centred()
    drawn = task.data().train  # the offset of the draws follows from the first mark and explains the others
    assert len(found) == 3
    assert len(drawn) == 1
    # |m + e| at m = 8, 2, 1/2 for one e: eliminate e from the first two and predict the third.
    first = (found[0] ** 2 - found[1] ** 2 - 60) / 12
    square = found[1] ** 2 - 4 - 4 * first
    assert found[2] == pytest.approx(math.sqrt(0.25 + first + square), abs=1e-5)
    assert row.validation == found[-1]


def test_a_code_is_evaluated_by_the_tasks_own_metric(planted: Callable[..., Any]) -> None:
    row = planted("Separated", *custom("Coding"))
    assert (row.status, row.test, row.metric) == ("completed", 0.5, "norm")


@pytest.mark.parametrize(
    ("task", "learner", "sentence"),
    [
        ("Centred", ["algorithm=dfa"], "dfa learns outputs; task planted evaluates a sampler; try task="),
        (
            "Centred",
            ["algorithm=genetic"],
            "genetic learns a trained model; task planted evaluates",
        ),
        ("Separated", [*custom("Sampling")], "Sampling learns a sampler; task planted evaluates a code"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused(
    planted: Callable[..., Any], task: str, learner: list[str], sentence: str
) -> None:
    row = planted(task, *learner)
    assert row.status == "refused"
    assert row.reason.startswith(sentence)
    assert pd.isna(row.steps)  # no step was taken


def test_a_sampler_is_refused_by_digits(planted: Callable[..., Any]) -> None:
    row = planted("Centred", "task=digits", *custom("Sampling"))
    assert row.status == "refused"
    assert row.reason == (
        "Sampling learns a sampler; task digits evaluates outputs or a parameter point; try task=planted"
    )


def test_listings_read_it_in_the_class(tmp_path: Path) -> None:
    folder = kinds.plant(tmp_path, "kinds.Steered")
    tasks, models = catalogue.entries("task", (str(folder),)), catalogue.entries("model")
    learners = catalogue.entries("algorithm")
    said = catalogue.why_not(learners["dfa"], tasks["planted"], models)
    assert said == "dfa learns outputs; task planted evaluates a policy"
    assert catalogue.why_not(learners["genetic"], tasks["planted"], models) is None
    assert catalogue.suggest((), (str(folder),), PredictorKind.POLICY) == "task=acrobot"  # the first that ships
    assert catalogue.suggest((), (), PredictorKind.SAMPLER) == ""


def test_an_unknown_kind_is_told_without_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mistaken.py").write_text(
        "from altprop import *\nclass T(Task):\n    kinds = (PredictorKind.SMAPLER,)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder = kinds.plant(tmp_path, "mistaken.T")
    trouble = catalogue.entries("task", (str(folder),))["planted"].trouble
    assert trouble == "mistaken: PredictorKind.SMAPLER is unknown; did you mean SAMPLER?"
    assert "mistaken" not in sys.modules


@pytest.mark.parametrize("key", catalogue.IN_THE_CLASS)
def test_what_the_class_says_must_not_stand_in_the_yaml(tmp_path: Path, key: str) -> None:
    folder = kinds.plant(tmp_path, "kinds.Steered")
    with (folder / "task" / "planted.yaml").open("a") as file:
        file.write(f"{key}: []\n")
    problem = catalogue.entries("task", (str(folder),))["planted"].problem
    assert problem == f"planted.yaml: {key} stands in the class alone; leave it out here"


def test_a_model_serves_as_what_the_task_evaluates() -> None:
    kind = PredictorKind
    assert evaluated_as(kind.MODEL, (kind.OUTPUT, kind.POINT)) is kind.OUTPUT
    assert evaluated_as(kind.MODEL, (kind.POLICY,)) is kind.POLICY
    assert evaluated_as(kind.MODEL, (kind.SAMPLER, kind.CODE)) is None
    assert evaluated_as(kind.MODEL, (kind.SAMPLER, kind.MODEL)) is kind.MODEL
    assert evaluated_as(kind.OUTPUT, (kind.MODEL,)) is None


class _Forgetful(kinds.Centred):
    """Names the kind CODE and writes no hook for it."""

    kinds = (PredictorKind.CODE, PredictorKind.SAMPLER)
    metric = "spread"


def test_a_task_that_does_not_keep_its_word_is_told() -> None:
    task = _Forgetful()
    split = task.data().train
    with pytest.raises(AltpropError, match="names the kind code and writes no _evaluate_code"):
        task.evaluate(lambda x: x, split, PredictorKind.CODE)
    with pytest.raises(AltpropError, match=r"measures \['distance'\] and not its metric spread"):
        task.evaluate(lambda n, random: random.normal(n, 2), split, PredictorKind.SAMPLER)


@pytest.mark.parametrize(
    ("learner", "own"),
    [
        ("algorithm=backprop", False),
        ("algorithm=genetic", False),
        ("algorithm=som", True),
        ("algorithm._target_=kinds.Settled", False),
        ("algorithm._target_=kinds.Apart", True),
        ("algorithm._target_=kinds.Assigning", False),
    ],
)
def test_whose_model_is_trained(run: Callable[..., Any], learner: str, own: bool) -> None:
    """A predictor of one's own is no model of one's own: an updater on the task's parameters, or a word, tells."""
    chosen = [learner] if learner.startswith("algorithm=") else ["algorithm=custom", learner]
    row = run(*chosen, "budget.amount=4", "probes=basic", "report=false").iloc[0]
    assert row.status == "completed"
    assert bool(row.own_model) is own
