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
from altprop.errors import Refused
from altprop.noise import Draws
from altprop.vectorized import differentiate, leaf

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


class LocalStep(NamedTuple):
    """What `Problem.local_step` returns, for a cell of W units, s values of the state and G gates each: S = s W.

    Attributes:
        state: (B, S), the next state; that of masked elements is the present one.
        own: (B, s, s, W), d next value i / d present value j of the same unit, with the recurrent product held.
        recurrent: (B, s, G, W), d next value i of a unit / d its entry of gate g in the recurrent product.
        slopes: name in `problem.params` -> (B, s, G', W), the same for what the parameter is summed into, of the G'
            gates that it has rows for.
        presynaptic: the same names -> (B, n) what multiplies each row of the parameter; (B, 1) of ones for a bias. So
            slopes[..., None] * presynaptic is d next value / d parameter, the present state held, where it is not 0.
    """

    state: Tensor
    own: Tensor
    recurrent: Tensor
    slopes: Grads
    presynaptic: Grads


class _Unroll(nn.Module):
    """Shows a model's `unroll` as a forward pass, which `functional_call` can take at other parameters."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, h: Tensor, start: int) -> Tensor:
        """Return the state (1, S) after one element (1, 1, F) of one row."""
        state: Tensor = self.model.unroll(x, h, start=start)[1]
        return state


class Window(NamedTuple):
    """A piece of a sequence: the network runs from `start` to `stop`, the losses lie in `new` <= t < `stop`."""

    start: int
    new: int
    stop: int


def window_loss(
    problem: Workspace, batch: Batch, window: Window, piece: Batch, h: Tensor, kept: list[Tensor]
) -> Tensor:
    """Run a window from the state h (B, S) and return its mean loss; its states are put into `kept`, detached."""
    model, (start, new, stop) = problem.model, window
    mask = None if batch.mask is None else batch.mask[start:stop]
    states, h = model.unroll(batch.inputs[start:stop], h, mask, start=start)
    kept.append(states.detach())
    # A row that ended in this window stands still since: its last state is the one at its end.
    outputs = model.readout(states[new - start :], new) if batch.per_step else model.readout(h)
    return problem.uncounted.output_loss(outputs, piece)


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


def local_step(problem: Workspace, batch: Batch, time: int, h: Tensor) -> LocalStep:
    """See `Problem.local_step`."""
    ledger, cell = problem.ledger, problem.model.cell
    if problem.uncounted.noise is not None:
        raise Refused("what each unit of a cell does by itself is not known under noise; use dropout=none")
    x, h, rows, width, share = batch.inputs[time], h.detach(), batch.rows, cell.width, 1 / batch.inputs.shape[0]
    with torch.no_grad(), ledger.primitive("cell", rows * share, share):
        given = cell.project(x), cell.recurrent(h[:, :width]), h
    with torch.enable_grad(), ledger.graph(), ledger.work("local derivatives", per="example", examples=rows):
        a, back, before = (leaf(value) for value in given)
        after = cell.local(a, back, before)
        parts = after.split(width, -1)
        found = [differentiate(part.sum(), (a, back, before), retain_graph=part is not parts[-1]) for part in parts]
    state = after.detach()
    by = {
        name: torch.stack([one[place] for one in found], 1).reshape(rows, len(parts), -1, width)
        for place, name in enumerate(("input", "recurrent", "own"))
    }
    if batch.mask is not None:
        valid = batch.mask[time]
        state = torch.where(valid[:, None], state, h)
        by = {name: torch.where(_like(valid, value).bool(), value, 0.0) for name, value in by.items()}
        still = torch.eye(len(parts), dtype=h.dtype, device=h.device)[:, :, None]
        by["own"] = torch.where(valid[:, None, None, None], by["own"], still)
        x = torch.where(valid[:, None], x, 0.0)
    seen = {"input": x, "state": h[:, :width], "one": torch.ones_like(h[:, :1])}
    # The cell stands under this name in every recurrent model.
    acts = {f"cell.{name}": synapse for name, synapse in cell.synapses.items()}
    slopes = {name: by[one.onto][:, :, one.first :] for name, one in acts.items()}
    return LocalStep(state, by["own"], by["recurrent"], slopes, {name: seen[one.of] for name, one in acts.items()})


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
