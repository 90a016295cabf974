"""Rules about what a learner is made of: its bits follow from the seed, and from its declared state alone."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from altprop.algorithm import Algorithm, declared_state
from altprop.conformance.case import NotApplicable, Target, by_name, difference, done, make, reloaded, snapshot, steps
from altprop.errors import AltpropError, Refused
from altprop.ledger import Ledger
from altprop.problem import Problem
from altprop.randomness import Random
from altprop.stacked_learners import StackedLearners, stacked_batch
from altprop.vectorized import Unmeasured, Unstackable

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS = 5
SEEDS = 3
DEPTH = 5
GROWN = 20
STACKED, ROUNDING = 20, 1e-9


@contextmanager
def global_generators(filler: int | None = None) -> Iterator[None]:
    """Put the global generators back afterwards; fill them with something first where asked."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        if filler is not None:
            torch.manual_seed(filler)
            np.random.seed(filler)
            random.seed(filler)
        yield
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])


def generator_states() -> dict[str, Any]:
    """Return name -> state of torch's, numpy's and Python's global generators."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr([part if isinstance(part, (int, float, str)) else part.tolist() for part in _numpy_state()]),
        "random": random.getstate(),
    }


def _numpy_state() -> Iterable[Any]:
    return np.random.get_state(legacy=True)


def same_seed_same_bits(target: Target) -> str | None:
    """Two runs from one seed end with the same bits, whatever the global generators hold."""
    ends = []
    for filler in (1, 2):
        with global_generators(filler):
            parts = make(target)
            steps(parts, STEPS)
            ends.append(snapshot(parts))
    where = difference(ends[0], ends[1])
    if where is None:
        return None
    return f"two runs from one seed differ, at {where}: it draws from a global generator, or remembers an earlier run"


def leaves_global_generators_alone(target: Target) -> str | None:
    """Neither set-up nor a step nor a prediction moves torch's, numpy's or Python's global generator."""
    parts = make(target)
    with global_generators():
        before = generator_states()
        parts.algorithm.setup(parts.problem)
        steps(parts, STEPS)
        with parts.algorithm.predictor() as predict:
            if parts.data.train.inputs.numel():
                predict(parts.data.train.inputs)
        after = generator_states()
    moved = [name for name in before if before[name] != after[name]]
    return f"it moves the global generator of {', '.join(moved)}; draw from problem.random" if moved else None


def declares_all_that_it_changes(target: Target) -> str | None:
    """An attribute that changes over a step stands in `state`."""
    parts = make(target)
    before = _undeclared(parts.algorithm)
    steps(parts, STEPS)
    after = _undeclared(parts.algorithm)
    changed = [name for name in after if name not in before or difference(before[name], after[name]) is not None]
    if changed:
        return f"the attribute {changed[0]!r} changes over a step and is not in `state`; a resumed run would lose it"
    return None


def _undeclared(algorithm: Algorithm) -> dict[str, Any]:
    """Return the attributes outside `state`, without what the problem saves: its parameters, buffers and stream."""
    model = algorithm.problem.model
    saved = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    hidden = {"problem", *declared_state(type(algorithm))}
    return {name: _plain(value, saved) for name, value in vars(algorithm).items() if name not in hidden}


def _plain(value: Any, saved: set[int], depth: int = 0) -> Any:
    """Return a comparable copy of an attribute: tensors, numbers and containers, objects by what they hold."""
    kind = type(value).__name__
    if id(value) in saved or isinstance(value, (Problem, Ledger, Random, type)) or depth > DEPTH:
        return kind
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return repr(value.getstate())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, Mapping):
        return {repr(key): _plain(item, saved, depth + 1) for key, item in value.items()}
    if isinstance(value, nn.Module):
        tensors = [*value.named_parameters(), *value.named_buffers()]
        return {name: tensor.detach().clone() for name, tensor in tensors if id(tensor) not in saved}
    if hasattr(value, "state_dict"):
        return _plain(value.state_dict(), saved, depth + 1)
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, Iterable) and hasattr(value, "__len__"):
        return [_plain(item, saved, depth + 1) for item in value]
    if hasattr(value, "__dict__") and not callable(value):
        return {kind: {name: _plain(item, saved, depth + 1) for name, item in vars(value).items()}}
    text = repr(value)
    return kind if " at 0x" in text or callable(value) else text


