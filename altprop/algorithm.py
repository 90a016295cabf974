"""The contract of a learning algorithm. An author writes hooks with an underscore; everything public is final."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn

from altprop.capabilities import BatchMode, Capability, PredictorKind
from altprop.errors import AltpropError, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from altprop.data import Batch, Feed
    from altprop.oracle import Oracle
    from altprop.problem import Problem


BREAKDOWNS: tuple[type[Exception], ...] = (torch.linalg.LinAlgError, np.linalg.LinAlgError)  # type: ignore[attr-defined]
"""What torch, numpy and scipy raise where a matrix cannot be factorised, inverted or decomposed."""


class StepResult(NamedTuple):
    """What a step tells.

    Attributes:
        loss: the problem's objective on this batch *before* the update, detached, or None where a rule has none.
        scalars: further numbers of this rule (a quantisation error, a damping), told at any step, as numbers or as
            scalar tensors, which spare the step the wait for them. For each block of steps the trace holds the last
            ones, and the mean of each over the steps that told it.
        done: whether the rule has nothing left to do.
        samples: targets consumed, where that is not the environment steps taken or else what the batch holds.
    """

    loss: Tensor | None = None
    scalars: Mapping[str, float | Tensor] = MappingProxyType({})
    done: bool = False
    samples: int | None = None


class Algorithm(ABC):
    """Abstract learning algorithm.

    Class attributes:
        requires: capabilities without which a cell is refused.
        batch: whether a step is fed mini-batches, the whole training set or nothing.
        state: names of the attributes that `_step` changes, beside those of its bases; they are saved and loaded.
        kind: what is learned, so that a task that cannot evaluate it refuses the cell; MODEL is for a rule that trains
            the task's model for whatever the task uses it as.
        trains_model: whether it trains the task's model, so that probes watch it and its initial weights are compared;
            None finds out: it does where the model predicts, or where an updater of the problem steps its parameters.
        distributed: whether all that it learns from is `Problem.gradient`, which is averaged over processes.
        not_stacked: why the seeds of this rule run one by one, in a sentence: its code branches on the value of a
            tensor, draws from another library or grows. Left empty, many seeds run as one
            (`altprop.stacked_learners`), and a rule of the conformance suite holds that to single steps.
        exempt: name of a rule of the conformance suite about learning -> why this learner need not obey it.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset()
    batch: BatchMode = BatchMode.MINI
    state: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[PredictorKind] = PredictorKind.OUTPUT
    trains_model: ClassVar[bool | None] = None
    distributed: ClassVar[bool] = False
    not_stacked: ClassVar[str] = ""
    exempt: ClassVar[Mapping[str, str]] = MappingProxyType({})

    problem: Problem

    # What an author writes.

    @abstractmethod
    def _setup(self, problem: Problem) -> None:
        """Prepare for `problem`: make updaters, feedback matrices, populations. Raise `Refused` for what cannot run."""

    @abstractmethod
    def _step(self, batch: Batch | None) -> Tensor | StepResult:
        """Learn from one batch; return the loss before the update, or a `StepResult`."""

    def _predictor(self) -> Callable[[Tensor], Tensor] | None:
        """Return what predicts, or None for `problem.model`."""
        return None

    def _structure(self, saved: Mapping[str, Any]) -> None:  # noqa: B027 - a hook that most rules leave empty
        """Rebuild the structure that a saved state had, grown or smaller, before parameters and state are loaded.

        Args:
            saved: name in `state` -> value as it was, but for what has a state of its own (an updater, a module),
                which is given as that state.
        """

    def _wrap_feed(self, feed: Feed) -> Feed:
        """Return what this rule is fed in place of a task's feed: the same, or a `MappedFeed` around it."""
        return feed

    def _probe(self, batch: Batch) -> Mapping[str, float | Tensor]:
        """Return diagnostics of this rule's own by name, as numbers or scalar tensors; the report draws each.

        They are asked for after the first step of each block, neither timed nor counted, with the model in evaluation
        mode. What is drawn here from `problem.random` is drawn again by the next step; nothing else may change.

        Args:
            batch: the frozen probe batch, the same for all learners.
        """
        return {}

    def artefacts(self) -> dict[str, Any]:
        """Return named tables or arrays that the record keeps as plain files."""
        return {}

    @classmethod
    def oracles(cls) -> Sequence[Oracle]:
        """Return what shows that this learner is what it says: oracles and negative controls.

        They are measured in float64 for the report, by `altprop-check` and by the tests, and are no part of a run:
        this method, and the private functions of its module that it alone calls, change no run's key.
        """
        return ()

    # Final.

    @final
    def setup(self, problem: Problem) -> None:
        """Bind to a problem.

        Raises:
            Refused: where the problem lacks what this algorithm requires.
        """
        self.problem = problem
        problem.refuse_unless(type(self).__name__, self.requires)
        if problem.ranks.size > 1:
            self._refuse_ranks(problem)
        with problem.ledger.pause():
            self._setup(problem)

    def _refuse_ranks(self, problem: Problem) -> None:
        name = type(self).__name__
        if not self.distributed:
            raise Refused(f"{name} learns from more than averaged gradients, so trainer=ddp cannot share it; use cpu")
        if getattr(problem.model, "noise", None) is not None:
            raise Refused("trainer=ddp draws no noise masks for parts of a batch; use dropout=none")
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in problem.model.modules()):
            raise Refused("batch normalisation would see parts of a batch under trainer=ddp; use normalisation=layer")

    @final
    def step(self, batch: Batch | None) -> StepResult:
        """Take one step: count it, audit it where scheduled, and return what it tells."""
        problem, ledger = self.problem, self.problem.ledger
        if batch is None and self.batch is not BatchMode.NONE:
            raise AltpropError(f"{type(self).__name__} must be fed a batch; its batch_mode is {self.batch}")
        problem.begin_step(ledger.steps)
        if ledger.due_for_audit(batch is not None and batch.last):
            with ledger.audit():
                result = self._counted_step(batch)
        else:
            result = self._counted_step(batch)
        return result

    def _counted_step(self, batch: Batch | None) -> StepResult:
        acted = self.problem.ledger.environment_steps
        result = self._step(batch)
        acted = self.problem.ledger.environment_steps - acted
        if isinstance(result, Tensor):
            result = StepResult(loss=result.detach())
        fed = acted or (0 if batch is None else batch.samples)
        self.problem.ledger.count_step(fed if result.samples is None else result.samples)
        return result

    @final
    def probe(self, batch: Batch) -> dict[str, float | None]:
        """Return the diagnostics of `_probe`, the stream left as it was: None for what is no number.

        A matrix that cannot be decomposed leaves a gap: what is merely looked at must not end a run.
        """
        if type(self)._probe is Algorithm._probe:
            return {}
        random = self.problem.random.state_dict()
        try:
            found: Any = self._probe(batch)
        except BREAKDOWNS:
            found = {}
        finally:
            self.problem.random.load_state_dict(random)
        return {str(name): number(value) for name, value in found.items()} if isinstance(found, Mapping) else {}

    @property
    @final
    def own_model(self) -> bool:
        """Whether it trains a model of its own, so that what is read off the task's model says nothing about it."""
        if self.trains_model is not None:
            return not self.trains_model
        return self._predictor() is not None and not self.problem.updates_model

    @final
    @contextmanager
    def predictor(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Give what predicts: in evaluation mode, not counted, without noise unless the noise averages noisy passes.

        All is put back on leaving.
        """
        with self.problem.evaluating():
            own = self._predictor()
            if own is None and self.kind is PredictorKind.OUTPUT:
                own = self.problem.predictor
            yield own or self.problem.model

    @final
    def restore(self, saved: Mapping[str, Any]) -> None:
        """Put a whole learner back, the one way to do it: the structure first, then parameters, then declared state.

        Args:
            saved: `state_dict` of the problem under "problem" (of the model alone, under "model" there: then what is
                spent stays) and of this algorithm under "algorithm".
        """
        self._structure(decode(saved["algorithm"]))
        self.problem.load_state_dict(saved["problem"])
        self.load_state_dict(saved["algorithm"])

    @final
    def state_dict(self) -> dict[str, Any]:
        """Return the declared state in weights_only-safe types."""
        return {name: dump(getattr(self, name), name) for name in declared_state(type(self))}

    @final
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Put a state of `state_dict` back.

        Raises:
            AltpropError: where the names differ from the declared ones.
        """
        declared = declared_state(type(self))
        if set(saved) != set(declared):
            raise AltpropError(f"{type(self).__name__}: saved state {sorted(saved)} is not {sorted(declared)}")
        for name in declared:
            setattr(self, name, load(getattr(self, name, None), saved[name]))


def number(value: Any) -> float | None:
    """Return a number or a tensor of one element as a float, None for anything else.

    >>> number(torch.tensor([2])), number("2")
    (2.0, None)
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    try:
        return float(value) if isinstance(value, (int, float, np.integer, np.floating)) else None
    except OverflowError:
        return None


def declared_state(kind: type[Algorithm]) -> tuple[str, ...]:
    """Return the names in `state` of a class and its bases, those of the bases first."""
    names = (name for base in reversed(kind.__mro__) for name in vars(base).get("state", ()))
    return tuple(dict.fromkeys(names))


def dump(value: Any, name: str) -> Any:
    """Turn a piece of state into tensors, numbers, strings, lists and dicts.

    Raises:
        AltpropError: for a Parameter (it would load as a copy that trains nothing) or an unknown type.
    """
    if isinstance(value, nn.Parameter):
        raise AltpropError(f"state {name!r} is a Parameter; an alias would load as a copy. Keep its name instead")
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind not in "biufc":
            raise AltpropError(f"state {name!r} holds an array of {value.dtype}, which cannot be saved")
        return {"__array__": torch.as_tensor(np.array(value)), "scalar": isinstance(value, np.generic)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.Generator):
        return {"__generator__": value.get_state()}
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return {"__state__": dump(value.state_dict(), name)}
    if isinstance(value, Mapping):
        return {"__items__": [[dump(k, name), dump(v, name)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"__tuple__": [dump(item, name) for item in value]}
    if isinstance(value, list):
        return [dump(item, name) for item in value]
    raise AltpropError(f"state {name!r} holds a {type(value).__name__}, which cannot be saved")


def load(current: Any, saved: Any) -> Any:
    """Undo `dump`; objects with state of their own are loaded in place."""
    if isinstance(saved, Tensor):
        return saved.clone()
    if isinstance(saved, list):
        return _load_items(current, saved, list)
    if not isinstance(saved, dict):
        return saved
    if "__generator__" in saved:
        current.set_state(saved["__generator__"])
        return current
    if "__array__" in saved:
        array = saved["__array__"].numpy().copy()
        return array[()] if saved["scalar"] else array
    if "__tuple__" in saved:
        return tuple(_load_items(current, saved["__tuple__"], tuple))
    if "__items__" in saved:
        old: Mapping[Any, Any] = current if isinstance(current, Mapping) else {}
        pairs = [(load(None, key), item) for key, item in saved["__items__"]]
        return {key: load(old.get(key), item) for key, item in pairs}
    if "__state__" in saved:
        current.load_state_dict(load(None, saved["__state__"]))
        return current
    raise AltpropError(f"unknown saved state with the names {sorted(saved)}")


def decode(saved: Any) -> Any:
    """Return saved state as the values that it was made from; what has a state of its own, as that state."""
    if isinstance(saved, list):
        return [decode(item) for item in saved]
    if not isinstance(saved, dict):
        return load(None, saved)
    for kind in ("__state__", "__generator__"):
        if kind in saved:
            return decode(saved[kind])
    if "__tuple__" in saved:
        return tuple(decode(item) for item in saved["__tuple__"])
    if "__items__" in saved:
        return {decode(key): decode(item) for key, item in saved["__items__"]}
    if "__array__" in saved:
        return load(None, saved)
    return {name: decode(item) for name, item in saved.items()}


def _load_items(current: Any, saved: list[Any], kind: type) -> list[Any]:
    """Load the items of a sequence, into the present ones where there are as many."""
    present: Any = current
    olds: list[Any] = list(present) if isinstance(current, kind) else []
    if len(olds) != len(saved):
        olds = [None] * len(saved)
    return [load(old, item) for old, item in zip(olds, saved, strict=True)]
