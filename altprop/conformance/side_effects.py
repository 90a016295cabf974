"""Rules about what a learner leaves behind, what it asks for, and what is not its business."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from altprop.algorithm import Algorithm, number
from altprop.capabilities import BatchMode, Capability
from altprop.conformance.case import (
    NotApplicable,
    Target,
    by_name,
    difference,
    done,
    make,
    on_task,
    snapshot,
    steps,
    suitable_task,
)
from altprop.conformance.state import generator_states, global_generators
from altprop.data import Split, TaskData
from altprop.errors import AltpropError, Refused
from altprop.harness.building import Parts
from altprop.probes.basic import WHOLE, BasicProbes
from altprop.task import Task

# Problems of different kinds: a learner runs each of them or is refused.
KINDS = (
    frozenset({Capability.CLASSES, Capability.CHAIN}),
    frozenset({Capability.LEAST_SQUARES, Capability.CHAIN}),
    frozenset({Capability.RECURRENT}),
    frozenset({Capability.POINT}),
)


def writes_hooks_only(target: Target) -> str | None:
    """It overrides no final method of the contract: those validate, count and audit."""
    kind = type(make(target).algorithm)
    for base in kind.__mro__[1:]:
        final = [name for name, value in vars(base).items() if getattr(value, "__final__", False)]
        replaced = next((name for name in final if getattr(kind, name) is not vars(base)[name]), None)
        if replaced is not None:
            return f"it overrides {base.__name__}.{replaced}(), which is final; write the hooks with an underscore"
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
    """A step leaves the model in training mode, a prediction puts it back and changes nothing."""
    parts = make(target)
    steps(parts, 2)
    if not all(module.training for module in parts.model.modules()):
        return "a step leaves the model in evaluation mode"
    before = snapshot(parts)
    _evaluate(parts)
    if not all(module.training for module in parts.model.modules()):
        return "a prediction leaves the model in evaluation mode"
    where = difference(before, snapshot(parts))
    return f"a prediction changes the learner, at {where}" if where is not None else None


def _evaluate(parts: Parts) -> None:
    with parts.algorithm.predictor() as predict:
        parts.task.evaluate(predict, parts.data.train, parts.algorithm.kind)


_SWITCHES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "whether torch records gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's choice of deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
}


@contextmanager
def switches() -> Iterator[dict[str, Any]]:
    """Give the switches of torch as they are, and put them back afterwards."""
    before = {name: read() for name, (read, _) in _SWITCHES.items()}
    try:
        yield before
    finally:
        for name, (_, write) in _SWITCHES.items():
            write(before[name])


def leaves_torch_as_it_was(target: Target) -> str | None:
    """Neither set-up nor a step changes a switch of torch that the next learner would find."""
    parts = make(target)
    with switches() as before:
        parts.algorithm.setup(parts.problem)
        steps(parts, 2)
        changed = [name for name, (read, _) in _SWITCHES.items() if read() != before[name]]
    return f"it changes {changed[0]} and leaves it changed" if changed else None


def works_in_both_precisions(target: Target) -> str | None:
    """It runs in float32 and float64 and keeps the dtype."""
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        parts = make(target, dtype=name)
        steps(parts, 2)
        wrong = [(n, p.dtype) for n, p in parts.model.named_parameters() if p.dtype != dtype]
        if wrong:
            return f"in {name} the parameter {wrong[0][0]} became {wrong[0][1]}"
    return None


def names_its_devices(target: Target) -> str | None:
    """With torch's default device set to meta it still runs, so no factory call forgot `device=`."""
    # Some of torch's own optimizers raise under a default device of meta: the learner is examined with SGD.
    parts = make(target, "optimizer=sgd")
    try:
        with torch.device("meta"):
            parts.algorithm.setup(parts.problem)
            steps(parts, 3)
            with parts.algorithm.predictor() as predict:
                if parts.data.train.inputs.numel():
                    predict(parts.data.train.inputs)
    except Refused:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:160]
        return f"with another default device it raises {type(error).__name__}: {text}; a device= is missing"
    bad = [name for name, p in parts.model.named_parameters() if p.device.type == "meta"]
    return f"the parameter {bad[0]} moved to the default device" if bad else None


def takes_what_it_asks_for(target: Target) -> str | None:
    """It asks for a batch unless its batch_mode is none."""
    parts = make(target)
    if parts.algorithm.batch is BatchMode.NONE:
        raise NotApplicable("its batch_mode is none")
    try:
        parts.algorithm.step(None)
    except AltpropError:
        return None
    return "it takes a step on no batch although its batch_mode says otherwise"


