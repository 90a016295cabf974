"""The derivatives that are not one backward pass: of single blocks, of each example, along a direction.

They are functions of a problem, which offers them as its methods; there stands what they return.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp, vmap

from altprop.data import Batch
from altprop.errors import Refused
from altprop.noise import Draws
from altprop.vectorized import differentiate, leaf

if TYPE_CHECKING:
    from altprop.workspace import Workspace

Grads = dict[str, Tensor]


class Pulled(NamedTuple):
    """What the vector-Jacobian product of `Problem.pull` returns.

    Attributes:
        inputs: cotangent of x, or None where it was not asked for.
        parameters: name -> cotangent.
    """

    inputs: Tensor | None
    parameters: Grads


def pull(
    problem: Workspace, function: Callable[[Tensor], Tensor], x: Tensor, parameters: Mapping[str, Tensor] | None
) -> tuple[Tensor, Callable[..., Pulled]]:
    """See `Problem.pull`."""
    if parameters is None:
        parameters = dict(function.named_parameters()) if isinstance(function, nn.Module) else {}
    names, values = list(parameters), list(parameters.values())
    x = leaf(x)
    ledger, rows = problem.ledger, int(x.shape[0])
    with torch.enable_grad(), ledger.graph(), ledger.primitive("block_forward", rows):
        y = function(x)

    def back(v: Tensor, inputs: bool = True) -> Pulled:
        wanted = [*values, x] if inputs else values
        if not wanted:
            return Pulled(None, {})
        with ledger.primitive("block_backward" if values else "transpose", rows):
            found = cotangents(y, wanted, v)
        return Pulled(found[-1] if inputs else None, dict(zip(names, found[: len(names)], strict=True)))

    return y.detach(), back


def cotangents(y: Tensor, wanted: list[Tensor], v: Tensor) -> tuple[Tensor, ...]:
    """Return the cotangents of what is wanted, shaped like it; the graph of y stays for other cotangents v."""
    return differentiate(y, wanted, v, retain_graph=True)


def per_example_gradients(problem: Workspace, batch: Batch) -> Grads:
    """See `Problem.per_example_gradients`."""
    problem.refuse_batch_norm("per-example gradients")
    objective, ledger = problem.uncounted, problem.ledger
    params = {name: p.detach() for name, p in problem.params.items()}
    rows = batch.rows

    def per_row(row: Tensor, draws: Draws) -> Grads:
        piece = _row(batch, row, problem.spec.sequence)

        def one(p: Grads) -> Tensor:
            return objective.output_loss(objective.outputs(p, piece), piece)

        with problem.clock.replay(lifted(draws)), ledger.primitive("forward", rows):
            value, back = vjp(one, params)[:2]
        with ledger.primitive("backward", rows):
            found: tuple[Grads] = back(torch.ones_like(value))
        return found[0]

    with objective.recorded_draws(batch) as draws:
        mapped = vmap(per_row, in_dims=(0, row_dims(draws)))
        grads: Grads = mapped(torch.arange(rows, device=problem.device), draws)
    problem.clock.advance()
    if batch.labelled is None:
        return grads
    return {name: g * batch.labelled.reshape(-1, *[1] * (g.dim() - 1)) for name, g in grads.items()}


def jacobian(problem: Workspace, batch: Batch) -> tuple[Tensor, Tensor]:
    """See `Problem.jacobian`."""
    problem.refuse_batch_norm("per-example Jacobians")
    if problem.spec.sequence:
        raise Refused("per-example Jacobians of sequences are not offered; try a task without time")
    objective, ledger = problem.uncounted, problem.ledger
    params = {name: p.detach() for name, p in problem.params.items()}
    rows, wide = batch.rows, problem.spec.outputs
    unit = torch.eye(wide, dtype=problem.dtype, device=problem.device)

    def per_row(row: Tensor, draws: Draws) -> tuple[Tensor, Grads]:
        piece = _row(batch, row, problem.spec.sequence)
        with problem.clock.replay(lifted(draws)), ledger.primitive("forward", rows):
            out, back = vjp(lambda p: objective.outputs(p, piece)[0], params)[:2]
        with ledger.primitive("backward", rows * wide, wide):
            found: tuple[Grads] = vmap(back)(unit)
        return out, found[0]

    with objective.recorded_draws(batch) as draws:
        mapped = vmap(per_row, in_dims=(0, row_dims(draws)))
        outputs, jacobians = mapped(torch.arange(rows, device=problem.device), draws)
    problem.clock.advance()
    return outputs, torch.cat([jacobians[name].flatten(2) for name in params], dim=2)


def push(
    problem: Workspace, function: Callable[..., Tensor], values: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """See `Problem.push`."""
    _load_forward_mode()
    with torch.no_grad(), problem.ledger.primitive("jvp", int(values[0].shape[0])):
        found: Any = jvp(function, tuple(values), tuple(tangents))
    output, moved = found
    return output, moved


def along(
    problem: Workspace, batch: Batch, tangent: Mapping[str, Tensor], penalty: bool = True
) -> tuple[Tensor, Tensor, Grads]:
    """Return (objective, derivative along `tangent`, buffers after the pass), by forward mode."""
    _load_forward_mode()
    params = {name: p.detach() for name, p in problem.params.items()}
    tangents = {name: tangent[name] for name in params}

    def objective(p: Grads) -> tuple[Tensor, Grads]:
        buffers = problem.uncounted.spare_buffers()
        return problem.uncounted.value({**p, **buffers}, batch, penalty=penalty), buffers

    found: Any = jvp(objective, (params,), (tangents,), has_aux=True)
    value, derivative, moved = found
    return value, derivative, moved


@cache
def _load_forward_mode() -> None:
    """Let torch load its forward mode, in which torch 2.13 calls what it deprecates (`torch.jit.script`)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with torch.autograd.forward_ad.dual_level():
            zero = torch.zeros((), device="cpu")
            torch.autograd.forward_ad.make_dual(zero, zero)


def _row(batch: Batch, row: Tensor, sequence: bool) -> Batch:
    """Return one row of a batch as a batch of one; `row` may be a vmapped index."""
    index = row.reshape(1)
    return Batch(
        batch.inputs.index_select(1 if sequence else 0, index),
        batch.targets.index_select(1 if batch.per_step else 0, index),
        batch.index.index_select(0, index),
        None if batch.mask is None else batch.mask.index_select(1, index),
        None if batch.reset is None else batch.reset.index_select(0, index),
    )


def row_dims(draws: Draws) -> dict[Any, int | None]:
    """Return the dimension of rows of each draw: the first, or none for noise on weights, which all rows share."""
    return {key: None if key[0] == "weight" else 0 for key in draws}


def lifted(draws: Draws) -> Draws:
    """Return the draws of one row as those of a batch of one."""
    return {key: draw if key[0] == "weight" else draw.unsqueeze(0) for key, draw in draws.items()}
