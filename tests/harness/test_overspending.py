"""A last step that would overspend the budget is not taken: equal FLOPs are equal."""

from pathlib import Path
from typing import Any

import pytest

import altprop
from altprop.cli.run import run
from altprop.records.frame import read_all
from altprop.records.record import Record

DEAR = ["algorithm=backprop", "optimizer=sgd", "task=iris", "budget.block=1"]
"""Seven steps are the whole budget, so that each is dear; every one is probed."""


def records(folder: Path, options: list[str]) -> dict[int, Record]:
    assert run([*options, f"runs_dir={folder}", "report=false", "budget.grid=4"]) == 0
    return {record.seed: record for record in read_all(folder)[0]}


def end(record: Record) -> tuple[Any, ...]:
    names = ("test_loss", "test_metrics", "validation", "train_loss")
    ledger = record.result["ledger"]
    return ledger["steps"], ledger["flops"], *(record.result.get(name) for name in names)


@pytest.mark.parametrize("stacked", [False, True])
def test_the_run_ends_where_its_budget_still_holds(stacked: bool, tmp_path: Path) -> None:
    options = [*DEAR, "seeds=4", f"stack_seeds={str(stacked).lower()}"]
    free = records(tmp_path / "free", [*options, "budget.currency=steps", "budget.amount=7"])
    seven = free[0].result["ledger"]["flops"]
    amount = seven * 0.96  # the seventh step would spend 4 % too much
    cut = records(tmp_path / "cut", [*options, f"budget.amount={amount}"])
    six = records(tmp_path / "six", [*options, "budget.currency=steps", "budget.amount=6"])
    for seed, one in cut.items():
        assert one.status.value == "completed"
        assert one.data["reason"] == "Another step would have overspent the budget."
        assert one.result["budget"]["spent"] <= amount
        assert end(one) == end(six[seed])
        steps = [row["step"] for row in one.trace() if row["kind"] == "evaluation" and row["split"] == "validation"]
        assert steps == sorted(set(steps))
        assert max(row["step"] for row in one.trace()) == 6


def test_a_hair_too_much_is_no_overspending(tmp_path: Path) -> None:
    free = records(tmp_path / "free", [*DEAR, "seeds=1", "budget.currency=steps", "budget.amount=7"])
    amount = free[0].result["ledger"]["flops"] * 0.995
    kept = records(tmp_path / "kept", [*DEAR, "seeds=1", f"budget.amount={amount}"])[0]
    assert end(kept) == end(free[0])


def test_the_first_step_is_taken(tmp_path: Path) -> None:
    assert records(tmp_path, [*DEAR, "seeds=1", "budget.amount=1e3"])[0].result["ledger"]["steps"] == 1


def test_a_currency_that_nothing_spends_ends_the_run(tmp_path: Path) -> None:
    """Element-wise functions cost no FLOPs, by the field's convention: such a run once went on for ever."""
    words = ("task=classical", "optimizer.lr=1e-4", "budget.currency=flops", "budget.amount=10", "probes=off")
    row = altprop.run([*words, f"runs_dir={tmp_path}"]).iloc[0]
    assert (row.status, row.reason) == (
        "refused",
        "1,000 steps spent no flops, so the run would never end; say budget.currency=steps",
    )


@pytest.mark.parametrize("rule", ["hessian_free", "newton_cg", "lbfgs"])
def test_inner_iterations_do_not_carry_a_learner_over_its_budget(rule: str, tmp_path: Path) -> None:
    """A solve or a search that does not fit is not cut short, which would be another method: the step is not taken."""
    words = [f"algorithm={rule}", "task=iris", "seeds=1", "probes=off", "budget.currency=forward_equivalents"]
    for amount in (9_000, 15_500):
        result = records(tmp_path / str(amount), [*words, f"budget.amount={amount}"])[0].result
        assert result["ledger"]["steps"] > 1
        assert result["budget"]["spent"] <= 1.01 * amount
