"""The gradient of a chain of dense blocks by the chain rule written out: no graph is built.

It is what automatic differentiation computes, in fewer and larger steps, for one learner and for stacked ones alike.
With X (B, n_0) the inputs, A_0 = X, and for each block Z = A_below W^T + b, A = f(Z) and D = dE/dZ,

    D_last = dE/dZ_last,    D_below = (D W) * f'(Z_below),    dE/dW = D^T A_below,    dE/db = sum of the rows of D.

Of S stacked learners every tensor has a leading dimension S, and the products are batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from altprop.data import Batch
from altprop.losses import Loss
from altprop.models.base import Dense, LayeredModel
from altprop.models.parts import Activation
from altprop.vectorized import Members

if TYPE_CHECKING:
    from altprop.ledger import Ledger
    from altprop.workspace import Workspace


class Affine(NamedTuple):
    """One block: weight (n, m) or (S, n, m), bias (n,) or (S, n), and its activation."""

    weight: Tensor
    bias: Tensor
    activation: Activation


class Pass(NamedTuple):
    """What a block keeps of the way forward: its input (..., B, m), Z where the slope needs it, and A (..., B, n)."""

    inputs: Tensor
    z: Tensor
    a: Tensor


def applies(model: object) -> bool:
    """Return whether a model is a chain of dense blocks and nothing else."""
    return isinstance(model, LayeredModel) and model.plain


def forward(x: Tensor, layers: Sequence[Affine], keep_z: bool = False) -> list[Pass]:
    """Run the layers in order on inputs (B, n_0), or on (S, B, n_0); `keep_z` keeps every Z, and not A in its place."""
    passes: list[Pass] = []
    for weight, bias, activation in layers:
        if weight.dim() == 2:
            z = torch.addmm(bias, x, weight.t())
        else:
            z = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
        a = activation.function(z)
        passes.append(Pass(x, z if keep_z or activation.keeps_z else a, a))
        x = a
    return passes


def backward(delta: Tensor, layers: Sequence[Affine], passes: Sequence[Pass]) -> list[Tensor]:
    """Return the gradients of weight and bias of every layer, in order.

    Args:
        delta: (B, C) or (S, B, C), dE/dA of the last layer.
        layers, passes: as `forward` took and gave them.
    """
    found: list[Tensor] = []
    for place in reversed(range(len(layers))):
        inputs, z, a = passes[place]
        delta = layers[place].activation.back(delta, z, a)
        found += parameters(delta, inputs)
        if place > 0:
            delta = delta @ layers[place].weight
    return found[::-1]


def parameters(delta: Tensor, inputs: Tensor) -> list[Tensor]:
    """Return dE/db and dE/dW of a layer from its dE/dZ and what it saw."""
    return [delta.sum(-2), delta.mT @ inputs]


def gradient(problem: Workspace, loss: Loss, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """Return (mean loss, gradients in the order of the parameters), counted as a forward and a backward pass."""
    members, ledger, rows = Members.entered, problem.ledger, batch.rows
    layers = [_affine(block, members) for block in problem.layered.blocks]
    x, targets = (batch.inputs, batch.targets) if members is None else _stacked(batch, members)
    x = x.flatten(1 if members is None else 2)
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
        ledger.keeps([x, *(kept for one in passes for kept in (one.z, one.a)), slopes])
        with ledger.primitive("backward", rows):
            grads = backward(slopes / each.shape[-1], layers, passes)
    return value, grads


def _stacked(batch: Batch, members: Members) -> tuple[Tensor, Tensor]:
    return members.all(batch.inputs), members.all(batch.targets)


def _affine(block: Dense, members: Members | None) -> Affine:
    if members is None:
        return Affine(block.weight, block.bias, block.activation)
    return Affine(members.all(block.weight).detach(), members.all(block.bias).detach(), block.activation)
