"""Few examples, smoothed targets, calibration and early stopping: what a study of regularisers rests on."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from altprop import AltpropError, load
from altprop.cli.run import run
from altprop.losses import SmoothedCrossEntropy, make_loss
from altprop.monte_carlo import MonteCarlo
from altprop.task import calibration_error
from altprop.tasks.digits import Digits
from altprop.tasks.sunspots import Sunspots

SHORT = ["task=digits", "budget.currency=steps", "probes=off", "report=false", "optimizer.lr=0.02"]


def test_few_examples_are_part_of_more_and_even_over_the_classes() -> None:
    whole = Digits().data()
    kept = {n: Digits(examples=n).data() for n in (100, 300, 5000)}
    rows = {n: set(data.train.rows.tolist()) for n, data in kept.items()}
    assert [len(rows[n]) for n in kept] == [100, 300, len(whole.train)]
    assert rows[100] < rows[300] < rows[5000] == set(whole.train.rows.tolist())
    assert kept[100].train.targets.bincount().tolist() == [10] * 10
    for data in kept.values():
        assert whole.validation is not None
        assert data.validation is not None
        assert data.validation.rows.equal(whole.validation.rows)
    assert set(Digits(data_seed=1, examples=100).data().train.rows.tolist()) != rows[100]
    assert Digits(examples=100, baselines={"linear": 0.9}).reference.baselines == {}


def test_of_a_series_the_last_ones_are_kept() -> None:
    rows = Sunspots().data().train.rows
    assert Sunspots(examples=30).data().train.rows.equal(rows[-30:])


def test_targets_are_smoothed_in_training_alone() -> None:
    task = Digits(smoothing=0.1)
    split = task.data().tests["test"]
    outputs = torch.randn(len(split), 10, generator=torch.Generator().manual_seed(0)).double()
    plain = float(make_loss("cross_entropy").per_element(outputs, split.targets).mean())
    assert task.evaluate(lambda x: outputs, split)["loss"] == pytest.approx(plain, rel=1e-12)
    assert isinstance(task.loss, SmoothedCrossEntropy)
    with pytest.raises(AltpropError, match="smoothing is for task"):
        Digits(smoothing=0.1, loss="hinge")


def test_calibration_is_confidence_against_accuracy() -> None:
    generator = torch.Generator().manual_seed(0)
    p = 0.5 + 0.5 * torch.rand(200_000, generator=generator).double()
    right = torch.rand(200_000, generator=generator).double() < p
    assert calibration_error(p, right) < 0.005
    assert calibration_error(p, torch.ones_like(right)) == pytest.approx(0.25, abs=0.005)
    assert calibration_error(torch.ones(4), torch.tensor([True, True, True, False])) == 0.25


@pytest.mark.parametrize(
    ("loss", "told"), [("cross_entropy", True), ("hinge", False), ("one_hot_squared_error", False)]
)
def test_it_is_told_where_outputs_are_probabilities(loss: str, told: bool) -> None:
    task = Digits(loss=loss)
    split = task.data().tests["test"]
    found = task.evaluate(lambda x: 1e-9 * x[:, :10], split)
    assert ("calibration_error" in found) is told
    if told:  # all at confidence .1
        assert found["calibration_error"] == pytest.approx(abs(found["accuracy"] - 0.1), abs=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", "one_hot_squared_error"])
def test_noisy_passes_are_told_by_their_mean_and_variance(loss: str) -> None:
    task = Digits(loss=loss)
    split = task.data().tests["test"]
    passes = torch.randn(5, len(split), 10, generator=torch.Generator().manual_seed(0)).double()
    found = task.evaluate(MonteCarlo(lambda x: passes, task.loss), split)
    predicted = passes.softmax(-1) if loss == "cross_entropy" else passes
    variance = (predicted - predicted.mean(0)).square().sum(0) / 4
    assert found["prediction_variance"] == pytest.approx(float(variance.sum(1).mean()), rel=1e-12)
    alone = task.evaluate(lambda x: task.scored.averaged(passes), split)
    assert alone == {name: value for name, value in found.items() if name != "prediction_variance"}
    if loss == "cross_entropy":
        p = predicted.mean(0).gather(1, split.targets[:, None])
        assert found["loss"] == pytest.approx(float(-p.log().mean()), rel=1e-12)


def test_early_stopping_ends_a_run_and_keeps_its_best_state(tmp_path: Path) -> None:
    runs = [*SHORT, f"runs_dir={tmp_path}", "budget.amount=400", "budget.grid=20", "seeds=4"]
    assert run([*runs, "budget.patience=2"]) == 0
    assert run(runs) == 0
    frame: Any = load(tmp_path)
    stopped, whole = frame[frame.steps < 400], frame[frame.steps == 400]
    assert len(stopped) == 4
    assert len(whole) == 4
    assert stopped.reason.str.contains("2 evaluations brought no better one: stopped early").all()
    assert (stopped.status == "completed").all()
    for _, one in stopped.iterrows():
        assert math.isclose(one.test, one.test_best)


def test_early_stopping_needs_validation_data() -> None:
    assert run([*SHORT, "task.validation=none", "budget.patience=2"]) == 2
