"""E-prop: an eligibility trace at each synapse, met by a learning signal from the output."""

from functools import partial

import torch
from torch import Tensor

from altprop import Batch, Grads, OptimizerFactory, Oracle, Problem, check_name
from altprop.algorithms.recurrent.online import OnlineLearner, Trace
from altprop.algorithms.recurrent.traces import credited, followed, fresh, random_feedback, refuse_others
from altprop.testing import relative_error, set_up, sgd, toy_sequence

FEEDBACKS = ("symmetric", "random")


class EProp(OnlineLearner):
    """Carry along what each parameter did to its own unit, and leave out what units do to each other over time.

    For a parameter theta onto unit k, with the unit's values h_k (one, or [h, c] of an LSTM) and the recurrent product
    r_t = h_(t-1) W_h^T as a given input,

        e_t = (dh_k,t / dh_k,t-1 at r_t held) e_(t-1) + dh_k,t / dtheta,    dL/dtheta ~ sum_t (L_t)_k e_t,

    where the learning signal L_t = dE_t/dh_t comes from the readout alone. So the trace goes on through a unit's own
    memory (the leak of a rate unit, the update gate of a GRU, the cell of an LSTM), in O(1) a parameter, and not
    through recurrent weights, a unit's weight onto itself included. It is the gradient where the recurrent weights are
    0. A unit of a plain RNN has no memory of its own: its trace is that of the present time.

    Args:
        optimizer, update_every: see `OnlineLearner`.
        feedback: "symmetric" takes the readout's W^T for L_t; "random" a fixed matrix from N(0, 1 / C).

    Raises:
        AltpropError: for an unknown `feedback`.
        Refused: under noise.

    Paper: Bellec et al., A solution to the learning dilemma for recurrent networks of spiking neurons, Nature
    Communications 2020. Theirs spike; here the units are rates, as in their LSTM, and no derivative is a surrogate.
    They smooth the trace where the readout leaks; ours does not.
    """

    state = ("feedback",)

    def __init__(
        self, optimizer: OptimizerFactory, update_every: int | None = None, feedback: str = "symmetric"
    ) -> None:
        super().__init__(optimizer, update_every)
        self.kind_of_feedback = check_name(feedback, "algorithm.feedback", FEEDBACKS)

    def _prepare(self, problem: Problem) -> None:
        refuse_others(problem, "e-prop")
        if self.kind_of_feedback == "random":
            self.feedback = random_feedback(problem)

    def _fresh(self, rows: int) -> Trace:
        return fresh(self.problem, rows)

    def _advance(self, batch: Batch, time: int, h: Tensor, trace: Trace) -> tuple[Tensor, Trace]:
        step = self.problem.local_step(batch, time, h)
        return step.state, followed(self.problem, trace, step.own, step.slopes, step.presynaptic)

    def _credit(self, error: Tensor, trace: Trace) -> Grads:
        return credited(self.problem, error, trace)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        cells = ("leaky_rnn", "gru", "lstm")
        apart = [
            Oracle(f"{cell}: the gradient where recurrent weights are 0", partial(_error, cell, "none"), 1e-12)
            for cell in cells
        ]
        tied = [
            Oracle(f"not {cell}: where each unit is tied to itself", partial(_error, cell, "own"), 1e-2, differs=True)
            for cell in cells
        ]
        random = Oracle(
            "not random feedback: where recurrent weights are 0",
            partial(_error, "gru", "none", feedback="random"),
            1e-1,
            differs=True,
        )
        return (*apart, *tied, random)


def tie(problem: Problem, kind: str) -> None:
    """Set the recurrent weights of units between each other to 0, kind "own", or all of them, kind "none"."""
    weight = problem.params["cell.weight_state"].detach()
    alone = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    weight *= (alone if kind == "own" else 0 * alone).repeat(len(weight) // len(alone), 1)


def _error(cell: str, kind: str, feedback: str = "symmetric") -> float:
    """Return the distance from the gradient, on masked sequences with a target at each time."""
    problem, batch = toy_sequence(cell, lengths=[7, 3, 5, 6], per_step=True)
    tie(problem, kind)
    rule = set_up(EProp(sgd(), feedback=feedback), problem)
    return relative_error(rule.direction(batch)[1], problem.gradient(batch)[1])
