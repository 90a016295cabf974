"""Sparse n-step approximation of real-time recurrent learning: influence that needs more than n steps is left out."""

from functools import partial

import torch
from torch import Tensor

from altprop import Batch, Grads, OptimizerFactory, Oracle, Problem, check_whole
from altprop.algorithms.recurrent.eprop import tie
from altprop.algorithms.recurrent.online import OnlineLearner, Trace
from altprop.algorithms.recurrent.rtrl import influence_after, influence_met, influence_of_none
from altprop.algorithms.recurrent.traces import charge, credited, followed, fresh, refuse_others
from altprop.testing import relative_error, set_up, sgd, toy_sequence


class SnAp(OnlineLearner):
    """Carry the entries of the influence matrix that a parameter reaches within n times; all others are held at 0.

        M_t = P_n * (J_t M_(t-1) + I_t),    P_n = 1 where theta can move the entry of the state within n times, else 0.

    n = 1 keeps what a parameter does to its own unit k: with J_t[k, k] the unit's dependence on itself, through its
    memory and through its recurrent weight onto itself, the trace of each parameter is followed alone, O(1) each:

        e_t = J_t[k, k] e_(t-1) + dh_k,t / dtheta.

    In a fully connected cell every parameter reaches every unit within two times, so that P_2 is full and n >= 2 is
    real-time recurrent learning, at its cost. (Menick et al. gain from n = 2 and 3 in sparse nets.)

    Args:
        optimizer, update_every: see `OnlineLearner`.
        n: times, at least 1.

    Raises:
        AltpropError: for another n.
        Refused: with n = 1 under noise; with more for a matrix of more than 4 GiB.

    Paper: Menick et al., Practical real time recurrent learning with a sparse approximation, ICLR 2021. They update at
    each step (`update_every` 1).
    """

    def __init__(self, optimizer: OptimizerFactory, update_every: int | None = None, n: int = 1) -> None:
        super().__init__(optimizer, update_every)
        self.n = check_whole(n, "algorithm.n", 1)

    def _prepare(self, problem: Problem) -> None:
        if self.n == 1:
            refuse_others(problem, "SnAp-1")

    def _fresh(self, rows: int) -> Trace:
        return fresh(self.problem, rows) if self.n == 1 else influence_of_none(self.problem, rows)

    def _advance(self, batch: Batch, time: int, h: Tensor, trace: Trace) -> tuple[Tensor, Trace]:
        problem = self.problem
        if self.n > 1:
            return influence_after(problem, batch, time, h, trace)
        step = problem.local_step(batch, time, h)
        own = step.own + _onto_itself(problem, step.recurrent)
        return step.state, followed(problem, trace, own, step.slopes, step.presynaptic)

    def _credit(self, error: Tensor, trace: Trace) -> Grads:
        return credited(self.problem, error, trace) if self.n == 1 else influence_met(self.problem, error, trace)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        return tuple(oracle for cell in ("rnn", "gru", "lstm") for oracle in _oracles_of(cell))


def _onto_itself(problem: Problem, recurrent: Tensor) -> Tensor:
    """Return what a unit's recurrent weight onto itself adds to its dependence on itself, (B, s, s, W)."""
    width, values = problem.model.cell.width, recurrent.shape[1]
    weight = problem.params["cell.weight_state"].detach().reshape(-1, width, width)
    charge(problem, {"": recurrent}, 2)
    # The recurrent product sees the first value of each unit alone.
    through = (recurrent * weight.diagonal(dim1=1, dim2=2)).sum(2)
    return torch.stack([through, *[torch.zeros_like(through)] * (values - 1)], 2)


def _oracles_of(cell: str) -> tuple[Oracle, ...]:
    return (
        Oracle(f"{cell}: n = 2 is the gradient, the cell being fully connected", partial(_error, cell, 2), 1e-10),
        Oracle(f"not {cell}: n = 1 is the gradient", partial(_error, cell, 1), 1e-2, differs=True),
        Oracle(
            f"{cell}: n = 1 is, where each unit is tied to itself alone", partial(_error, cell, 1, tied=True), 1e-12
        ),
    )


def _error(cell: str, n: int, *, tied: bool = False) -> float:
    """Return the distance from the gradient, on masked sequences with a target at each time."""
    problem, batch = toy_sequence(cell, width=3, lengths=[7, 3, 5, 6], per_step=True)
    if tied:
        tie(problem, "own")
    return relative_error(set_up(SnAp(sgd(), n=n), problem).direction(batch)[1], problem.gradient(batch)[1])
