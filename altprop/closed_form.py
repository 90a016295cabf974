"""The gradient of a chain of dense blocks by the chain rule written out: no graph is built.

It is what automatic differentiation computes, in fewer and larger steps, for one learner and for stacked ones alike.
With X (B, n_0) the inputs, A_0 = X, and for each block Z = A_below W^T + b, A = f(Z) and D = dE/dZ,

    D_last = dE/dZ_last,    D_below = (D W) * f'(Z_below),    dE/dW = D^T A_below,    dE/db = sum of the rows of D.

Under noise that multiplies, by masks M of what a block puts out and N of its weight, A = M * f(Z), W stands for N * W,

    D_below = (D W) * M_below * f'(Z_below),    dE/dW = N * (D^T A_below).

Of S stacked learners every tensor has a leading dimension S, and the products are batched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from altprop.data import Batch
from altprop.losses import Loss
from altprop.models.base import Dense, LayeredModel
from altprop.models.parts import Activation
from altprop.noise import MultiplicativeNoise
from altprop.vectorized import Members

if TYPE_CHECKING:
    from altprop.ledger import Ledger
    from altprop.workspace import Workspace


class Affine(NamedTuple):
    """One block: weight (n, m) or (S, n, m), bias (n,) or (S, n), and its activation.

    Attributes:
        unit_mask: takes f(Z) and returns its mask M, or None where nothing acts.
        weight_mask: N, shaped like the weight, which is N * W then.
    """

    weight: Tensor
    bias: Tensor
    activation: Activation
    unit_mask: Callable[[Tensor], Tensor | None] | None = None
    weight_mask: Tensor | None = None


class Pass(NamedTuple):
    """What a block keeps of the way forward: its input (..., B, m), Z where the slope needs it, f(Z) (..., B, n), M."""

    inputs: Tensor
    z: Tensor
    a: Tensor
    mask: Tensor | None


def applies(model: object) -> bool:
    """Return whether a model is a chain of dense blocks, under noise that multiplies at the most."""
    return isinstance(model, LayeredModel) and model.plain


def forward(x: Tensor, layers: Sequence[Affine], keep_z: bool = False) -> list[Pass]:
    """Run the layers in order on inputs (B, n_0), or on (S, B, n_0); `keep_z` keeps every Z, and not A in its place."""
    passes: list[Pass] = []
    for weight, bias, activation, unit_mask, _ in layers:
        if weight.dim() == 2:
            z = torch.addmm(bias, x, weight.t())
        else:
            z = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
        a = activation.function(z)
        mask = None if unit_mask is None else unit_mask(a)
        passes.append(Pass(x, z if keep_z or activation.keeps_z else a, a, mask))
        x = a if mask is None else a * mask
    return passes


def backward(delta: Tensor, layers: Sequence[Affine], passes: Sequence[Pass]) -> list[Tensor]:
    """Return the gradients of weight and bias of every layer, in order.

    Args:
        delta: (B, C) or (S, B, C), dE/dA of the last layer.
        layers, passes: as `forward` took and gave them.
    """
    found: list[Tensor] = []
    for place in reversed(range(len(layers))):
        inputs, z, a, mask = passes[place]
        if mask is not None:
            delta = delta * mask
        delta = layers[place].activation.back(delta, z, a)
        found += parameters(delta, inputs)
        weight_mask = layers[place].weight_mask
        if weight_mask is not None:
            found[-1] = found[-1] * weight_mask
        if place > 0:
            delta = delta @ layers[place].weight
    return found[::-1]


def parameters(delta: Tensor, inputs: Tensor) -> list[Tensor]:
    """Return dE/db and dE/dW of a layer from its dE/dZ and what it saw."""
    return [delta.sum(-2), delta.mT @ inputs]


def gradient(problem: Workspace, loss: Loss, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """Return (mean loss, gradients in the order of the parameters), counted as a forward and a backward pass."""
    members, ledger, rows = Members.entered, problem.ledger, batch.rows
    masks = cast("MultiplicativeNoise | None", problem.uncounted.noise)
    with torch.no_grad():
        layers = [_affine(block, masks, members) for block in problem.layered.blocks]
        inputs = batch.inputs.flatten(1)
        mask = None if masks is None else masks.mask(inputs, "input", 0)
        x, targets = _all(inputs if mask is None else inputs * mask, members), _all(batch.targets, members)
    if members is None:
        return _counted(ledger, loss, layers, x, targets, rows)
    with members.outside():
        value, grads = _counted(ledger, loss, layers, x, targets, rows)
    return members.one(value), [members.one(grad) for grad in grads]


def _counted(
    ledger: Ledger, loss: Loss, layers: Sequence[Affine], x: Tensor, targets: Tensor, rows: int
) -> tuple[Tensor, list[Tensor]]:
    with torch.no_grad():
        with ledger.primitive("forward", rows):
            passes = forward(x, layers)
            outputs = passes[-1].a
            each, slopes = loss.per_element_and_gradient(outputs, targets)
            value = each.mean(-1)
        masks = [one.mask for one in passes if one.mask is not None]
        ledger.keeps([x, *(kept for one in passes for kept in (one.z, one.a)), *masks, slopes])
        with ledger.primitive("backward", rows):
            grads = backward(slopes / each.shape[-1], layers, passes)
    return value, grads


def _all(seen: Tensor, members: Members | None) -> Tensor:
    return seen if members is None else members.all(seen).detach()


def _affine(block: Dense, masks: MultiplicativeNoise | None, members: Members | None) -> Affine:
    layer = Affine(_all(block.weight, members), _all(block.bias, members), block.activation)
    if masks is None:
        return layer
    if not block.is_output:
        layer = layer._replace(unit_mask=partial(_unit_mask, masks, block.index, members))
    mask = masks.mask(block.weight, "weight", block.index)
    if mask is None:
        return layer
    mask = _all(mask, members)
    return layer._replace(weight=layer.weight * mask, weight_mask=mask)


def _unit_mask(masks: MultiplicativeNoise, layer: int, members: Members | None, a: Tensor) -> Tensor | None:
    """Return the mask of what a block puts out, which is drawn amid the code of one member."""
    if members is None:
        return masks.mask(a, "unit", layer)
    with members.inside():
        mask = masks.mask(members.one(a), "unit", layer)
        return None if mask is None else members.all(mask)
