"""The rules that every algorithm must obey. Each returns None, or the sentence that says what is broken.

A rule that does not apply raises `NotApplicable` with the reason.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from altprop.algorithm import Algorithm
from altprop.capabilities import Appetite, Capability, PredictorKind
from altprop.conformance.case import Target, difference, make, snapshot, steps
from altprop.errors import AltpropError, Refused
from altprop.flops import CountingMode
from altprop.optim import Updater
from altprop.task import Task

STEPS = 5
Rule = Callable[[Target], str | None]


class NotApplicable(Exception):
    """A rule that does not apply to this learner, and why."""


def declares_what_its_yaml_says(target: Target) -> str | None:
    """`requires` in the yaml and in the class are equal."""
    kind = type(make(target).algorithm)
    if kind.requires != target.requires:
        return f"the yaml requires {sorted(target.requires)}, the class {sorted(kind.requires)}"
    return None


def same_seed_same_bits(target: Target) -> str | None:
    """Two runs from one seed end with the same bits, whatever the global generators hold."""
    ends = []
    for filler in (1, 2):
        torch.manual_seed(filler)
        np.random.seed(filler)
        random.seed(filler)
        parts = make(target)
        steps(parts, STEPS)
        ends.append(snapshot(parts))
    where = difference(ends[0], ends[1])
    return f"two runs from one seed differ at {where}: something draws from a global generator" if where else None


def leaves_global_generators_alone(target: Target) -> str | None:
    """No step moves torch's, numpy's or Python's global generator."""
    parts = make(target)
    states = {
        "torch": lambda: torch.get_rng_state().tolist(),
        "numpy": lambda: repr(np.random.get_state(legacy=True)[1:3]) + str(np.random.get_state()[1].tolist()),
        "random": random.getstate,
    }
    before = {name: state() for name, state in states.items()}
    steps(parts, STEPS)
    moved = [name for name, state in states.items() if state() != before[name]]
    return f"a step moves the global generator of {', '.join(moved)}; draw from problem.random" if moved else None


def declares_all_that_it_changes(target: Target) -> str | None:
    """An attribute that changes over a step stands in `state`."""
    parts = make(target)
    algorithm = parts.algorithm
    before = _undeclared(algorithm)
    steps(parts, STEPS)
    after = _undeclared(algorithm)
    changed = [name for name in after if name not in before or difference(before[name], after[name])]
    if changed:
        return f"the attribute {changed[0]!r} changes over a step and is not in `state`; a resumed run would lose it"
    return None


