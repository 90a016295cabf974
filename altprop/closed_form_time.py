"""The gradient of a plain recurrent network over a window of time, by the chain rule written out: no graph is built.

It is what automatic differentiation computes, in fewer and larger steps, for one learner and for stacked ones alike.
With x_t the inputs, h_t = f(z_t), z_t = x_t W_x^T + b + h_(t-1) W_h^T, and e_t the error that the readout sends to h_t
(0 where no loss sees it),

    d_t = (e_t + d_(t+1) W_h) * f'(z_t),    dE/dW_x = sum_t d_t^T x_t,    dE/dW_h = sum_t d_t^T h_(t-1),

each sum one product over all times. Where an element is masked, h_t = h_(t-1), and the error passes it by.

Tensors are (T, B, ...); of S stacked learners (T, S, B, ...), and the products are batched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from altprop.closed_form import parameters
from altprop.data import Batch
from altprop.derivatives import Grads
from altprop.models.parts import Activation
from altprop.recurrence import Window
from altprop.vectorized import Members

if TYPE_CHECKING:
    from altprop.workspace import Workspace


class Weights(NamedTuple):
    """Parameters of the network, (W, F), (W, W), (W,), (C, W) and (C,), each after (S,) of stacked learners."""

    input: Tensor
    state: Tensor
    bias: Tensor
    readout: Tensor
    readout_bias: Tensor


class Pass(NamedTuple):
    """What is kept of the way forward.

    Attributes:
        inputs: (T, ..., B, F), 0 where masked.
        states: (T + 1, ..., B, W), the one before the first time included.
        slopes_of: (T, ..., B, W), z where the slope of the activation needs it, else f(z).
        mask: (T, ..., B, 1), or None.
    """

    inputs: Tensor
    states: Tensor
    slopes_of: Tensor
    mask: Tensor | None


def applies(model: nn.Module) -> bool:
    """Return whether a model says that it is one layer and its readout, on which nobody looks."""
    return bool(getattr(model, "plain_recurrence", False))


def gradient(problem: Workspace, batch: Batch, window: Window, piece: Batch, h: Tensor) -> tuple[Tensor, Grads, Tensor]:
    """Return (mean loss, name -> gradient, states after each time (T, B, W)) of a window, counted as two passes.

    Args:
        problem: to whose model this `applies`.
        batch: whole sequences.
        window: of them.
        piece: the window's targets.
        h: (B, W), the state before it, which is held.
    """
    (start, new, stop), ledger, members = window, problem.ledger, Members.entered
    activation: Activation = problem.model.cell.activation
    names, live = problem.named_parameters()
    share = (stop - start) / batch.inputs.shape[0]
    with torch.no_grad():
        with ledger.primitive("forward", batch.rows * share, share):
            weights = Weights(*(_all(p, members) for p in live))
            x, before = _over_time(batch.inputs[start:stop], members), _all(h, members)
            mask = None if batch.mask is None else _over_time(batch.mask[start:stop], members)[..., None]
            with _outside(members):
                kept = forward(x, before, mask, weights, activation)
                shown = kept.states[new - stop :] if batch.per_step else kept.states[-1:]
                outputs = _affine(shown, weights.readout, weights.readout_bias)
            told = _one(outputs if batch.per_step else outputs[0], members, 1 if batch.per_step else 0)
            value = problem.uncounted.output_loss(told, piece)
            slopes = problem.uncounted.output_gradient(told, piece)
        ledger.keeps([one for one in (*kept, slopes) if one is not None])
        with ledger.primitive("backward", batch.rows * share, share):
            errors = _over_time(slopes if batch.per_step else slopes[None], members)
            with _outside(members):
                found = backward(errors, shown, kept, weights, activation)
            grads = [_one(one, members) for one in found]
    return value, dict(zip(names, grads, strict=True)), _one(kept.states[1:], members, 1)


def forward(x: Tensor, h: Tensor, mask: Tensor | None, weights: Weights, activation: Activation) -> Pass:
    """Run the cell over (T, ..., B, F) from the state (..., B, W)."""
    if mask is not None:
        # Whatever stands in the padding, even NaN, reaches no gradient.
        x = torch.where(mask, x, 0.0)
    function, add, recurrent = activation.function, _sum_of(h), weights.state.mT.contiguous()
    states, kept = [h], []
    for a, valid in zip(_affine(x, weights.input, weights.bias).unbind(0), _each(mask, len(x)), strict=True):
        z = add(a, h, recurrent)
        after = function(z)
        kept.append(z if activation.keeps_z else after)
        h = after if valid is None else torch.where(valid, after, h)
        states.append(h)
    every = torch.stack(states)
    return Pass(x, every, every[1:] if mask is None and not activation.keeps_z else torch.stack(kept), mask)


def backward(errors: Tensor, shown: Tensor, kept: Pass, weights: Weights, activation: Activation) -> tuple[Tensor, ...]:
    """Return the gradients of `Weights`, in their order.

    Args:
        errors: (N, ..., B, C), d loss / d output at the last N times.
        shown: (N, ..., B, W), the states that the readout saw.
        kept, weights, activation: as `forward` gave and took them.
    """
    back, add, recurrent = _back(activation), _sum_of(errors[0]), weights.state
    own = _by_time(_rows(errors) @ weights.readout, len(errors)).unbind(0)
    slopes_of, valid = kept.slopes_of.unbind(0), _each(kept.mask, len(kept.inputs))
    first, total, slopes = len(slopes_of) - len(own), own[-1], []
    for t in reversed(range(len(slopes_of))):
        here = valid[t]
        slope = back(total if here is None else torch.where(here, total, 0.0), slopes_of[t])
        slopes.append(slope)
        if t == 0:
            break
        through = add(own[t - 1 - first], slope, recurrent) if t > first else slope @ recurrent
        total = through if here is None else through + torch.where(here, 0.0, total)
    delta = _rows(torch.stack(slopes[::-1]))
    of_bias, of_input = parameters(delta, _rows(kept.inputs))
    of_readout_bias, of_readout = parameters(_rows(errors), _rows(shown))
    return of_input, delta.mT @ _rows(kept.states[:-1]), of_bias, of_readout, of_readout_bias


def _back(activation: Activation) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what takes dE/dh and z or f(z) to dE/dz, in one operation where torch has one."""
    fused: Callable[[Tensor, Tensor], Tensor] = torch.ops.aten.tanh_backward.default
    return fused if activation.name == "tanh" else lambda delta, seen: activation.back(delta, seen, seen)