def holds_no_parameter(target: Target) -> str | None:
    """The declared state can be saved to a file and read back, and holds no Parameter of the model."""
    parts = make(target)
    steps(parts, 1)
    try:
        reloaded(parts.algorithm.state_dict())
    except AttributeError as error:
        return f"`state` names what does not exist: {error}"
    except AltpropError as error:
        return str(error)
    except Exception as error:
        return f"its state cannot be read back from a file: {' '.join(str(error).split())[:160]}"
    return None


def resumes_to_the_bit(target: Target) -> str | None:
    """Saved and loaded at each step of a short run, and once under dropout, it goes on with the same bits.

    A bare parameter point takes no dropout, and says so.
    """
    for options, stops in (((), range(1, STEPS)), (("dropout=standard",), (2,))):
        try:
            whole = make(target, *options)
        except Refused:
            continue
        except AltpropError:
            if not options:
                raise
            continue
        steps(whole, STEPS)
        expected = snapshot(whole)
        for stop in stops:
            first = make(target, *options)
            if done(steps(first, stop)):
                break
            second = make(target, *options)
            second.algorithm.restore(reloaded(snapshot(first)))
            steps(second, STEPS - stop, start=stop)
            where = difference(expected, snapshot(second))
            if where is not None:
                under = f" under {options[0]}" if options else ""
                return f"resumed after step {stop}{under} it ends with other bits, at {where}: `state` lacks something"
    return None


def restores_an_earlier_state(target: Target) -> str | None:
    """Put back to an early state, which may be smaller than what it has grown to since, it takes the same way again."""
    parts = make(target)
    if done(steps(parts, 1)):
        raise NotApplicable("it is done after its first step")
    early = reloaded(snapshot(parts))
    steps(parts, GROWN, start=1)
    expected = snapshot(parts)
    try:
        parts.algorithm.restore(early)
    except Exception as error:
        text = " ".join(str(error).split())[:160]
        return f"its state after 1 step cannot be put back after {GROWN + 1}: `_structure` must rebuild it ({text})"
    where = difference(early, snapshot(parts))
    if where is None:
        steps(parts, GROWN, start=1)
        where = difference(expected, snapshot(parts))
    return None if where is None else f"put back to its state after 1 step it ends with other bits, at {where}"


def stacks_as_it_steps(target: Target) -> str | None:
    """Seeds that are stepped as one equal those that are stepped alone, within rounding; or its class says why not."""
    if make(target).algorithm.not_stacked:
        raise NotApplicable("its class says why its seeds run one by one")
    alone, stacked = ([make(target, seed=seed) for seed in range(SEEDS)] for _ in range(2))
    snapshot(alone[0])
    group: StackedLearners | None = None
    try:
        group = StackedLearners([parts.algorithm for parts in stacked])
        for position in range(STACKED):
            batches = [parts.feed.batch(position) for parts in stacked]
            ended = group.step(stacked_batch(batches), partial(next, iter(batches))).done
            for parts in stacked:
                parts.problem.progress = min(1.0, (position + 1) / 40)
            if ended:
                break
    except Unmeasured as error:
        raise NotApplicable(str(error)) from error
    except Unstackable as error:
        return f"its seeds cannot be stepped as one, and `not_stacked` does not say why: {error}"
    finally:
        if group is not None:
            group.close()
    for seed, (one, other) in enumerate(zip(alone, stacked, strict=True)):
        steps(one, STACKED)
        expected, found = snapshot(one), snapshot(other)
        expected["counts"], found["counts"] = (parts.problem.ledger.summary() for parts in (one, other))
        for part in ("problem", "algorithm", "counts"):
            where = difference(_comparable(expected[part]), _comparable(found[part]), tolerance=ROUNDING)
            if where is not None:
                return f"seed {seed}, stepped with others, ends elsewhere than alone, at {where}"
    return None


def _comparable(state: Mapping[str, Any]) -> Any:
    """Return a state without what the members of a stack share or measure once: seconds and bytes."""
    return {name: value for name, value in state.items() if name != "ledger"}


STATE = by_name(
    same_seed_same_bits,
    leaves_global_generators_alone,
    declares_all_that_it_changes,
    holds_no_parameter,
    resumes_to_the_bit,
    restores_an_earlier_state,
    stacks_as_it_steps,
)
