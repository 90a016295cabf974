"""Learners of samplers and codes end to end, and pairs of task and learner that do not fit."""

from __future__ import annotations

import math
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

    def go(task: str, evaluates: str, *overrides: str) -> Any:
        folder = kinds.plant(tmp_path, f"kinds.{task}", evaluates=evaluates)
        given = [*SHORT, f"runs_dir={tmp_path / 'runs'}", "task=planted", *overrides]
        return altprop.run(given, config_dir=folder).iloc[0]

    return go


def custom(name: str) -> tuple[str, str]:
    return "algorithm=custom", f"algorithm._target_=kinds.{name}"


def test_a_sampler_is_evaluated_by_the_tasks_own_metric(planted: Callable[..., Any]) -> None:
    """After 4 steps the mean is (1/2, 0); 500 samples lie around it with a standard deviation of .045."""
    row = planted("Centred", "sampler", *custom("Sampling"))
    assert (row.status, row.metric) == ("completed", "distance")
    assert abs(row.test - 0.5) < 5 / math.sqrt(500)
    assert row.test != row.validation  # other draws, of the same evaluation stream


def test_the_draws_of_an_evaluation_come_again(planted: Callable[..., Any], tmp_path: Path) -> None:
    """All marks of a run draw alike, so that what changes is the learner: the sample mean moves as the mean does."""
    row = planted("Centred", "sampler", *custom("Sampling"))
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
    row = planted("Separated", "code", *custom("Coding"))
    assert (row.status, row.test, row.metric) == ("completed", 0.5, "norm")


@pytest.mark.parametrize(
    ("task", "evaluates", "learner", "sentence"),
    [
        ("Centred", "sampler", ["algorithm=dfa"], "dfa learns outputs; task planted evaluates a sampler; try task="),
        (
            "Centred",
            "sampler",
            ["algorithm=genetic"],
            "genetic learns a trained model; task planted evaluates",
        ),
        ("Separated", "code", [*custom("Sampling")], "Sampling learns a sampler; task planted evaluates a code"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused(
    planted: Callable[..., Any], task: str, evaluates: str, learner: list[str], sentence: str
) -> None:
    row = planted(task, evaluates, *learner)
    assert row.status == "refused"
    assert row.reason.startswith(sentence)
    assert pd.isna(row.steps)  # no step was taken


def test_a_sampler_is_refused_by_digits(planted: Callable[..., Any]) -> None:
    row = planted("Centred", "sampler", "task=digits", *custom("Sampling"))
    assert row.status == "refused"
    assert row.reason == "Sampling learns a sampler; task digits evaluates outputs or a parameter point"


def test_listings_know_it_from_yaml(tmp_path: Path) -> None:
    folder = kinds.plant(tmp_path, "kinds.Centred", evaluates="policy")
    tasks, models = catalogue.entries("task", (str(folder),)), catalogue.entries("model")
    learners = catalogue.entries("algorithm")
    said = catalogue.why_not(learners["dfa"], tasks["planted"], models)
    assert said == "dfa learns outputs; task planted evaluates a policy"
    assert catalogue.why_not(learners["genetic"], tasks["planted"], models) is None
    assert catalogue.suggest((), (str(folder),), PredictorKind.POLICY) == "task=planted"
    assert catalogue.suggest((), (), PredictorKind.SAMPLER) == ""


def test_an_unknown_kind_in_yaml_is_told(tmp_path: Path) -> None:
    folder = kinds.plant(tmp_path, "kinds.Centred", evaluates="smaple")
    problem = catalogue.entries("task", (str(folder),))["planted"].problem
    assert problem is not None
    assert "unknown kind of predictor 'smaple'; known are: output, policy" in problem


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
