"""Traces of rules that are local in space: of each parameter, what it did to the unit that it acts on."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from altprop import Cell, Grads, Problem, Refused
from altprop.algorithms.recurrent.online import Trace

# A unit has s values and G gates (`Problem.local_step`). The trace of a parameter with G' W rows of n entries is
# (B, s, G', W, n): row g W + k moves the values of unit k alone.


def refuse_others(problem: Problem, name: str) -> None:
    """Refuse what has no units to follow one by one.

    Raises:
        Refused: for a model that is no cell with a readout, and under noise.
    """
    if not isinstance(getattr(problem.model, "cell", None), Cell):
        raise Refused(f"{name} follows the units of one cell, and model={problem.names[1]} is none; use algorithm=rtrl")
    if problem.uncounted.noise is not None:
        raise Refused(f"{name} follows each unit by itself, which noise on what enters it prevents; use dropout=none")


def fresh(problem: Problem, rows: int) -> Trace:
    """Return traces of zeros for all parameters but the readout's."""
    cell, found = problem.model.cell, {}
    for name, p in problem.params.items():
        if name.startswith("cell."):
            entries = p.numel() // len(p)
            found[name] = p.detach().new_zeros(rows, cell.states, len(p) // cell.width, cell.width, entries)
    return found


def followed(problem: Problem, trace: Trace, own: Tensor, slopes: Grads, presynaptic: Grads) -> Trace:
    """Return e_t[i] = sum_j own[i, j] e_(t-1)[j] + slopes[i] presynaptic, of each unit by itself.

    Args:
        problem: whose ledger counts.
        trace: e_(t-1).
        own: (B, s, s, W), how far value j of a unit goes on in its value i.
        slopes, presynaptic: of `Problem.local_step`.
    """
    values = own.shape[1]
    charge(problem, trace, 2 * (values + 1))
    found = {}
    for name, before in trace.items():
        kept = (own[:, :, :, None, :, None] * before[:, None]).sum(2) if values > 1 else own[:, 0, :, None, :, None]
        carried = kept if values > 1 else kept * before
        found[name] = carried + slopes[name][..., None] * presynaptic[name][:, None, None, None]
    return found


def credited(problem: Problem, error: Tensor, trace: Trace) -> Grads:
    """Return name -> sum over rows and over values of a unit of its error times its trace.

    Args:
        problem: whose parameters and ledger.
        error: (B, S), of the state.
        trace: of `followed`.
    """
    charge(problem, trace, 2)
    shapes, width = problem.params, problem.model.cell.width
    per_unit = error.reshape(len(error), -1, 1, width, 1)
    return {name: (per_unit * one).sum((0, 1)).reshape(shapes[name].shape) for name, one in trace.items()}


def charge(problem: Problem, trace: Mapping[str, Tensor], each: float) -> None:
    """Book so many FLOPs for each number of a trace, whose element-wise products no counter sees."""
    problem.ledger.charge("traces", each * sum(one.numel() for one in trace.values()))


def random_feedback(problem: Problem) -> Tensor:
    """Draw B (C, S) that takes the place of the readout's W^T: N(0, 1 / C) onto what the readout sees, 0 elsewhere."""
    width, outputs = problem.model.cell.width, problem.spec.outputs
    drawn = problem.random.normal(outputs, width) / math.sqrt(outputs)
    hidden = torch.zeros(outputs, problem.model.cell.state_size - width, dtype=problem.dtype, device=problem.device)
    return torch.cat([drawn, hidden], 1)
