"""What a task and a learner feed: contexts with their ends, the matrix of test sets, rows without a label."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import altprop
from altprop import AltpropError, Batch, BatchMode, Split
from altprop.algorithms.backprop.manual_backprop import ManualBackprop
from altprop.conformance.case import composed
from altprop.feed import EpochFeed, MappedFeed, StreamFeed
from altprop.harness.building import Parts, build_parts
from altprop.harness.cell import make_cell
from altprop.harness.training_run import TrainingRun
from altprop.tasks.iris import Iris
from altprop.testing import set_up, toy

SMALL = ("probes=off", "task.batch_size=10", "dtype=float64")


def built(task: str, *more: str) -> Parts:
    overrides = ("task=iris", f"task._target_=streams.{task}", *SMALL, *more)
    return build_parts(make_cell(composed(overrides, None), overrides), 0)


def batches(parts: Parts, count: int) -> list[Batch]:
    found = [parts.feed.batch(position) for position in range(count)]
    return [batch for batch in found if batch is not None]


def test_a_stream_gives_its_contexts_in_order_with_their_ends() -> None:
    parts = built("SplitIris")
    early = int((parts.data.train.targets < 2).sum())
    steps = 10 * -(-early // 10)
    late = len(parts.data.train) - early
    ends = [steps, steps + 10 * -(-late // 10)]
    fed = batches(parts, ends[1] + 3)
    assert [batch.context for batch in fed] == ["early"] * steps + ["late"] * (len(fed) - steps)
    assert [place + 1 for place, batch in enumerate(fed) if batch.last] == ends
    assert all(bool((batch.targets < 2).all()) for batch in fed[:steps])
    assert all(bool((batch.targets == 2).all()) for batch in fed[steps:])
    for batch in fed:  # rows are counted in the whole split
        assert torch.equal(parts.data.train.inputs[batch.index], batch.inputs)
    rows = torch.cat([batch.index for batch in fed[: steps // 10]])
    assert sorted(rows.tolist()) == (parts.data.train.targets < 2).nonzero()[:, 0].tolist()


def test_a_context_begins_its_own_epochs_whatever_came_before_it() -> None:
    split = Iris(batch_size=10).data().train
    late = torch.arange(20, 70)
    plan = EpochFeed(split, 10, BatchMode.MINI, 0)
    alone, behind = (
        StreamFeed(plan, {"b": late}, epochs=2),
        StreamFeed(plan, {"a": torch.arange(17), "b": late}, epochs=2),
    )
    for position in range(12):  # two epochs and the start of a third
        one, other = alone.batch(position), behind.batch(position + 4)
        assert one is not None
        assert other is not None
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.inputs, other.inputs)
    orders = [torch.cat([alone.batch(start + k).index for k in range(5)]) for start in (0, 5)]  # type: ignore[union-attr]
    assert all(torch.equal(order.sort().values, late) for order in orders)


def test_every_epoch_has_all_rows_in_an_order_of_its_own() -> None:
    split = Iris(batch_size=10).data().train
    plan = EpochFeed(split, 16, BatchMode.MINI, 3)
    epochs = []
    for epoch in range(3):
        fed = [plan.batch(epoch * plan.batches + place) for place in range(plan.batches)]
        epochs.append(torch.cat([batch.index for batch in fed if batch is not None]))
        assert torch.equal(epochs[-1].sort().values, torch.arange(len(split)))
        assert torch.equal(epochs[-1], plan.order(epoch))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])
    assert not torch.equal(epochs[0], EpochFeed(split, 16, BatchMode.MINI, 4).order(0))


def test_a_context_that_is_not_revealed_has_no_name_and_ends_all_the_same() -> None:
    split = Iris(batch_size=10).data().train
    contexts = {"a": torch.arange(20), "b": torch.arange(20, 40)}
    feed = StreamFeed(EpochFeed(split, 10, BatchMode.MINI, 0), contexts, revealed=False)
    fed = [feed.batch(position) for position in range(4)]
    assert [batch.context for batch in fed if batch] == [None] * 4
    assert [batch.last for batch in fed if batch] == [False, True, False, True]
    assert [feed.context_at(position) for position in range(6)] == ["a", "a", "b", "b", "b", "b"]
    assert feed.digest() != StreamFeed(EpochFeed(split, 10, BatchMode.MINI, 1), contexts).digest()
    with pytest.raises(AltpropError, match="at least one row each"):
        StreamFeed(EpochFeed(split, 10, BatchMode.MINI, 0), {"a": torch.arange(0)})


def test_a_stream_feeds_full_batches_to_who_asks_for_them() -> None:
    split = Iris(batch_size=10).data().train
    contexts = {"a": torch.arange(20), "b": torch.arange(20, 50)}
    feed = StreamFeed(EpochFeed(split, 10, BatchMode.FULL, 0), contexts, epochs=2)
    fed = [feed.batch(position) for position in range(5)]
    assert [batch.rows for batch in fed if batch] == [20, 20, 30, 30, 30]
    assert StreamFeed(EpochFeed(split, 10, BatchMode.NONE, 0), contexts).batch(0) is None
    with pytest.raises(AltpropError, match="index plan of a task; got a StreamFeed"):
        StreamFeed(feed, contexts)


def test_every_test_set_is_evaluated_where_a_context_ends(run: Callable[..., Any], tmp_path: Path) -> None:
    run("task._target_=streams.SplitIris", "task=iris", "task.batch_size=10", "budget.amount=120", "optimizer.lr=0.05")
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/record.json")]
    assert record["status"] == "completed"
    matrix = record["result"]["matrix"]
    assert list(matrix) == ["early", "late"]
    assert all(set(row) == {"test", "early", "late"} for row in matrix.values())
    assert matrix["early"]["late"] == 0.0  # the class was never seen
    assert matrix["late"]["late"] > matrix["early"]["late"]
    validated = record["result"]["validation_matrix"]
    assert validated["early"]["late"] == 0.0
    assert validated["late"]["early"] < validated["early"]["early"]
    assert matrix["late"]["early"] < matrix["early"]["early"]  # plain backprop forgets
    assert set(record["result"]["tests"]) == {"test", "early", "late"}
    row = altprop.load(tmp_path / "runs").iloc[0]
    assert row.matrix == matrix
    assert row.tests == record["result"]["tests"]


def test_validation_rows_of_each_context_are_evaluated_where_one_ends(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a trial of a tuning these are all that there is: no test set is opened."""
    opened: list[str] = []
    evaluate = TrainingRun.evaluate

    def watched(self: TrainingRun, split: Split, name: str) -> dict[str, float]:
        if not self.tested:
            opened.append(name)
        return evaluate(self, split, name)

    monkeypatch.setattr(TrainingRun, "evaluate", watched)
    words = ("task._target_=streams.SplitIris", "task=iris", "task.batch_size=10", "budget.amount=120", "tune=2")
    run("optimizer=sgd", *words)
    found = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/record.json")]
    trials = [record for record in found if record["role"] == "trial"]
    assert len(trials) == 2
    assert set(opened) == {"validation", "validation/early", "validation/late"}
    for record in found:
        matrix = record["result"]["validation_matrix"]
        assert list(matrix) == ["early", "late"]
        assert all(list(row) == ["early", "late"] for row in matrix.values())
        assert all(0 <= value <= 1 for row in matrix.values() for value in row.values())
        assert ("matrix" in record["result"]) == (record["role"] != "trial")
    loaded = altprop.load(tmp_path / "runs").set_index("key")["validation_matrix"]
    assert {record["key"]: record["result"]["validation_matrix"] for record in found} == loaded.to_dict()


