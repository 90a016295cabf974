"""Real-time recurrent learning: the exact derivative of the state in the parameters, carried forward in time."""

from functools import partial

import torch
from torch import Tensor

from altprop import Batch, Cell, Grads, Oracle, Problem, Refused
from altprop.algorithms.recurrent.online import OnlineLearner, Trace
from altprop.algorithms.recurrent.traces import charge
from altprop.testing import relative_error, set_up, sgd, toy_sequence

MOST_BYTES = 4 * 2**30


class RTRL(OnlineLearner):
    """Carry the influence matrix M_t = dh_t/dtheta along, and let each error meet it where it occurs.

    With h_t = f(x_t, h_(t-1); theta), (B, S), J_t = dh_t/dh_(t-1), (B, S, S), and I_t = df/dtheta with h_(t-1) held,
    (B, S, D), D the parameters of the cell,

        M_t = J_t M_(t-1) + I_t,    M_0 = 0,    dL/dtheta = sum_t (dE_t/dh_t) M_t.

    It is the gradient of backpropagation through time, whatever the length, where the parameters do not move within a
    sequence (`update_every` None). Each row has a matrix of its own: memory is B S D numbers and does not grow with T;
    a time costs 2 B S^2 D FLOPs for J M, which for a fully connected cell of S units, D ~ S^2, is its fourth power.

    Args:
        optimizer, update_every: see `OnlineLearner`.

    Raises:
        Refused: for a matrix of more than 4 GiB.

    >>> problem, batch = toy_sequence("gru")
    >>> rule = set_up(RTRL(sgd(0.2)), problem)
    >>> losses = [float(rule.step(batch).loss) for _ in range(50)]
    >>> losses[-1] < 0.5 * losses[0]
    True

    Paper: Williams and Zipser, A learning algorithm for continually running fully recurrent neural networks, Neural
    Computation 1989. They update at each step (`update_every` 1), where the matrix is stale by the updates since.
    """

    def _fresh(self, rows: int) -> Trace:
        return influence_of_none(self.problem, rows)

    def _advance(self, batch: Batch, time: int, h: Tensor, trace: Trace) -> tuple[Tensor, Trace]:
        return influence_after(self.problem, batch, time, h, trace)

    def _credit(self, error: Tensor, trace: Trace) -> Grads:
        return influence_met(self.problem, error, trace)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        return tuple(oracle for cell in ("rnn", "gru", "lstm") for oracle in _oracles_of(cell))


def influence_of_none(problem: Problem, rows: int) -> Trace:
    """Return M_0 of so many rows: name -> zeros (B, S, D') for all parameters but the readout's, of D' numbers each."""
    readout = {id(p) for p in problem.model.readout.parameters()}
    parameters = {name: p.detach() for name, p in problem.params.items() if id(p) not in readout}
    width = problem.model.initial_state(1).shape[1]
    first = next(iter(parameters.values()))
    size = rows * width * sum(p.numel() for p in parameters.values()) * first.element_size()
    if size > MOST_BYTES:
        raise Refused(
            f"the influence matrix of {rows} rows takes {size / 2**30:.1f} GiB, more than 4; "
            "lower task.batch_size or model.hidden, or use algorithm=bptt"
        )
    return {name: first.new_zeros(rows, width, p.numel()) for name, p in parameters.items()}


def influence_after(problem: Problem, batch: Batch, time: int, h: Tensor, matrix: Trace) -> tuple[Tensor, Trace]:
    """Return h_t and M_t from h_(t-1) and M_(t-1).

    Where a cell says what its units do by themselves, I_t is known by its entries that are not 0, one unit's for each
    parameter, and J_t by the recurrent weights; any other, and one under noise, is differentiated as a whole.
    """
    if not follows_units(problem):
        return _differentiated(problem, batch, time, h, matrix)
    step = problem.local_step(batch, time, h)
    rows, values, _, width = step.recurrent.shape
    with problem.ledger.work("influence matrix", per="example", examples=batch.rows):
        jacobian = state_jacobian(problem, step.own, step.recurrent)
        after = {name: jacobian @ before for name, before in matrix.items()}
    charge(problem, step.slopes, 1)
    for name, one in after.items():
        slopes, presynaptic = step.slopes[name], step.presynaptic[name]
        own = one.view(rows, values, width, -1, width, presynaptic.shape[1]).diagonal(dim1=2, dim2=4)
        own += slopes[:, :, :, None] * presynaptic[:, None, None, :, None]
    return step.state, after


def follows_units(problem: Problem) -> bool:
    """Return whether `Problem.local_step` serves this model as it is."""
    cell = getattr(problem.model, "cell", None)
    written = isinstance(cell, Cell) and type(cell).local is not Cell.local
    return written and problem.uncounted.noise is None


def state_jacobian(problem: Problem, own: Tensor, recurrent: Tensor) -> Tensor:
    """Return J_t (B, S, S): a unit's memory of itself, and what reaches its first value through recurrent weights."""
    rows, values, _, width = recurrent.shape
    weight = problem.params["cell.weight_state"].detach().reshape(-1, width, width)
    through = (recurrent[..., None] * weight).sum(2)
    unseen = through.new_zeros(rows, values, values - 1, width, width)
    # (B, s, s, W, W): value i of a unit on value j of another.
    pairs = torch.diag_embed(own) + torch.cat([through[:, :, None], unseen], 2)
    return pairs.permute(0, 1, 3, 2, 4).reshape(rows, values * width, values * width)


def _differentiated(problem: Problem, batch: Batch, time: int, h: Tensor, matrix: Trace) -> tuple[Tensor, Trace]:
    step = problem.cell_step(batch, time, h, jacobians=True)
    assert step.state_jacobian is not None
    assert step.parameter_jacobian is not None
    with problem.ledger.work("influence matrix", per="example", examples=batch.rows):
        return step.state, {
            name: torch.baddbmm(step.parameter_jacobian[name].flatten(2), step.state_jacobian, before)
            for name, before in matrix.items()
        }


def influence_met(problem: Problem, error: Tensor, matrix: Trace) -> Grads:
    """Return name -> the sum over rows of an error (B, S) times the influence of the parameter."""
    shapes = problem.params
    return {
        name: (error.reshape(1, -1) @ one.flatten(0, 1)).reshape(shapes[name].shape) for name, one in matrix.items()
    }


def _oracles_of(cell: str) -> tuple[Oracle, ...]:
    return (
        Oracle(f"{cell}: direction = BPTT's gradient", partial(_against_bptt, cell), 1e-10),
        Oracle(f"not {cell}: BPTT's where the weights move at each time", partial(_moving, cell), 1e-2, differs=True),
    )


def _against_bptt(cell: str) -> float:
    """Return the distance from the gradient, on masked sequences with a target at each time."""
    problem, batch = toy_sequence(cell, width=3, lengths=[7, 3, 5, 6], per_step=True)
    return relative_error(set_up(RTRL(sgd()), problem).direction(batch)[1], problem.gradient(batch)[1])


def _moving(cell: str) -> float:
    """Return how far the change over a sequence with an update at each time is from a step along the gradient.

    The rate is divided by T there, so that both are first-order equal: the distance is that of the stale matrix.
    """
    problem, batch = toy_sequence(cell, width=3, per_step=True)
    before, gradient = problem.flat(), problem.flatten(problem.gradient(batch)[1])
    set_up(RTRL(sgd(1.0 / 7), update_every=1), problem).step(batch)
    return float((before - problem.flat() - gradient).norm() / gradient.norm())
