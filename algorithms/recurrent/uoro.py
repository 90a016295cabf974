"""Unbiased online recurrent optimisation: the influence matrix as the product of two random vectors."""

from functools import partial

import torch
from torch import Tensor

from altprop import Batch, Grads, Oracle, Problem
from altprop.algorithms.recurrent.online import OnlineLearner, Trace
from altprop.algorithms.recurrent.traces import charge, refuse_others
from altprop.algorithms.recurrent.unbiased import score
from altprop.testing import sgd

FLOOR = 1e-7
ONTO = "onto state"


class UORO(OnlineLearner):
    """Carry a random state vector s and a random parameter vector w, of each row, whose product has the mean dh/dtheta.

    With J_t = dh_t/dh_(t-1), I_t = dh_t/dtheta where h_(t-1) is held, and signs nu_t, (B, S), drawn anew,

        s_t = r0 J_t s_(t-1) + r1 nu_t,           w_t = w_(t-1) / r0 + (nu_t I_t) / r1,
        r0 = sqrt(|w_(t-1)| / |J_t s_(t-1)|),     r1 = sqrt(|nu_t I_t| / |nu_t|),
        dL/dtheta ~ sum_t (dE_t/dh_t s_t) w_t,

    so that both are equally large. As nu nu^T has the mean 1, s_t w_t^T has that of the influence matrix: the direction
    is the gradient in expectation, at B (S + D) numbers of memory and a few passes over the cell a time. Its variance
    grows with the length and the width. As in the paper 1e-7 is added to both norms below and to both roots.

    Args:
        optimizer, update_every: see `OnlineLearner`.

    Raises:
        Refused: under noise, and for a cell that does not say what its units do by themselves.

    Paper: Tallec and Ollivier, Unbiased online recurrent optimization, ICLR 2018. They have one sequence, where here
    each row of a batch has vectors of its own; the mean over rows lowers the variance.
    """

    def _prepare(self, problem: Problem) -> None:
        refuse_others(problem, "UORO")

    def _fresh(self, rows: int) -> Trace:
        vectors = {name: p.detach().new_zeros(rows, p.numel()) for name, p in self.problem.params.items() if _own(name)}
        start = self.problem.model.initial_state(rows).detach()
        return {ONTO: torch.zeros_like(start), **vectors}

    def _advance(self, batch: Batch, time: int, h: Tensor, trace: Trace) -> tuple[Tensor, Trace]:
        problem = self.problem
        step = problem.local_step(batch, time, h)
        rows, values, gates, width = step.recurrent.shape
        s, before = trace[ONTO], {name: one for name, one in trace.items() if name != ONTO}
        with problem.ledger.work("state vector", per="example", examples=rows):
            back = problem.model.cell.recurrent(s[:, :width]).reshape(rows, 1, gates, width)
        through = (step.recurrent * back).sum(2) + (step.own * s.reshape(rows, 1, values, width)).sum(2)
        through = through.reshape(rows, -1)
        nu = problem.random.rademacher(rows, values * width)
        signs = nu.reshape(rows, values, 1, width)
        drawn = {
            name: ((signs * slope).sum(1)[..., None] * step.presynaptic[name][:, None, None]).flatten(1)
            for name, slope in step.slopes.items()
        }
        charge(problem, before, 8)
        r0 = (_norm(before) / (_norm({"": through}) + FLOOR)).sqrt() + FLOOR
        r1 = (_norm(drawn) / (_norm({"": nu}) + FLOOR)).sqrt() + FLOOR
        after = {ONTO: r0 * through + r1 * nu, **{n: one / r0 + drawn[n] / r1 for n, one in before.items()}}
        if batch.mask is not None:
            valid = batch.mask[time, :, None]
            after = {name: torch.where(valid, one, trace[name]) for name, one in after.items()}
        return step.state, after

    def _credit(self, error: Tensor, trace: Trace) -> Grads:
        shapes = self.problem.params
        met = (error * trace[ONTO]).sum(1)
        return {name: (met @ one).reshape(shapes[name].shape) for name, one in trace.items() if name != ONTO}

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        return (
            Oracle("rnn: abs z of the mean of 20,000 draws against the gradient", partial(score, _make, "rnn"), 4.0),
            Oracle("lstm: abs z of the mean of 20,000 draws against the gradient", partial(score, _make, "lstm"), 4.0),
            Oracle(
                "not against the gradient with its sign flipped", partial(score, _make, "rnn", -1.0), 4.0, differs=True
            ),
            Oracle(
                "not against that of a state cut at each time", partial(score, _make, "rnn", None), 4.0, differs=True
            ),
        )


def _own(name: str) -> bool:
    return name.startswith("cell.")


def _norm(vectors: Trace) -> Tensor:
    """Return the norm of each row's numbers, (B, 1)."""
    return torch.stack([one.square().sum(1) for one in vectors.values()]).sum(0).sqrt()[:, None]


def _make() -> UORO:
    return UORO(sgd())