def test_validation_by_context_is_the_validation_split_in_parts() -> None:
    parts = built("SplitIris")
    cell = make_cell(composed(("task=iris",), None), ("task=iris",))
    training_run = TrainingRun(parts, cell.settings, 0, tested=False)
    found, whole = training_run._validation_by_context, parts.data.validation
    assert whole is not None
    assert sorted(torch.cat([split.rows for split in found.values()]).tolist()) == sorted(whole.rows.tolist())
    assert bool((found["validation/early"].targets < 2).all())
    assert bool((found["validation/late"].targets == 2).all())
    training_run.parts.data = replace(parts.data, validation=None)
    del training_run._validation_by_context
    assert training_run._validation_by_context == {}


@pytest.mark.parametrize("task", ["FewLabels", "LabelledSplit"])
@pytest.mark.parametrize("size", ["task.batch_size=10", "task.batch_size=full"])
def test_labels_that_may_not_be_used_are_not(task: str, size: str) -> None:
    """The gradient of each batch is that of its labelled rows, whatever the batch size."""
    parts = built(task, size)
    for batch in batches(parts, 3):
        assert batch.labelled is not None
        assert 0 < int(batch.labelled.sum()) < batch.rows
        few = batch.labelled.nonzero()[:, 0]
        alone = Batch(batch.inputs[few], batch.targets[few], batch.index[few])
        found, expected = (parts.problem.flatten(parts.problem.gradient(one)[1]) for one in (batch, alone))
        assert (found - expected).norm() < 1e-14 * expected.norm()


