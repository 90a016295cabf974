"""Many seeds of one learner as one: its own code, on tensors that are stacked over the seeds.

Parameters, buffers and all tensors that a learner holds are stacked; each member draws from its own streams, so that
what it draws does not depend on its company; updates are taken on the stack (`altprop.optim.stacked`). The members'
models are views of the stack at all times, so that evaluations, probes and checkpoints find each as it is.

A stacked step equals the single ones within rounding (a rule of the conformance suite), not bit for bit: products of
other shapes are summed in another order.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from altprop.algorithm import Algorithm
from altprop.data import Batch
from altprop.ledger import Ledger
from altprop.optim import Updater
from altprop.optim.stacked import StackedUpdater
from altprop.problem import Problem
from altprop.randomness import StackedRandom
from altprop.vectorized import Members, Unstackable, common


class Stacked(NamedTuple):
    """Values of all members in a tree of state, (S, ...), told from a tensor that they share."""

    values: Tensor


class StackedStep(NamedTuple):
    """What a step of all members tells.

    Attributes:
        losses: (S,), or None where the rule tells none.
        scalars: name -> (S,) or a number that is every member's.
        done: whether the rule has nothing left to do.
    """

    losses: Tensor | None
    scalars: Mapping[str, Tensor | float]
    done: bool


class StackedLearners:
    """The learners of S seeds, stepped together. They share one ledger, which counts what each of them does.

    Args:
        learners: set up, with models of one shape, all at the same step.

    Raises:
        Unstackable: where something in them cannot be stacked.
    """

    def __init__(self, learners: Sequence[Algorithm]) -> None:
        self._learners, self._first = list(learners), learners[0]
        self._members = Members(len(learners))
        self._problem: Problem = self._first.problem
        if self._first.not_stacked:
            raise Unstackable(self._first.not_stacked)
        if self._problem.players or self._problem.acts:
            raise Unstackable("games and environments are played one by one")
        self._book(self._problem.ledger)
        self._modules = [_StackedModule(each) for each in _modules(self._learners)]
        self._updaters: list[StackedUpdater] = []
        self._numbers: set[str] = set()
        self._state = {
            name: self._stack_attribute([vars(learner)[name] for learner in learners], name)
            for name in vars(self._first)
            if name != "problem"
        }
        self._open, self._is_open = ExitStack(), False
        self._seen: set[tuple[object, ...]] = set()

    def __len__(self) -> int:
        return len(self._learners)

    def step(
        self, batch: Batch | None, single: Callable[[], Batch | None], *, common_batch: bool = False
    ) -> StackedStep:
        """Take one step of every learner; they stay opened until `close`.

        Args:
            batch: of all members, its inputs, targets and index stacked, (S, ...); the rest is common to all.
            common_batch: whether it is one and the same batch for all members instead, and nothing is stacked.
            single: what the first member would be fed alone, asked for in steps that are measured.

        Raises:
            Unstackable: where the code meets what it cannot do for all at once; the step is half taken then.
        """
        ledger = self._problem.ledger
        shape = () if batch is None else tuple(batch.inputs.shape)
        if ledger.due_for_audit(batch is not None and batch.last) or shape not in self._seen:
            self._seen.add(shape)
            self.close()
            step = ledger.steps
            self._count(single())
            self._book(_scratch(ledger, step))
            if self._problem.heard is not None:
                self._problem.heard = {}
        try:
            if not self._is_open:
                self._open.enter_context(self._opened())
            shared = batch is None or common_batch
            return self._stacked_step(batch if shared or batch is None else mapped(batch, self._members.one))
        finally:
            self._book(ledger)

    def observed(self, function: Callable[..., Any], *fed: Batch | None) -> list[Any]:
        """Call a function that looks at the first learner's problem, and return what it would give for each learner.

        Args:
            function: returns tensors, or lists and tuples of them.
            fed: a batch that it takes, of all members, stacked.

        Raises:
            Unstackable: where it does what cannot be done for all at once.
        """
        with self._opened() if not self._is_open else nullcontext():
            try:
                shown = [None if batch is None else mapped(batch, self._members.one) for batch in fed]
                with self._members.inside():
                    found = _kept(function(*shown), self._members)
            except RuntimeError as error:
                raise Unstackable(" ".join(str(error).split())) from error
        return [_mapped(found, partial(_place, place)) for place in range(len(self))]

    def _book(self, ledger: Ledger) -> None:
        for learner in self._learners:
            learner.problem.ledger = ledger

    def _stacked_step(self, batch: Batch | None) -> StackedStep:
        problem, members = self._problem, self._members
        problem.begin_step(problem.ledger.steps)
        problem.ledger.stacked = problem.ledger.auditing
        try:
            with members.inside():
                result = self._first._counted_step(batch)
                losses = None if result.loss is None else members.all(result.loss).detach()
                told = {n: members.all(v).detach() if isinstance(v, Tensor) else v for n, v in result.scalars.items()}
        except RuntimeError as error:
            raise Unstackable(" ".join(str(error).split())) from error
        finally:
            problem.ledger.stacked = False
        return StackedStep(losses, told, result.done)

    def _count(self, batch: Batch | None) -> None:
        """Let the first learner take the step by itself, audited where that is due, and undo all but the counts."""
        learner, problem = self._first, self._problem
        saved, random = learner.state_dict(), problem.random.state_dict()
        with ExitStack() as undo:
            for module in self._modules:
                undo.enter_context(module.apart())
            learner.step(batch)
        learner.load_state_dict(saved)
        problem.random.load_state_dict(random)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Let the first learner see one member in the place of its own tensors."""
        problem, members, first = self._problem, self._members, self._first
        randoms = [learner.problem.random for learner in self._learners]
        self._is_open = True
        with members.opened(), ExitStack() as undo:
            for module in self._modules:
                undo.enter_context(module.shown(members))
            problem.random = StackedRandom(randoms, members)
            problem.clock.seeds = [learner.problem.clock.seed for learner in self._learners]
            problem.look_up()
            for name, tree in self._state.items():
                setattr(first, name, _mapped(tree, members.one))
            try:
                yield
            finally:
                self._state = {name: _kept(value, members) for name, value in vars(first).items() if name != "problem"}
                problem.random, problem.clock.seeds = randoms[0], None
                self._is_open = False
        problem.look_up()
        self._settle()

    def close(self) -> None:
        """Let every learner be as if it had stepped alone."""
        self._open.close()

    def _settle(self) -> None:
        """Give all learners their share of the state, and the first learner's place in the noise."""
        for updater in self._updaters:
            updater.settle()
        here = self._problem
        for place, learner in enumerate(self._learners):
            for name, tree in self._state.items():
                if name in self._numbers:
                    setattr(learner, name, float(tree.values[place]))
                elif not _is_bound(tree):
                    setattr(learner, name, _share(tree, place))
            other = learner.problem
            other.clock.step, other.clock.phase = here.clock.step, here.clock.phase
            other._fresh_buffers = here._fresh_buffers

    # State.

    def _stack_attribute(self, values: Sequence[Any], name: str) -> Any:
        """Stack an attribute of all members; a number that differs, as between trials, is seen as a scalar tensor."""
        if all(isinstance(one, float) for one in values) and len(set(values)) > 1:
            self._numbers.add(name)
            return Stacked(torch.tensor(values, dtype=torch.float64, device=self._problem.device))
        return self._stack(values, name)

    def _stack(self, values: Sequence[Any], name: str) -> Any:
        """Stack the like pieces of state of all members: tensors, and lists, tuples and dicts of them."""
        first = values[0]
        if isinstance(first, Tensor):
            if len({(one.shape, one.dtype) for one in values}) > 1:
                raise Unstackable(f"{name} has other shapes in other members")
            return Stacked(_stacked(values))
        if isinstance(first, Updater):
            module = next((m for m in self._modules if m.serves(first)), None)
            if module is not None:
                self._updaters.append(StackedUpdater(values, module.stacked_part(first)))
            return first
        if isinstance(first, Mapping):
            return {key: self._stack([one[key] for one in values], name) for key in first}
        if isinstance(first, (list, tuple)):
            return _like(first, [self._stack(each, name) for each in zip(*values, strict=True)])
        if isinstance(first, (bool, int, float, str)):
            return common(values, name)
        return first


