"""Rules about what a learner says of its own work: FLOPs, steps, samples and the loss that it returns."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import torch
from torch import Tensor

from altprop.algorithm import StepResult
from altprop.capabilities import BatchMode, PredictorKind
from altprop.conformance.case import NotApplicable, Target, by_name, done, make
from altprop.data import Batch
from altprop.flops import CountingMode, count_flops
from altprop.harness.building import Parts

COUNTED = 40
SHARES = (1.0, 1.0, 0.6, 1.0, 0.4)
"""Of a batch, that are fed in turn: so many steps and such sizes show a period, and what costs the same at any size."""


def counts_what_it_does(target: Target) -> str | None:
    """Over 40 steps on uneven batches, the ledger's FLOPs are within 1 % of what a counter around whole steps sees."""
    parts = make(target)
    ledger = parts.problem.ledger
    seen, results = 0.0, list[StepResult]()
    with patch.object(ledger, "_aside", wraps=ledger._aside) as aside:
        for batch in _uneven(parts):
            seen += count_flops(lambda batch=batch: results.append(parts.algorithm.step(batch)))  # type: ignore[misc]
            if done(results):
                break
    hidden, paused = _set_aside(make(target)) if aside.called else (0.0, 0.0)
    charged = sum(ledger._charged.values())
    counted, seen = ledger.flops - charged, seen - hidden - paused
    if abs(counted - seen) > 0.01 * max(seen, 1.0):
        return (
            f"over {len(results)} steps on uneven batches the ledger counts {counted:.4g} FLOPs and a counter sees "
            f"{seen:.4g}: name work that is not done in every step alike (`ledger.work(name, per=...)`)"
        )
    if hidden > 1.01 * charged:
        return f"inside `charged` a counter sees {hidden:.4g} FLOPs and {charged:.4g} were charged"
    return None


def _uneven(parts: Parts) -> Iterator[Batch | None]:
    """Yield what 40 steps are fed: where it takes mini-batches, of sizes that differ."""
    for position in range(COUNTED):
        if parts.algorithm.batch is BatchMode.MINI:
            split = parts.feed.split
            rows = max(1, round(SHARES[position % len(SHARES)] * max(parts.feed.sizes)))
            yield split.batch((torch.arange(rows, device=split.inputs.device) + position) % len(split))
        else:
            yield parts.feed.batch(position)


def _set_aside(parts: Parts) -> tuple[float, float]:
    """Take the same steps again; return the FLOPs that a counter sees inside `ledger.charged` and `ledger.pause`."""
    mode = CountingMode()
    parts.problem.ledger.auditing = False
    for batch in _uneven(parts):
        with parts.problem.ledger.watched(mode), mode:
            result = parts.algorithm.step(batch)
        if result.done:
            break
    return float(mode.flops.get("charged", 0)), float(mode.flops.get("paused", 0))


def counts_its_steps(target: Target) -> str | None:
    """Steps and samples are counted once each."""
    parts = make(target)
    ledger = parts.problem.ledger
    expected = taken = 0
    for position in range(4):
        batch = parts.feed.batch(position)
        result = parts.algorithm.step(batch)
        expected += result.samples if result.samples is not None else (0 if batch is None else batch.samples)
        taken += 1
        if result.done:
            break
    if ledger.steps != taken or ledger.samples != expected:
        found = f"{ledger.steps} steps and {ledger.samples} samples"
        return f"after {taken} steps on {expected} samples the ledger holds {found}"
    return None


def tells_an_honest_loss(target: Target) -> str | None:
    """A loss that it returns is the objective of what it predicts on that batch before the update, detached."""
    parts = make(target)
    problem = parts.problem
    for position in range(3):
        batch = parts.feed.batch(position)
        if batch is None:
            raise NotApplicable("it is fed no batch")
        state = problem.state_dict()
        problem.begin_step(problem.ledger.steps)
        with problem.observing(), torch.no_grad():
            expected = float(_objective(parts, batch))
        problem.load_state_dict(state)
        result = parts.algorithm.step(batch)
        if result.loss is None:
            raise NotApplicable("it returns no loss")
        if result.loss.requires_grad:
            return "the loss that it returns is not detached"
        found = float(result.loss)
        if not abs(found - expected) <= 1e-6 * max(1.0, abs(expected)):
            return f"it returns a loss of {found:.6g} where the objective before the update is {expected:.6g}"
        if result.done:
            break
    return None


def _objective(parts: Parts, batch: Batch) -> Tensor:
    """Return the objective of the model, or that of the outputs of a predictor of the learner's own."""
    problem, own = parts.problem, parts.algorithm._predictor()
    if own is None or parts.algorithm.kind is not PredictorKind.OUTPUT:
        return problem.objective(batch)
    penalty = problem.penalty()
    loss = problem.output_loss(own(batch.inputs), batch)
    return loss if penalty is None else loss + penalty[0]


ACCOUNTING = by_name(counts_what_it_does, counts_its_steps, tells_an_honest_loss)
