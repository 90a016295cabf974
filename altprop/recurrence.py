"""One time step of a recurrent model, with its noise and its Jacobians, and its readout.

They are functions of a problem, which offers them as its methods; there stands what they return.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from altprop.data import Batch
from altprop.derivatives import Grads, Pulled, cotangents, lifted, row_dims
from altprop.noise import Draws
from altprop.vectorized import leaf

if TYPE_CHECKING:
    from altprop.workspace import Workspace


class CellStep(NamedTuple):
    """What `Problem.cell_step` returns.

    Attributes:
        state: (B, S), the next state; that of masked elements is the present one.
        state_jacobian: (B, S, S), d state / d present state of each example, or None where it was not asked for.
        parameter_jacobian: parameter name -> (B, S, *parameter), d state / d parameter with the present state held,
            for all parameters but the readout's; or None.
    """

    state: Tensor
    state_jacobian: Tensor | None
    parameter_jacobian: Grads | None


class _Unroll(nn.Module):
    """Shows a model's `unroll` as a forward pass, which `functional_call` can take at other parameters."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, h: Tensor, start: int) -> Tensor:
        """Return the state (1, S) after one element (1, 1, F) of one row."""
        state: Tensor = self.model.unroll(x, h, start=start)[1]
        return state


def cell_step(problem: Workspace, batch: Batch, time: int, h: Tensor, jacobians: bool) -> CellStep:
    """See `Problem.cell_step`."""
    x, h, share = batch.inputs[time : time + 1], h.detach(), 1 / batch.inputs.shape[0]
    mask = None if batch.mask is None else batch.mask[time : time + 1]
    with (
        torch.no_grad(),
        problem.clock.record() as draws,
        problem.ledger.primitive("cell", batch.rows * share, share),
    ):
        state: Tensor = problem.model.unroll(x, h, mask, start=time)[1]
    if not jacobians:
        return CellStep(state, None, None)
    cotangent_rows = state.shape[1] * share
    with problem.ledger.primitive("cell_jacobian", batch.rows * cotangent_rows, cotangent_rows):
        in_state, in_parameters = _jacobians(problem, x[0], h, time, draws)
        if mask is not None:
            identity = torch.eye(state.shape[1], dtype=h.dtype, device=h.device)
            in_state = torch.where(mask[0, :, None, None], in_state, identity)
            in_parameters = {name: value * _like(mask[0], value) for name, value in in_parameters.items()}
    return CellStep(state, in_state, in_parameters)


def _like(rows: Tensor, value: Tensor) -> Tensor:
    """Return a number for each row, (B,), so that it multiplies (B, ...)."""
    return rows.to(value.dtype).reshape(-1, *[1] * (value.dim() - 1))


def _jacobians(problem: Workspace, x: Tensor, h: Tensor, time: int, draws: Draws) -> tuple[Tensor, Grads]:
    """Return the Jacobians of the next state of each row, as if no element were masked."""
    wrapped, readout = _Unroll(problem.model), {id(p) for p in problem.model.readout.parameters()}
    params = {name: p.detach() for name, p in problem.params.items() if id(p) not in readout}
    unit = torch.eye(h.shape[1], dtype=h.dtype, device=h.device)

    def per_row(element: Tensor, before: Tensor, drawn: Draws) -> tuple[Grads, Tensor]:
        def one(p: Grads, state: Tensor) -> Tensor:
            given = {f"model.{name}": value for name, value in p.items()}
            after: Tensor = functional_call(wrapped, given, (element[None, None], state[None], time))
            return after[0]

        with problem.clock.replay(lifted(drawn)):
            back = vjp(one, params, before)[1]
        found: tuple[Grads, Tensor] = vmap(back)(unit)
        return found

    in_parameters, in_state = vmap(per_row, in_dims=(0, 0, row_dims(draws)))(x, h, draws)
    return in_state, in_parameters


def readout(problem: Workspace, states: Tensor, start: int) -> tuple[Tensor, Callable[..., Pulled]]:
    """See `Problem.readout`."""
    ledger, model = problem.ledger, problem.model
    own = {id(p) for p in model.readout.parameters()}
    params = {name: p for name, p in problem.params.items() if id(p) in own or name.startswith("noise.")}
    seen = leaf(states)
    elements = states.shape[:-1].numel()
    with torch.enable_grad(), ledger.graph(), ledger.primitive("readout", elements):
        outputs: Tensor = model.readout(seen, start)

    def back(v: Tensor, inputs: bool = True) -> Pulled:
        with ledger.primitive("readout_backward", elements):
            found = cotangents(outputs, [*params.values(), seen] if inputs else list(params.values()), v)
        return Pulled(found[-1] if inputs else None, dict(zip(params, found[: len(params)], strict=True)))

    return outputs.detach(), back
