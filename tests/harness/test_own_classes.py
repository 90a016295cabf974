"""A class of one's own in place of a yaml's: its name, what it may leave out, and how its runs are run again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

import altprop
from altprop.conformance.case import composed
from altprop.harness.cell import _set, make_cell
from altprop.records.frame import read_all


def cell(*overrides: str, folders: tuple[str, ...] = ()) -> Any:
    return make_cell(composed(overrides, None), overrides, folders=folders)


def test_a_replaced_task_has_its_own_name_and_none_of_the_figures_of_the_other() -> None:
    own, built_in = cell("task=iris", "task._target_=bare_models.MyFlowers"), cell("task=iris")
    assert built_in.config["task"]["chance"]
    assert own.axes["task"] == "MyFlowers"
    assert not {"chance", "oracle", "baselines", "targets"} & set(own.config["task"])
    assert own.config["task"]["batch_size"] == built_in.config["task"]["batch_size"]
    said = cell("task=iris", "task._target_=bare_models.MyFlowers", "task.chance=0.25")
    assert said.config["task"]["chance"] == 0.25
    # What was set by hand is that option, and none whose name begins with it.
    assert not _set(["task.targets={a:1}"], "task", "target")
    assert _set(["+task.targets.a=1"], "task", "targets")


def test_a_replaced_optimizer_and_algorithm_have_their_own_names() -> None:
    own = cell("optimizer=sgd", "optimizer._target_=altprop.optim.OptimizerFactory", "task=iris")
    assert own.axes["optimizer"] == "OptimizerFactory"
    assert own.config["algorithm"]["optimizer"]["name"] == "OptimizerFactory"
    assert cell("algorithm._target_=altprop.algorithms.feedback.dfa.DirectFeedbackAlignment").axes["algorithm"] == (
        "DirectFeedbackAlignment"
    )


def test_a_model_may_know_nothing_of_noise_and_generators() -> None:
    bare = ("task=iris", "model=linear", "model._target_=bare_models.Bare")
    small = {"budget.currency": "steps", "budget.amount": 5, "budget.grid": 1}
    given = [*(f"{name}={value}" for name, value in small.items()), "probes=off", f"runs_dir={Path.cwd() / 'runs'}"]
    row = altprop.run([*bare, *given]).iloc[0]
    assert row.status == "completed", row.reason
    noisy = altprop.run([*bare, *given, "probes=off", "dropout=standard", f"runs_dir={Path.cwd() / 'runs'}"]).iloc[0]
    assert noisy.status == "refused"
    assert noisy.reason == "model Bare takes no noise: its constructor has no argument `noise`; use dropout=none"
    empty = ["task=iris", "model=linear", "model._target_=bare_models.Empty", *given]
    row = altprop.run(empty).iloc[0]
    assert row.status == "failed"
    assert row.reason == "model Empty has no parameters, so there is nothing to train; choose another model"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_command_that_runs_a_seed_again_keeps_the_folder(tmp_path: Path) -> None:
    again = cell("task=iris", folders=(str(tmp_path),)).rerun(3)
    assert shlex.split(again) == ["altprop", f"--config-dir={tmp_path}", "task=iris", "seeds=[3]"]


def test_a_task_of_a_folder_has_its_own_default_model(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    text = "# Iris again.\ndefaults:\n  - override /model@_global_.model: linear\n\nname: again\n"
    (tmp_path / "task" / "again.yaml").write_text(text + "_target_: altprop.tasks.iris.Iris\nbudget: {amount: 5}\n")
    frame = altprop.run(
        ["task=again", "budget.currency=steps", "probes=off", f"runs_dir={tmp_path / 'runs'}"], config_dir=tmp_path
    )
    row = frame.iloc[0]
    assert row.status == "completed", row.reason
    assert row.label == "backprop+adam"
    assert f"--config-dir={tmp_path}" in row.rerun


def test_a_precision_stands_in_the_name_of_the_workload() -> None:
    assert cell("task=iris", "trainer.precision=bf16-mixed").workload == "iris[trainer.precision=bf16-mixed]"


def test_what_reaches_no_model_is_refused(tmp_path: Path) -> None:
    """A map has no units to drop: under a label of its own it was the very run without."""
    row = altprop.run(["task=iris", "algorithm=som", "dropout=standard", f"runs_dir={tmp_path}"]).iloc[0]
    assert (row.status, row.reason) == (
        "refused",
        "som trains a model of its own, which no noise reaches; use dropout=none",
    )


def test_a_rerun_leaves_out_what_was_for_others_of_a_sweep() -> None:
    words = ("optimizer=sgd", "optimizer.lr=0.1", "task=iris", "+optimizer.dampening=0.1")
    assert cell("algorithm=genetic", *words).rerun(1) == "altprop algorithm=genetic task=iris 'seeds=[1]'"
    assert "optimizer.lr=0.1" in cell("algorithm=backprop", *words).rerun(1)


@pytest.mark.parametrize(
    "words",
    [
        ("task=iris", "algorithm=backprop", "model.hidden=[8]"),
        ("task=iris", "algorithm=dfa", "model.hidden=[8]", "optimizer.clip_norm=1"),
        ("task=temporal_order", "algorithm=bptt", "model.hidden=[4]"),
    ],
)
def test_half_precision_is_of_the_step_alone(words: tuple[str, ...], tmp_path: Path) -> None:
    """Gradients that are written out came in bfloat16, and torch refused them; the weights stay what they are."""
    short = ("budget.currency=steps", "budget.amount=6", "budget.grid=2", "probes=off", f"runs_dir={tmp_path}")
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        row = altprop.run([*words, *short, f"trainer.precision={precision}"]).iloc[0]
        assert row.status == "completed", row.reason
        (record,) = (record for record in read_all(tmp_path)[0] if record.key == row.key)
        losses.append(record.result["tests"]["test"]["loss"])
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.02)