def refuses_what_it_cannot_run(target: Target) -> str | None:
    """Each kind of problem it runs or refuses with a sentence; nothing else stops it."""
    parts = make(target)
    needed = type(parts.algorithm).requires
    if needed:
        parts.problem.offers = frozenset()
        try:
            parts.algorithm.setup(parts.problem)
        except Refused as error:
            if not any(c.phrase in str(error) for c in needed):
                return f"its refusal {str(error)!r} does not say what is missing, such as {next(iter(needed)).phrase}"
        else:
            return "it sets up on a problem that offers nothing of what it requires"
    for kind in KINDS:
        task = suitable_task(frozenset(), kind, target.folders, target.kind)
        if task is None:
            continue
        try:
            steps(make(target, *on_task(task)), 2)
        except Refused:
            continue
        except Exception as error:
            text = " ".join(str(error).split())[:120]
            return (
                f"on task {task} it raises {type(error).__name__}: {text}; say in `requires` what it needs, or refuse"
            )
    return None


def measures_itself_unnoticed(target: Target) -> str | None:
    """The diagnostics that it brings are numbers with names of their own, and measuring them leaves no trace."""
    watched, bare = make(target), make(target)
    if type(watched.algorithm)._probe is Algorithm._probe:
        raise NotApplicable("it brings no diagnostics")
    probes = BasicProbes(watched.problem, watched.probe_batch, 0)
    for position in range(3):
        ended = done(steps(watched, 1, start=position))
        steps(bare, 1, start=position)
        with global_generators():
            before = generator_states()
            probes.own(watched.algorithm)
            if generator_states() != before:
                return "its _probe moves a global generator; draw from problem.random"
        where = difference(snapshot(bare), snapshot(watched))
        if where is not None:
            return f"its _probe changes the run, at {where}"
        if ended:
            break
    return _fault_of(watched.algorithm._probe(watched.probe_batch))


def _fault_of(found: Any) -> str | None:
    """Return what is wrong with the diagnostics that a `_probe` returned."""
    if not isinstance(found, Mapping):
        return f"its _probe returns a {type(found).__name__}; it must return name -> number"
    for name, value in found.items():
        if not isinstance(name, str) or name in WHOLE:
            return f"its _probe names a diagnostic {name!r}; a name is a text, and not one of the basic probes'"
        if number(value) is None:
            return f"its _probe gives {name!r} a {type(value).__name__}; a diagnostic is a number or a scalar tensor"
    return None


class _TouchedDataError(Exception):
    """Raised where a learner opens a task's data."""


def touches_no_task(target: Target) -> str | None:
    """It loads no task's data by itself, and other validation and test rows leave it the same to the bit."""
    parts = make(target)
    with _no_data_access(type(parts.task)) as touched:
        try:
            parts.algorithm.setup(parts.problem)
            steps(parts, 3)
        except _TouchedDataError:
            pass
    if touched:
        return f"it loads the data of task {touched[0]} by itself, validation and test rows included"
    ends = []
    for garbled in (False, True):
        with global_generators(1), _garbled_evaluation_data() if garbled else nullcontext():
            parts = make(target)
            steps(parts, 5)
        ends.append(snapshot(parts))
    where = difference(ends[0], ends[1])
    return f"with other validation and test rows it learns otherwise, at {where}" if where is not None else None


@contextmanager
def _no_data_access(kind: type[Task]) -> Iterator[list[str]]:
    """Write down who makes or opens a task, and stop them."""
    touched: list[str] = []

    def refuse(self: Task, *args: Any, **kwargs: Any) -> Any:
        touched.append(type(self).__name__)
        raise _TouchedDataError

    with _replaced(Task, "__init__", refuse), _replaced(Task, "data", refuse), _replaced(kind, "_load", refuse):
        yield touched


@contextmanager
def _garbled_evaluation_data() -> Iterator[None]:
    """Give every task validation and test rows that are nonsense; tasks evaluated in sample have none of their own."""
    original = Task.data

    def data(self: Task) -> TaskData:
        found = original(self)
        if self._load().in_sample:
            return found
        validation = None if found.validation is None else _garbled(found.validation)
        return replace(
            found, validation=validation, tests={name: _garbled(split) for name, split in found.tests.items()}
        )

    with _replaced(Task, "data", data):
        yield


def _garbled(split: Split) -> Split:
    return replace(split, inputs=split.inputs.flip(0) * -3 + 1, targets=torch.zeros_like(split.targets))


@contextmanager
def _replaced(owner: type, name: str, value: Any) -> Iterator[None]:
    own = name in vars(owner)
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, kept)
        else:
            delattr(owner, name)


SIDE_EFFECTS = by_name(
    writes_hooks_only,
    leaves_no_grad,
    keeps_the_mode,
    leaves_torch_as_it_was,
    works_in_both_precisions,
    names_its_devices,
    takes_what_it_asks_for,
    refuses_what_it_cannot_run,
    touches_no_task,
    measures_itself_unnoticed,
)
