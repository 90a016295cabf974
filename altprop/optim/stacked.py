"""The updaters of many members on their stacked parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from altprop.optim.updater import Updater
from altprop.vectorized import Members, Unstackable

COUNTS = frozenset({"step", "mu_product", "eta", "mu"})
"""State of element-wise optimizers that is one number for a whole parameter, and the same in all members."""


class StackedUpdater:
    """What steps the parameters of all members at once, in the place of the first member's updater.

    An optimizer that steps each element by its own numbers alone steps the stacked parameters as if they were one
    module's. Any other (clipping by a norm, Muon, LAMB) sees each member's own parameters, which are views of the
    stack, and its own norms; and so do optimizers whose rates differ between the members.

    Args:
        updaters: of the members, each on its own module.
        module: whose parameters are theirs, stacked: (S, *parameter).

    Raises:
        Unstackable: for an optimizer that evaluates or differentiates the objective again.
    """

    def __init__(self, updaters: Sequence[Updater], module: nn.Module) -> None:
        first = updaters[0]
        if first._factory.needs & {"closure", "graph"}:
            raise Unstackable(f"optimizer {first._factory.name} evaluates or differentiates the objective again")
        self._updaters = list(updaters)
        alike = all(updater.same_recipe(first) for updater in updaters)
        self._whole = _like(first, module) if alike and first.elementwise else None
        if self._whole is not None:
            _stack(self._updaters, self._whole)
        first._stacked = self.apply
        self._held: list[int] = []

    def apply(self, direction: Mapping[str, Tensor], members: Members) -> None:
        """Step all members along minus their directions, parameter name -> what one member sees."""
        stacked = {name: members.all(value) for name, value in direction.items()}
        with members.outside(), torch.no_grad():
            if self._whole is not None:
                self._whole.apply(stacked)
                return
            self._apply_each(stacked)

    def _apply_each(self, stacked: Mapping[str, Tensor]) -> None:
        """Step each member's own updater; the first one's work is counted, and may be measured, for all."""
        first, *others = self._updaters
        ledger = first._problem.ledger
        auditing, ledger.auditing = ledger.auditing, True
        first.apply({name: value[0] for name, value in stacked.items()})
        ledger.auditing = auditing
        with ledger.pause():
            for place, updater in enumerate(others, 1):
                updater.apply({name: value[place] for name, value in stacked.items()})

    def settle(self) -> None:
        """Give each member's updater the state that it would have alone."""
        if self._whole is not None:
            self._settle_shares(self._whole)
            return
        for updater in self._updaters[1:]:
            if updater._meter is not None and self._updaters[0]._meter is not None:
                updater._meter.seen = list(self._updaters[0]._meter.seen)

    def _settle_shares(self, whole: Updater) -> None:
        """Let the members' state be views of the stack, made anew where that holds other tensors than before.

        The first member's is a copy, made every time: it takes steps alone, which nobody else may see.
        """
        held = [
            id(value)
            for part in whole._parts
            for p in part.params.values()
            for value in part.optimizer.state.get(p, {}).values()
        ]
        known, self._held = held == self._held, held
        for place, updater in enumerate(self._updaters):
            if place == 0 or not known:
                _share(whole, place, updater)
            _follow(whole, updater)


def _like(updater: Updater, module: nn.Module) -> Updater:
    """Return a fresh updater of the same recipe on another module."""
    return Updater(updater._factory, module, updater._roles, updater._problem, updater.direction)


def _stack(updaters: Sequence[Updater], whole: Updater) -> None:
    """Give the updater on stacked parameters the members' state."""
    whole._steps, whole._fresh = updaters[0]._steps, updaters[0]._fresh
    for number, part in enumerate(whole._parts):
        each = [updater._parts[number] for updater in updaters]
        for name, p in part.params.items():
            states = [one.optimizer.state.get(one.params[name], {}) for one in each]
            part.optimizer.state[p] = {key: _stacked(key, [s[key] for s in states]) for key in states[0]}


def _stacked(key: str, values: Sequence[object]) -> object:
    """Return a piece of state on stacked parameters: what is there for each element is stacked, the rest is common.

    The name tells, not the shape: for a parameter that is a scalar, as a learned rate is, all state is a scalar.
    """
    first = values[0]
    if not isinstance(first, Tensor):
        return first
    return first.clone() if key in COUNTS else torch.stack(values)  # type: ignore[arg-type]


def _share(whole: Updater, place: int, updater: Updater) -> None:
    """Let a member's state be its part of the stacked one, for the first member a copy of it."""

    def own(value: object, p: Tensor) -> object:
        if not isinstance(value, Tensor):
            return value
        part = value[place] if value.shape == p.shape else value
        return part if place else part.clone()

    for part, theirs in zip(whole._parts, updater._parts, strict=True):
        for name, p in part.params.items():
            state = part.optimizer.state.get(p)
            if state:  # a parameter that never had a direction has none
                theirs.optimizer.state[theirs.params[name]] = {key: own(value, p) for key, value in state.items()}


def _follow(whole: Updater, updater: Updater) -> None:
    """Give a member's updater the rates and the counts of the stacked one."""
    for part, theirs in zip(whole._parts, updater._parts, strict=True):
        for group, given in zip(theirs.optimizer.param_groups, part.optimizer.param_groups, strict=True):
            group["lr"] = given["lr"]
    updater._steps, updater._fresh = whole._steps, whole._fresh