def test_a_batch_without_any_label_has_no_objective_and_no_gradient() -> None:
    problem, batch = toy()
    unlabelled = replace(batch, labelled=torch.zeros(batch.rows, dtype=torch.bool))
    loss, gradient = problem.gradient(unlabelled)
    assert float(loss) == 0.0
    assert float(problem.flatten(gradient).abs().max()) == 0.0
    assert float(problem.population_objective(problem.flat()[None], unlabelled)) == 0.0


def test_a_mapped_feed_keeps_the_order_and_its_digest() -> None:
    split = Iris(batch_size=10).data().train
    plan = EpochFeed(split, 10, BatchMode.MINI, 3)
    mapped = MappedFeed(plan, lambda batch: replace(batch, targets=2 - batch.targets))
    one, other = plan.batch(5), mapped.batch(5)
    assert one is not None
    assert other is not None
    assert torch.equal(other.targets, 2 - one.targets)
    assert torch.equal(other.index, one.index)
    assert (mapped.digest(), mapped.sizes, mapped.seed) == (plan.digest(), plan.sizes, 3)
    assert MappedFeed(EpochFeed(split, 10, BatchMode.NONE, 3), lambda batch: batch).batch(0) is None


def test_labels_travel_through_a_subset_and_an_overfit_run() -> None:
    parts = built("LabelledSplit", "+trainer.overfit_rows=12")
    for split in (parts.data.train, parts.data.tests["test"]):
        assert split.labelled is not None
        assert torch.equal(split.labelled, split.rows % 3 == 0)


def test_an_evaluation_counts_labelled_rows_alone() -> None:
    parts = built("LabelledSplit")
    train = parts.data.train
    assert train.labelled is not None
    absurd = replace(train, targets=torch.where(train.labelled, train.targets, (train.targets + 1) % 3))
    with parts.problem.evaluating():
        found = [parts.task.evaluate(parts.model, split) for split in (train, absurd)]
        alone = parts.task.evaluate(parts.model, replace(train.take(train.labelled.nonzero()[:, 0]), labelled=None))
    assert found == [alone, alone]


def test_backprop_by_hand_takes_a_batch_without_any_label() -> None:
    problem, batch = toy()
    before = problem.flat().clone()
    rule = set_up(ManualBackprop(0.1), problem)
    result = rule.step(replace(batch, labelled=torch.zeros(batch.rows, dtype=torch.bool)))
    assert result.loss is not None
    assert float(result.loss) == 0.0
    assert torch.equal(problem.flat(), before)
