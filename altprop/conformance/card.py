"""The card of a learner: what its updates depend on, told by intervention and not by its authors.

A small net is changed, steps are taken from the same state with the same draws, and the first layer's update is
compared with the one without the change. Two of the changes do not show in a forward pass:

    weights of the way back   the weights above are W + D with a forward pass of W: whoever reads a weight, or sends a
                              signal through its transpose, meets W + D (weight transport);
    slope                     activations have twice their derivative;
    what lies above           the last layer has other weights: a rule that is local in depth does not notice, not in
                              several steps either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from altprop.conformance.case import Target, find_target, make, smallest, steps, target_path
from altprop.errors import Refused
from altprop.harness.building import Parts
from altprop.models.base import Dense, LayeredModel
from altprop.models.parts import Activation
from altprop.records.cards import Card, write_card
from altprop.records.oracle_checks import code_of
from altprop.records.provenance import collect

SAME = 1e-6
"""Largest relative difference of updates that counts as none: rounding, in float64."""
FEED_FORWARD = ("task=iris", "task=diabetes")
DEEP = "model.hidden=[32,32,32,32,32,32,32,32]"
COUNTED = 8
Change = Callable[[LayeredModel], None]


def sentences(card: Card) -> list[str]:
    """Return a card in words."""

    def answer(value: bool | None) -> str:
        return "not to be told" if value is None else "yes" if value else "no"

    memory = "not to be told" if card.memory is None else f"{card.memory:.2f} of backpropagation's"
    return [
        f"reads the weights above, or sends through their transpose: {answer(card.transport)}",
        f"needs the activations' derivative: {answer(card.slope)}",
        f"the first layer's update depends on the last layer: {answer(card.above)}",
        f"a step costs {card.passes:.3g} forward passes of its rows",
        f"bytes kept for the way back, eight hidden layers: {memory}",
    ]


def keep(target: Target, found: Card, runs_dir: str | Path) -> Path:
    """Write a card beside the runs in a folder, for their report, and return its file.

    Raises:
        AltpropError: where it cannot be written, in one line.
    """
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    provenance = collect("cpu", "64", threads=1)
    path = target_path(target)
    return write_card(runs_dir, target.name, path, code_of(path), found, provenance, finished).path


def card(target: Target) -> Card:
    """Measure the card of a learner on its smallest task, with plain SGD where it takes an optimizer."""
    found = [_noticed(target, change, count) for change, count in CHANGES.items()]
    parts = _made(target)
    steps(parts, COUNTED)
    ledger = parts.problem.ledger
    passes = ledger.forward_equivalents / max(ledger.samples, 1)
    return Card(found[0], found[1], found[2], passes, _memory(target))


def _noticed(target: Target, change: Change, count: int) -> bool | None:
    """Return whether a change of the model makes another update, or None where the first layer gets none."""
    update = _first_update(target, lambda model: None, count)
    try:
        other = _first_update(target, change, count)
    except Refused:  # it brings formulas of its own for the activations that it knows
        return None
    if update is None:
        # Not in the first steps, perhaps: what teaches the first layer may have to learn itself.
        return None if count >= COUNTED else _noticed(target, change, COUNTED)
    return other is None or float((update - other).norm()) > SAME * float(update.norm())


def _made(target: Target, *more: str) -> Parts:
    return make(target, "optimizer=sgd", *more)


def _first_update(target: Target, change: Change, count: int) -> Tensor | None:
    """Return what steps after a change of the model do to its first layer, or None where there is nothing to see."""
    parts = _made(target)
    model = parts.model
    if not isinstance(model, LayeredModel) or any(type(block) is not Dense for block in model.blocks):
        return None
    change(model)
    parts.problem.look_up()
    parts.algorithm.setup(parts.problem)  # anew: it may have looked at the model
    weight = cast("Dense", model.blocks[0]).weight
    before = weight.detach().clone()
    steps(parts, count)
    update = weight.detach() - before
    return update if bool(update.any()) else None


def _memory(target: Target) -> float | None:
    """Return the saved bytes in a deep net relative to backpropagation's, or None where it has no such net."""
    task = smallest(target)[0]
    if task not in FEED_FORWARD:
        return None
    kept = []
    for one in (target, find_target("backprop")):
        try:
            parts = _made(one, task, "task.batch_size=32", DEEP)
        except Refused:
            return None
        steps(parts, 2)
        kept.append(parts.problem.ledger.saved_bytes)
    return kept[0] / kept[1]


# Interventions.


class _OtherWayBack(torch.autograd.Function):
    """x (W - D)^T + b, whose cotangent of x goes through W."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
        return functional.linear(x, weight - shift, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x, weight, _, shift = inputs
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight, shift)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (x, weight) = cotangents, ctx.saved_tensors
        return g @ weight, g.mT @ x, g.sum(-2), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        x, weight, shift = ctx.saved_tensors
        dx, dw, db, _ = tangents
        moved = torch.zeros_like(functional.linear(x, weight))
        if dx is not None:
            moved = moved + functional.linear(dx, weight - shift)
        if dw is not None:
            moved = moved + functional.linear(x, dw)
        return moved if db is None else moved + db


class _Shifted(Dense):
    """A dense block whose stored weight is not the one of its forward pass."""

    shift: Tensor

    def transform(self, x: Tensor) -> Tensor:
        z: Tensor = _OtherWayBack.apply(self.perturbed(x), self.weight, self.bias, self.shift)  # type: ignore[no-untyped-call]
        return z

    def population(self, x: Tensor, params: Any, shared_input: bool) -> Tensor:
        return super().population(x, {**params, "weight": params["weight"] - self.shift}, shared_input)


def _other_way_back(model: LayeredModel) -> None:
    for index, block in enumerate(model.blocks):
        if index > 0:
            assert isinstance(block, Dense)
            block.__class__ = _Shifted
            block.shift = _pattern(block.weight)
            block.weight.data.add_(block.shift)


def _steeper(model: LayeredModel) -> None:
    for block in list(model.blocks)[:-1]:
        assert isinstance(block, Dense)
        block.__class__ = _Watched
        block.activation = _steep(block.activation)


class _Watched(Dense):
    """A dense block of another type, so that nobody takes the chain for one that he knows the derivative of."""


def _steep(activation: Activation) -> Activation:
    """Return an activation of the same values and twice the derivative."""
    function, slope = activation.function, activation.slope

    def steep(z: Tensor) -> Tensor:
        y = function(z)
        return 2 * y - y.detach()

    return replace(activation, name="steep", function=steep, slope=lambda z, y: 2 * slope(z, y), fused=None)


def _other_last_layer(model: LayeredModel) -> None:
    last = model.blocks[-1]
    assert isinstance(last, Dense)
    last.weight.data.add_(4 * _pattern(last.weight))


def _pattern(weight: nn.Parameter) -> Tensor:
    """Return a fixed matrix of about the size of a weight's entries."""
    count = torch.arange(weight.numel(), dtype=weight.dtype, device=weight.device).reshape(weight.shape)
    return 0.5 * torch.sin(1 + 1.7 * count) / math.sqrt(weight.shape[1])


CHANGES: dict[Change, int] = {_other_way_back: 1, _steeper: 1, _other_last_layer: 5}
"""What is changed, and after how many steps the updates are compared."""
