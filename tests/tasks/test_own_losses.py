"""A task's own losses, the reductions that they bring, and its further metrics."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import altprop
from altprop.algorithms.recurrent.truncated_bptt import TruncatedBPTT
from altprop.capabilities import Capability
from altprop.catalogue import task_offers
from altprop.conformance.case import composed
from altprop.data import Batch
from altprop.declared import find_class
from altprop.errors import AltpropError, Refused
from altprop.harness.building import Parts, build_parts
from altprop.harness.cell import make_cell
from altprop.testing import central_differences

SUMS = ("summed_error", "sequence_error")


@pytest.fixture(autouse=True)
def _beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """`own_losses` is found by its name, as a user's own file would be."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def built(name: str, *more: str) -> Parts:
    return build_parts(make_cell(composed((*given(name), "dtype=float64", *more), None), given(name)), 0)


def given(name: str) -> tuple[str, ...]:
    base = (
        ("task=adding", "~task.length", "~task.samples", "~task.test_samples") if name == "Traces" else ("task=iris",)
    )
    return (*base, f"task._target_=own_losses.{name}", "task.loss=null", "probes=off")


def traces(loss: str, *more: str) -> Parts:
    return built("Traces", f"task.loss={loss}", "model=rnn", "model.hidden=[4]", "algorithm=bptt", *more)


def batches(parts: Parts, rows: int) -> Iterator[Batch]:
    for start in range(0, len(parts.data.train), rows):
        yield parts.data.train.batch(torch.arange(start, min(start + rows, len(parts.data.train))))


def by_hand(parts: Parts, batch: Batch) -> float:
    """Sum over sequences and valid steps, one by one."""
    outputs = parts.problem.outputs(batch).detach()
    assert batch.mask is not None
    total, rows = 0.0, range(batch.rows)
    for row in rows:
        for t in range(outputs.shape[0]):
            if batch.mask[t, row]:
                total += 0.5 * float((outputs[t, row] - batch.targets[t, row]).square().sum())
    return total if parts.task.loss.name == "summed_error" else total / len(rows)


@pytest.mark.parametrize("loss", SUMS)
def test_a_loss_reduces_alike_wherever_it_is_taken(loss: str) -> None:
    parts = traces(loss)
    problem, train = parts.problem, parts.data.train
    whole = train.whole()
    value = by_hand(parts, whole)
    assert float(problem.objective(whole)) == pytest.approx(value, rel=1e-13)
    assert parts.task.evaluate(parts.model, train)["loss"] == pytest.approx(value, rel=1e-13)
    others = torch.stack([problem.flat(), 0.5 * problem.flat()])
    alone = [problem.functional_objective(problem.unflatten(one), whole) for one in others]
    assert torch.allclose(problem.population_objective(others, whole), torch.stack(alone).detach(), rtol=1e-13)
    each = [float(problem.objective(batch)) for batch in batches(parts, 6)]
    assert len(train) % 6 == 0
    assert (sum(each) if loss == "summed_error" else sum(each) / len(each)) == pytest.approx(value, rel=1e-13)