def _undeclared(algorithm: Algorithm) -> dict[str, Any]:
    hidden = {"problem", *algorithm.state}
    return {name: _plain(value) for name, value in vars(algorithm).items() if name not in hidden}


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a comparable copy of an attribute: tensors, numbers and containers, objects by their attributes."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, nn.Module):
        return {name: v.detach().clone() for name, v in value.state_dict().items()}
    if isinstance(value, dict):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()} if depth < 4 else len(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [_plain(item, depth + 1) for item in items] if depth < 4 else len(value)
    return type(value).__name__


def holds_no_parameter(target: Target) -> str | None:
    """The declared state can be saved and holds no Parameter of the model."""
    parts = make(target)
    steps(parts, 1)
    try:
        parts.algorithm.state_dict()
    except AltpropError as error:
        return str(error)
    return None


def resumes_to_the_bit(target: Target) -> str | None:
    """Saved and loaded at each step of a short run, it goes on with the same bits."""
    whole = make(target)
    steps(whole, STEPS)
    expected = snapshot(whole)
    for stop in range(1, STEPS):
        first = make(target)
        steps(first, stop)
        saved = snapshot(first)
        second = make(target)
        second.algorithm._structure(saved["algorithm"])
        second.problem.load_state_dict(saved["problem"])
        second.algorithm.load_state_dict(saved["algorithm"])
        steps(second, STEPS - stop, start=stop)
        where = difference(expected, snapshot(second))
        if where:
            return f"resumed after step {stop} it ends with other bits, at {where}: something is missing from `state`"
    return None


def leaves_no_grad(target: Target) -> str | None:
    """No parameter keeps a `.grad`, and none is switched off."""
    parts = make(target)
    trained = {name: p.requires_grad for name, p in parts.model.named_parameters()}
    steps(parts, 2)
    for name, p in parts.model.named_parameters():
        if p.grad is not None:
            return f"the parameter {name} keeps a .grad after a step"
        if name in trained and p.requires_grad != trained[name]:
            return f"a step changed requires_grad of {name}"
    return None


def keeps_the_mode(target: Target) -> str | None:
    """A step leaves the model in training mode, a prediction puts it back and moves nothing."""
    parts = make(target)
    steps(parts, 2)
    if not all(module.training for module in parts.model.modules()):
        return "a step leaves the model in evaluation mode"
    before = snapshot(parts)
    kind = parts.algorithm.kind
    if kind in (PredictorKind.OUTPUT, PredictorKind.POINT):
        with parts.algorithm.predictor() as predict:
            parts.task.evaluate(predict, parts.data.train, kind)
    if not all(module.training for module in parts.model.modules()):
        return "a prediction leaves the model in evaluation mode"
    where = difference(before, snapshot(parts))
    return f"a prediction changes the learner, at {where}" if where else None


def works_in_both_precisions(target: Target) -> str | None:
    """It runs in float32 and float64 and keeps the dtype."""
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        parts = make(target, dtype=name)
        steps(parts, 2)
        wrong = [n for n, p in parts.model.named_parameters() if p.dtype != dtype]
        if wrong:
            return f"in {name} the parameter {wrong[0]} became {dict(parts.model.named_parameters())[wrong[0]].dtype}"
    return None


def names_its_devices(target: Target) -> str | None:
    """With torch's default device set to meta it still runs, so no factory call forgot `device=`."""
    parts = make(target, *_plain_sgd(target))
    try:
        with torch.device("meta"):
            steps(parts, 3)
    except Refused:
        raise
    except Exception as error:
        return f"with another default device it raises {type(error).__name__}: {_line(error)}; a device= is missing"
    bad = [name for name, p in parts.model.named_parameters() if p.device.type == "meta"]
    return f"the parameter {bad[0]} moved to the default device" if bad else None


def _plain_sgd(target: Target) -> list[str]:
    """Some of torch's own optimizers raise under a default device of meta: examine the rule with SGD."""
    return ["optimizer=sgd"]


def counts_what_it_does(target: Target) -> str | None:
    """Over 20 steps, the ledger's FLOPs are within 1 % of what a counter around whole steps sees."""
    parts = make(target)
    ledger = parts.problem.ledger
    seen = charged = 0.0
    for position in range(20):
        batch = parts.feed.batch(position)
        audited = ledger.due_for_audit()
        before = sum(ledger._charged.values())
        if audited:
            parts.algorithm.step(batch)
            seen += ledger.audits[-1][1]
        else:
            mode = CountingMode()
            with mode:
                parts.algorithm.step(batch)
            seen += sum(mode.flops.values())
        charged += sum(ledger._charged.values()) - before
    booked = ledger.flops - charged
    if abs(booked - seen) > 0.01 * max(seen, 1.0):
        return f"over 20 steps the ledger books {booked:.4g} FLOPs and a counter sees {seen:.4g}: rare work is no primitive"
    return None


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
    for position in range(3):
        batch = parts.feed.batch(position)
        if batch is None:
            raise NotApplicable("it is fed no batch")
        state = parts.problem.state_dict()
        parts.problem.begin_step(parts.problem.ledger.steps)
        with parts.problem.observing():
            expected = float(parts.problem.objective(batch))
        parts.problem.load_state_dict(state)
        result = parts.algorithm.step(batch)
        if result.loss is None:
            raise NotApplicable("it returns no loss")
        if result.loss.requires_grad:
            return "the loss that it returns is not detached"
        if abs(float(result.loss) - expected) > 1e-6 * max(1.0, abs(expected)):
            return (
                f"it returns a loss of {float(result.loss):.6g} where the objective before the update is {expected:.6g}"
            )
    return None


def sells_no_wrong_gradient(target: Target) -> str | None:
    """A direction that is handed to the optimizer as a gradient is one."""
    parts = make(target)
    worst: list[float] = []
    original = Updater.apply

    def spy(self: Updater, direction: Any, *args: Any, **kwargs: Any) -> None:
        if self.direction == "gradient" and self._module is parts.model and current[0] is not None:
            with parts.problem.observing():
                _, true = parts.problem.gradient(current[0])
            gap = sum(float((direction[n].detach() - true[n]).square().sum()) for n in true if n in direction) ** 0.5
            norm = sum(float(g.square().sum()) for g in true.values()) ** 0.5
            worst.append(gap / max(norm, 1e-12))
        original(self, direction, *args, **kwargs)

    current: list[Any] = [None]
    Updater.apply = spy  # type: ignore[method-assign]
    try:
        for position in range(3):
            current[0] = parts.feed.batch(position)
            parts.algorithm.step(current[0])
    finally:
        Updater.apply = original  # type: ignore[method-assign]
    if not worst:
        raise NotApplicable("it hands no direction to an optimizer as a gradient")
    if max(worst) > 1e-6:
        return f"it hands a direction to the optimizer as a gradient that is off by {max(worst):.2g} of its norm; say direction='other'"
    return None


def touches_no_task(target: Target) -> str | None:
    """It never loads a task's data by itself: validation and test sets are not its business."""
    parts = make(target)
    with _no_data_access() as touched:
        try:
            parts.algorithm.setup(parts.problem)
            steps(parts, 3)
        except _TouchedDataError:
            pass
    return f"it loads the data of task {touched[0]} by itself, validation and test rows included" if touched else None


class _TouchedDataError(Exception):
    """Raised where a learner opens a task's data."""


@contextmanager
def _no_data_access() -> Iterator[list[str]]:
    touched: list[str] = []
    original = Task.data

    def refuse(self: Task) -> Any:
        touched.append(type(self).__name__)
        raise _TouchedDataError

    Task.data = refuse  # type: ignore[method-assign,assignment]
    try:
        yield touched
    finally:
        Task.data = original  # type: ignore[method-assign]


def refuses_what_it_cannot_run(target: Target) -> str | None:
    """On a problem that offers nothing it is refused with a sentence."""
    parts = make(target)
    needed = type(parts.algorithm).requires
    if not needed:
        raise NotApplicable("it requires nothing")
    parts.problem.offers = frozenset()
    try:
        parts.algorithm.setup(parts.problem)
    except Refused as error:
        words = next(iter(needed)).phrase
        named = any(c.phrase in str(error) for c in Capability if c in needed)
        return None if named else f"its refusal {str(error)!r} does not say what is missing, such as {words}"
    return "it sets up on a problem that offers nothing of what it requires"


def takes_what_it_asks_for(target: Target) -> str | None:
    """It asks for a batch unless its appetite is none."""
    parts = make(target)
    if parts.algorithm.batch is Appetite.NONE:
        raise NotApplicable("its appetite is none")
    try:
        parts.algorithm.step(None)
    except AltpropError:
        return None
    return "it takes a step on no batch although its appetite says otherwise"


def passes_its_oracles(target: Target) -> str | None:
    """Every oracle is within its tolerance, every negative control outside it."""
    oracles = type(make(target).algorithm).oracles()
    if not oracles:
        raise NotApplicable("it has no oracles(); write the strongest that exists")
    for name, oracle in oracles.items():
        error, tolerance = oracle()
        if name.startswith("not "):
            if not error > tolerance:
                return f"the negative control {name!r} measures {error:.3g}, which must exceed {tolerance:.3g}"
        elif not error <= tolerance:
            return f"the oracle {name!r} measures {error:.3g}, above its tolerance {tolerance:.3g}"
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        declares_what_its_yaml_says,
        same_seed_same_bits,
        leaves_global_generators_alone,
        declares_all_that_it_changes,
        holds_no_parameter,
        resumes_to_the_bit,
        leaves_no_grad,
        keeps_the_mode,
        works_in_both_precisions,
        names_its_devices,
        counts_what_it_does,
        counts_its_steps,
        tells_an_honest_loss,
        sells_no_wrong_gradient,
        touches_no_task,
        refuses_what_it_cannot_run,
        takes_what_it_asks_for,
        passes_its_oracles,
    )
}
