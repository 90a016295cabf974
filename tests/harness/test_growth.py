"""A net that grows, as a plugin: its FLOPs, an exact resume, its best state and the timing pass."""

import io
from typing import Any

import pytest
import torch

from altprop.conformance.case import composed, difference, find_target
from altprop.conformance.state import restores_an_earlier_state
from altprop.harness.building import build_parts
from altprop.harness.cell import make_cell
from altprop.harness.interleaved import Clock, TimedRun
from altprop.harness.training_run import TrainingRun

GROWS = ("algorithm=custom", "algorithm._target_=growing.Grows")
SMALL = ("task=iris", "task.batch_size=16", "model.hidden=[5]", "budget.currency=steps", "budget.amount=40")


def begun(*more: str) -> TrainingRun:
    overrides = (*GROWS, *SMALL, "budget.grid=4", "budget.block=5", *more)
    cell = make_cell(composed(overrides, None), overrides)
    run = TrainingRun(build_parts(cell, 0), cell.settings, 0)
    run.begin()
    return run


def width(run: TrainingRun) -> int:
    return int(run.parts.problem.layered.blocks[0].weight.shape[0])


def finish(run: TrainingRun) -> None:
    while not run.over:
        run.block()


@pytest.mark.parametrize("every", [1, 4, 7])
def test_flops_are_the_closed_form(every: int) -> None:
    """4 inputs, h units, 3 outputs: 2 (4 h + 3 h) forward, as much for the weights and 2 * 3 h for the hidden layer."""
    run = begun("probes=off", f"+algorithm.every={every}")
    rows = [run.parts.feed.batch(k).rows for k in range(40)]
    finish(run)
    widths = [5 + 3 * (step // every) for step in range(40)]
    ledger = run.parts.problem.ledger
    assert ledger.flops == pytest.approx(sum(34 * n * h for n, h in zip(rows, widths, strict=True)), rel=1e-9)
    assert ledger.residual <= 1e-9
    assert width(run) == 5 + 3 * (40 // every)
    # The unit follows the net: a step is always 34 / 14 forwards a row.
    assert ledger.forward_flops == 14 * width(run)
    assert ledger.forward_equivalents == pytest.approx(sum(rows) * 34 / 14, rel=1e-9)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "shampoo"])
def test_it_resumes_to_the_bit(optimizer: str) -> None:
    more = (f"optimizer={optimizer}", "dropout=standard") if optimizer == "adam" else (f"optimizer={optimizer}",)
    whole = begun(*more)
    finish(whole)
    first = begun(*more)
    for _ in range(3):
        first.block()
    torch.save(first.state_dict(), file := io.BytesIO())
    file.seek(0)
    second = begun(*more)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert width(second) == width(first) > 5
    finish(second)
    for part in ("problem", "algorithm"):
        a, b = whole.state_dict()[part], second.state_dict()[part]
        for state in (a, b):
            if part == "problem":
                state["ledger"]["numbers"].update(seconds=0, live_bytes=0, saved_bytes=0)
        assert difference(a, b) is None


def test_the_best_state_is_restored_in_its_own_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun()
    values = [{"loss": 1.0, "accuracy": a} for a in (0.99, 0.5, 0.5, 0.5)]
    evaluate = run.evaluate
    monkeypatch.setattr(run, "evaluate", lambda *given: values.pop(0) if values else evaluate(*given))
    kept: list[Any] = []
    while not run.over:
        run.block()
        if run.best is not None and run.best["step"] == 10 and not kept:
            kept.extend((width(run), run.parts.problem.flat()))
    spent = run.parts.problem.ledger.flops
    assert width(run) > kept[0]
    _, best = run.test()
    assert best is not None
    assert width(run) == kept[0]
    assert torch.equal(run.parts.problem.flat(), kept[1])
    assert run.parts.problem.ledger.flops == spent


def test_it_is_timed_from_an_earlier_and_smaller_state() -> None:
    overrides = (*GROWS, *SMALL)
    timed = TimedRun(make_cell(composed(overrides, None), overrides), 0, 30, {}, Clock())
    timed.go(30)
    timed.go(30)
    assert timed.again >= 1


def test_conformance_restores_it() -> None:
    target = find_target("growing:Grows")
    assert restores_an_earlier_state(target) is None
