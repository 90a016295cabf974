"""One training run from inside: order of data, targets, divergence, the best state, and what is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from altprop.algorithm import StepResult
from altprop.conformance.case import composed
from altprop.harness.building import build_parts
from altprop.harness.cell import make_cell
from altprop.harness.training_run import TrainingRun
from altprop.records.status import RunStatus


def begun(*more: str) -> TrainingRun:
    overrides = ("task=iris", "budget.currency=steps", "budget.amount=40", "budget.grid=4", "probes=off", *more)
    cell = make_cell(composed(overrides, None), overrides)
    run = TrainingRun(build_parts(cell, 0), cell.settings, 0)
    run.begin()
    return run


def test_an_epoch_gives_every_row_once_and_the_next_in_another_order() -> None:
    feed = begun("task.batch_size=7").parts.feed
    epochs = [
        torch.cat([feed.batch(epoch * feed.batches + place).index for place in range(feed.batches)])
        for epoch in range(3)
    ]
    rows = len(epochs[0])
    assert all(sorted(order.tolist()) == list(range(rows)) for order in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


def metrics_of(monkeypatch: pytest.MonkeyPatch, run: TrainingRun, values: list[dict[str, float]]) -> None:
    """Let the run see given metrics, one an evaluation."""
    waiting = list(values)
    monkeypatch.setattr(run, "evaluate", lambda *given: waiting.pop(0))


@pytest.mark.parametrize(("short", "stops"), [(1e-6, False), (0.0, True), (0.3, False)])
def test_a_run_stops_at_the_hardest_target(monkeypatch: pytest.MonkeyPatch, short: float, stops: bool) -> None:
    run = begun("budget.stop_at_target=true")
    hardest = max(run.parts.task.reference.targets.values())
    metrics_of(monkeypatch, run, [{"loss": 1.0, "accuracy": hardest - short}] * 4)
    run.block()
    assert (run.status is RunStatus.REACHED_TARGET) == stops


@pytest.mark.parametrize(
    ("first", "later", "diverges"), [(1.0, 39.0, False), (1.0, 41.0, True), (100.0, 1900.0, False)]
)
def test_divergence_is_relative_to_the_first_loss(
    monkeypatch: pytest.MonkeyPatch, first: float, later: float, diverges: bool
) -> None:
    run = begun("budget.divergence=20")
    run.trace[0]["metrics"]["loss"] = first
    metrics_of(monkeypatch, run, [{"loss": later, "accuracy": 0.5}] * 4)
    run.block()
    assert (run.status is RunStatus.DIVERGED) == diverges


def test_a_later_tie_does_not_replace_the_best_state(monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun()
    values = [{"loss": 1.0, "accuracy": a} for a in (0.99, 0.99, 0.5, 0.5)]
    metrics_of(monkeypatch, run, values)
    run.block()
    assert run.best is not None
    step = run.best["step"]
    run.block()
    assert run.best["step"] == step == 10


def test_the_best_state_is_model_and_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun("optimizer=momentum")
    metrics_of(
        monkeypatch, run, [{"loss": 1.0, "accuracy": a} for a in (0.99, 0.5, 0.5, 0.5)] + [{"accuracy": 0.0}] * 3
    )
    run.block()
    weights = run.parts.problem.flat()
    state = run.parts.algorithm.state_dict()
    for _ in range(3):
        run.block()
    assert not torch.equal(run.parts.problem.flat(), weights)
    run.test()
    assert torch.equal(run.parts.problem.flat(), weights)
    assert repr(run.parts.algorithm.state_dict()) == repr(state)


def test_a_block_tells_the_last_scalars_and_the_mean_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten steps each tells its number, and every second one more."""
    run = begun()
    algorithm, steps = run.parts.algorithm, iter(range(10))

    def step(batch: Any) -> StepResult:
        number = next(steps)
        more = {"even": float(number)} if number % 2 == 0 else {}
        return StepResult(scalars={"number": float(number), **more})

    monkeypatch.setattr(algorithm, "_step", step)
    run.block()
    (row,) = (row for row in run.trace if row["kind"] == "train")
    assert row["scalars"] == {"number": 9.0}
    assert row["scalar_means"] == {"number": 4.5, "even": 4.0}


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def slow(self, function: Callable[..., Any], seconds: Callable[[], float]) -> Callable[..., Any]:
        """Return the function as one that takes so many seconds."""

        def slowed(*given: Any, **named: Any) -> Any:
            self.now += seconds()
            return function(*given, **named)

        return slowed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for name in ("process_time", "perf_counter"):
        monkeypatch.setattr(time, name, made)
    return made


@pytest.mark.parametrize("currency", ["steps", "seconds"])
def test_audits_are_not_the_learners_time(monkeypatch: pytest.MonkeyPatch, clock: Clock, currency: str) -> None:
    """40 steps of 5 ms, six of which are audited and take .1 s more."""
    run = begun() if currency == "steps" else begun("budget.currency=seconds", "budget.amount=.1999")
    ledger, algorithm = run.parts.problem.ledger, run.parts.algorithm
    pace = clock.slow(algorithm._step, lambda: 0.105 if ledger._mode is not None else 0.005)
    monkeypatch.setattr(algorithm, "_step", pace)
    while not run.over:
        run.block()
    assert ledger.steps == 40
    assert len(ledger.audits) == ledger.untimed == 6
    assert ledger.audit_seconds == pytest.approx(6 * 0.105)
    assert ledger.learner_seconds == pytest.approx(40 * 0.005)
    assert ledger.spent("seconds") == run.clock[-1]["cpu_seconds"] == ledger.learner_seconds


def test_probes_and_evaluations_are_not_timed(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Each takes .2 s a block: none of it is the learner's, whose clock stands still."""
    run = begun("probes=basic")
    for name in ("before", "after"):
        monkeypatch.setattr(run.probes, name, clock.slow(getattr(run.probes, name), lambda: 0.1))
    monkeypatch.setattr(run, "evaluate", clock.slow(run.evaluate, lambda: 0.2))
    run.block()
    assert clock.now == pytest.approx(0.4)
    assert run.parts.problem.ledger.seconds == 0
    assert run.probe_seconds == pytest.approx(0.2)


def test_a_resumed_run_keeps_its_seconds() -> None:
    run = begun()
    run.block()
    saved = run.state_dict()
    run.parts.problem.ledger.seconds = saved["problem"]["ledger"]["numbers"]["seconds"] = 12.5
    again = begun()
    again.load_state_dict(saved)
    again.block()
    assert again.parts.problem.ledger.seconds > 12.5
    assert again.wall_seconds > saved["wall_seconds"] > 0


def test_the_settings_of_a_run_can_be_replaced() -> None:
    """`begun` would hide a setting that nobody reads: half the budget ends at half the steps."""
    run = begun()
    run.budget = replace(run.budget, amount=20)
    while not run.over:
        run.block()
    assert run.parts.problem.ledger.steps == 20
