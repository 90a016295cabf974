"""Rules about what a learner says of its own work: FLOPs, steps, samples and the loss that it returns."""

from __future__ import annotations

from altprop.conformance.case import NotApplicable, Target, by_name, make
from altprop.flops import CountingMode
from altprop.harness.building import Parts
from altprop.task import Batch

AUDITED = 20


def counts_what_it_does(target: Target) -> str | None:
    """Over 20 steps, the ledger's FLOPs are within 1 % of what a counter around whole steps sees."""
    parts = make(target)
    ledger = parts.problem.ledger
    seen = hidden = 0.0
    for position in range(AUDITED):
        open_, charged_for = _observed(parts, parts.feed.batch(position))
        seen, hidden = seen + open_, hidden + charged_for
    charged = sum(ledger._charged.values())
    counted = ledger.flops - charged
    if abs(counted - seen) > 0.01 * max(seen, 1.0):
        return (
            f"over {AUDITED} steps the ledger counts {counted:.4g} FLOPs and a counter sees {seen:.4g}: "
            "rare work must be a primitive of the ledger, or be charged"
        )
    if hidden > 1.01 * charged:
        return f"inside `charged` a counter sees {hidden:.4g} FLOPs and {charged:.4g} were charged"
    return None


def _observed(parts: Parts, batch: Batch | None) -> tuple[float, float]:
    """Take a step; return the FLOPs that a counter around it sees, outside and inside `ledger.charged`."""
    ledger = parts.problem.ledger
    audited = ledger.due_for_audit(batch is not None and batch.last)
    mode = CountingMode()
    if not audited:
        ledger._mode = mode  # so that sections are told apart as in an audit
    try:
        with mode:
            parts.algorithm.step(batch)
    finally:
        ledger._mode = None
    total = float(sum(mode.flops.values()))
    inside = total - ledger.audits[-1][1] if audited else float(mode.flops.get("charged", 0))
    return total - inside, inside


def counts_its_steps(target: Target) -> str | None:
    """Steps and samples are counted once each."""
    parts = make(target)
    ledger = parts.problem.ledger
    expected = 0
    for position in range(4):
        batch = parts.feed.batch(position)
        result = parts.algorithm.step(batch)
        expected += result.samples if result.samples is not None else (0 if batch is None else batch.samples)
    if ledger.steps != 4 or ledger.samples != expected:
        return f"after 4 steps on {expected} samples the ledger holds {ledger.steps} steps and {ledger.samples} samples"
    return None


def tells_an_honest_loss(target: Target) -> str | None:
    """A loss that it returns is the objective on that batch before the update, detached."""
    parts = make(target)
    problem = parts.problem
    for position in range(3):
        batch = parts.feed.batch(position)
        if batch is None:
            raise NotApplicable("it is fed no batch")
        state = problem.state_dict()
        problem.begin_step(problem.ledger.steps)
        with problem.observing():
            expected = float(problem.objective(batch))
        problem.load_state_dict(state)
        result = parts.algorithm.step(batch)
        if result.loss is None:
            raise NotApplicable("it returns no loss")
        if result.loss.requires_grad:
            return "the loss that it returns is not detached"
        found = float(result.loss)
        if not abs(found - expected) <= 1e-6 * max(1.0, abs(expected)):
            return f"it returns a loss of {found:.6g} where the objective before the update is {expected:.6g}"
    return None


ACCOUNTING = by_name(counts_what_it_does, counts_its_steps, tells_an_honest_loss)