@pytest.mark.parametrize("loss", SUMS)
def test_its_derivatives_are_those_of_the_reduced_loss(loss: str) -> None:
    parts = traces(loss)
    problem, batch = parts.problem, parts.data.train.batch(torch.arange(5))
    gradient = problem.flatten(problem.gradient(batch)[1])
    assert torch.allclose(
        gradient, central_differences(problem, batch), rtol=0, atol=1e-8 * float(gradient.abs().max())
    )
    outputs = problem.outputs(batch).detach().requires_grad_()
    (at_outputs,) = torch.autograd.grad(problem.output_loss(outputs, batch), outputs)
    assert torch.allclose(problem.output_gradient(outputs, batch), at_outputs, rtol=1e-13)
    v = torch.ones_like(outputs)
    (product,) = torch.autograd.grad(problem.output_gradient(outputs, batch).sum(), outputs)
    assert torch.allclose(problem.output_curvature(outputs, v, batch), product, rtol=1e-13)
    rows = problem.flatten({name: g.sum(0) for name, g in problem.per_example_gradients(batch).items()})
    assert torch.allclose(rows, gradient if loss == "summed_error" else gradient * batch.rows, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("loss", [*SUMS, "half_squared_error"])
def test_windows_that_reach_back_to_the_start_add_up_to_the_whole(loss: str) -> None:
    """Every window sees all the past, so their weighted sum is the gradient of the whole sequence."""
    parts = traces(loss, "algorithm=truncated_bptt", "algorithm.k1=2", "algorithm.k2=6", "algorithm.update=sequence")
    rule, batch = parts.algorithm, parts.data.train.batch(torch.arange(5))
    assert isinstance(rule, TruncatedBPTT)
    value, direction = rule.direction(batch)
    exact, gradient = parts.problem.gradient(batch)
    assert float(value) == pytest.approx(float(exact), rel=1e-12)
    whole = parts.problem.flatten(gradient)
    assert torch.allclose(parts.problem.flatten(direction), whole, rtol=1e-11, atol=1e-13)


def test_rows_without_a_label_count_in_no_sum() -> None:
    parts = built("SummedIris", "algorithm=backprop")
    problem, train = parts.problem, parts.data.train
    batch = train.batch(torch.arange(12))
    keep = torch.arange(12) % 3 != 0
    some = Batch(batch.inputs, batch.targets, batch.index, labelled=keep)
    each = problem.per_example_loss(batch)
    assert float(problem.objective(batch)) == pytest.approx(float(each.sum()), rel=1e-13)
    assert float(problem.objective(some)) == pytest.approx(float(each[keep].sum()), rel=1e-13)
    gradient = problem.flatten(problem.gradient(some)[1])
    assert torch.allclose(gradient, central_differences(problem, some), rtol=0, atol=1e-8 * float(gradient.abs().max()))


def test_a_learner_that_takes_a_mean_refuses_another_reduction() -> None:
    assert built("SummedIris", "algorithm=manual_backprop", "task.loss=cross_entropy")
    with pytest.raises(Refused, match=r"manual_backprop knows the losses .*; the task has summed_entropy"):
        built("SummedIris", "algorithm=manual_backprop")
    with pytest.raises(Refused, match=r"processes average means, and the loss summed_entropy reduces otherwise"):
        built("SummedIris", "algorithm=backprop", "trainer=ddp")


def test_losses_are_read_from_the_source() -> None:
    squares = {"summed_error": True, "sequence_error": True, "half_squared_error": True}
    assert find_class("own_losses.Traces").losses() == squares
    assert find_class("own_losses.SummedIris").losses() == {"summed_entropy": False, "cross_entropy": False}
    assert Capability.LEAST_SQUARES in (task_offers({"_target_": "own_losses.Traces"}) or ())
    assert Capability.LEAST_SQUARES not in (task_offers({"_target_": "own_losses.SummedIris"}) or ())
    with pytest.raises(AltpropError, match=r"unknown task\.loss=sumed_error; did you mean summed_error"):
        make_cell(composed((*given("Traces"), "task.loss=sumed_error"), None), given("Traces"))


def test_a_task_whose_losses_or_metrics_contradict_themselves_is_refused() -> None:
    import own_losses  # found by the fixture

    with pytest.raises(AltpropError, match=r"allows task.loss=summed_error\|sequence_error\|half_squared_error"):
        own_losses.Traces(loss="mse")
    with pytest.raises(AltpropError, match="brings another loss cross_entropy; give it a name of its own"):
        own_losses.Impostor()
    with pytest.raises(AltpropError, match="names its leading metric correlation among the further ones"):
        own_losses.Twice()
    task = own_losses.Unmeasured()
    split = task.data().train
    with pytest.raises(AltpropError, match="and not its metric regret"):
        task.evaluate(lambda x, mask: torch.randn(*x.shape[:2], 2, dtype=x.dtype), split)


def test_the_record_carries_further_metrics(tmp_path: Path) -> None:
    budget = ("budget.currency=steps", "budget.amount=4", "budget.grid=2", "model=rnn", "model.hidden=[4]")
    altprop.run([*given("Traces"), *budget, "algorithm=bptt", f"runs_dir={tmp_path}"])
    (path,) = tmp_path.rglob("record.json")
    result: dict[str, Any] = json.loads(path.read_text())["result"]
    assert (result["metric"], result["higher_is_better"]) == ("correlation", True)
    assert result["metrics"] == {"absolute_error": False}
    assert set(result["test_metrics"]) == {"loss", "correlation", "absolute_error"}
    assert "own_losses" in sys.modules