def _stacked(values: Sequence[Tensor]) -> Tensor:
    """Stack tensors in their own order in memory, (S, ...).

    A resumed group multiplies as an undisturbed one: matrices that lie by columns, as eigenvectors do, have other bits.
    """
    order = sorted(range(values[0].dim()), key=values[0].stride, reverse=True)
    whole = torch.stack([one.detach().permute(order) for one in values])
    return whole.permute(0, *(1 + order.index(dim) for dim in range(len(order))))


def _is_bound(value: Any) -> bool:
    """Return whether a piece of a learner belongs to it alone: objects, and what holds them."""
    if isinstance(value, Mapping):
        return any(_is_bound(item) for item in value.values())
    if isinstance(value, (list, tuple)) and not isinstance(value, Stacked):
        return any(_is_bound(item) for item in value)
    return not isinstance(value, (Tensor, Stacked, bool, int, float, str, type(None)))


def _mapped(tree: Any, one: Callable[[Tensor], Tensor]) -> Any:
    """Return a tree of state with a function applied to what is stacked."""
    if isinstance(tree, Stacked):
        return one(tree.values)
    if isinstance(tree, Mapping):
        return {key: _mapped(item, one) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return _like(tree, [_mapped(item, one) for item in tree])
    return tree


def _kept(value: Any, members: Members) -> Any:
    """Return the stacked state behind what one member sees."""
    if isinstance(value, Tensor):
        return Stacked(members.all(value).detach()) if members.differ(value) else value
    if isinstance(value, Mapping):
        return {key: _kept(item, members) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return _like(value, [_kept(item, members) for item in value])
    return value


def _like(value: Any, items: Sequence[Any]) -> Any:
    """Return items as a list or tuple of the same kind."""
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _place(place: int, values: Tensor) -> Tensor:
    return values[place]


def _share(tree: Any, place: int) -> Any:
    """Return a member's own copy of its state."""
    return _mapped(tree, lambda values: values[place].clone())


def _modules(learners: Sequence[Algorithm]) -> list[list[nn.Module]]:
    """Return the modules that learners train, each as the list of all members': the model, and those of their own."""
    found = [[learner.problem.model for learner in learners]]
    inside = {id(module) for module in found[0][0].modules()}
    for name, value in vars(learners[0]).items():
        if isinstance(value, nn.Module) and id(value) not in inside:
            found.append([vars(learner)[name] for learner in learners])
    return found


class _StackedModule:
    """Modules of one shape whose parameters and buffers are views of stacked ones.

    Args:
        modules: of the members.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._first = modules[0]
        self._whole = copy.deepcopy(self._first)
        self._places: list[tuple[nn.Module, str, str]] = []
        mine = dict(self._whole.named_modules())
        for path, each in zip(mine, zip(*(module.modules() for module in modules), strict=True), strict=True):
            _refuse_other_numbers(each, path)
            for kind in ("_parameters", "_buffers"):
                for name, value in getattr(each[0], kind).items():
                    if value is not None:
                        self._places.append((each[0], kind, name))
                        _become_views([getattr(one, kind)[name] for one in each], getattr(mine[path], kind)[name])

    def serves(self, updater: Updater) -> bool:
        """Return whether an updater of the first member steps parameters in here."""
        return any(module is updater._module for module in self._first.modules())

    def stacked_part(self, updater: Updater) -> nn.Module:
        """Return the module with the stacked parameters that an updater of the first member steps."""
        path = next(path for path, module in self._first.named_modules() if module is updater._module)
        return self._whole.get_submodule(path)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Give the first member tensors of its own inside, and forget what became of them."""
        each = [getattr(module, kind)[name] for module, kind, name in self._places]
        views = [one.data for one in each]
        for one, view in zip(each, views, strict=True):
            one.data = view.clone()
        try:
            yield
        finally:
            for one, view in zip(each, views, strict=True):
                one.data = view

    @contextmanager
    def shown(self, members: Members) -> Iterator[None]:
        """Put what one member sees into the first member's module."""
        whole = {id(module): mine for module, mine in zip(self._first.modules(), self._whole.modules(), strict=True)}
        kept = [(module, kind, name, getattr(module, kind)[name]) for module, kind, name in self._places]
        for module, kind, name in self._places:
            getattr(module, kind)[name] = members.one(getattr(whole[id(module)], kind)[name])
        try:
            yield
        finally:
            for module, kind, name, value in kept:
                getattr(module, kind)[name] = value


def _refuse_other_numbers(each: Sequence[nn.Module], path: str) -> None:
    """Refuse modules that differ in a plain attribute, such as the rate of a dropout: one module's code serves all."""
    for name, value in vars(each[0]).items():
        if _is_plain(value):
            common([vars(one).get(name) for one in each], f"{path or 'model'}.{name}")


def _is_plain(value: Any) -> bool:
    """Return whether a value is made of numbers and words."""
    if isinstance(value, Mapping):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _become_views(each: Sequence[Tensor], whole: Tensor) -> None:
    """Let the members' tensors be views of one stack, which `whole` becomes."""
    if len({(one.shape, one.dtype) for one in each}) > 1:
        raise Unstackable("the members' modules have parameters of other shapes")
    whole.data = torch.stack([one.detach() for one in each])
    for one, view in zip(each, whole.data.unbind(0), strict=True):
        one.data = view


def _scratch(ledger: Ledger, step: int) -> Ledger:
    """Return a ledger for a step that was counted already."""
    scratch = Ledger(ledger.blocks, ledger.forward_flops)
    scratch.steps, scratch.auditing = step, False
    return scratch


def stacked_batch(batches: Sequence[Batch | None]) -> Batch | None:
    """Return the batches of all members as one, as `StackedLearners.step` takes it.

    Raises:
        Unstackable: where they differ in more than inputs, targets and index.
    """
    fed = [batch for batch in batches if batch is not None]
    if not fed:
        return None
    if len({batch.inputs.shape for batch in fed}) > 1:
        raise Unstackable("the members' batches differ in size")
    common([batch.weights for batch in fed], "what counts in a batch")
    common([batch.reset for batch in fed], "where sequences begin")
    return replace(
        fed[0],
        inputs=torch.stack([batch.inputs for batch in fed]),
        targets=torch.stack([batch.targets for batch in fed]),
        index=torch.stack([batch.index for batch in fed]),
    )


def mapped(batch: Batch, function: Callable[[Tensor], Tensor]) -> Batch:
    """Return a batch with a function applied to what differs between members."""
    return replace(batch, inputs=function(batch.inputs), targets=function(batch.targets), index=function(batch.index))