def _sum_of(rows: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return a + h W of one learner's rows (B, n), or of stacked ones' (S, B, n)."""
    return torch.addmm if rows.dim() == 2 else torch.baddbmm


def _each(mask: Tensor | None, steps: int) -> Sequence[Tensor | None]:
    return [None] * steps if mask is None else mask.unbind(0)


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x W^T + b of all times in one product, (T, ..., B, m)."""
    rows = _rows(x)
    return _by_time(_sum_of(rows)(bias if bias.dim() == 1 else bias[:, None], rows, weight.mT), len(x))


def _rows(x: Tensor) -> Tensor:
    """Return the rows of all times as one dimension, (T, ..., B, n) -> (..., T B, n)."""
    return x.movedim(0, -3).flatten(-3, -2)


def _by_time(rows: Tensor, steps: int) -> Tensor:
    """Undo `_rows`."""
    unfolded: Tensor = rows.unflatten(-2, (steps, -1))
    return unfolded.movedim(-3, 0)


def _outside(members: Members | None) -> AbstractContextManager[None]:
    return nullcontext() if members is None else members.outside()


def _all(seen: Tensor, members: Members | None) -> Tensor:
    return seen.detach() if members is None else members.all(seen).detach()


def _over_time(seen: Tensor, members: Members | None) -> Tensor:
    """Return what a member sees, (T, ...), of all of them: (T, S, ...)."""
    return seen if members is None else members.all(seen).detach().transpose(0, 1)


def _one(value: Tensor, members: Members | None, dim: int = 0) -> Tensor:
    return value if members is None else members.one(value, dim)
