"""Random feedback local online learning: a leaky trace at each synapse, and the error through a random matrix."""

from functools import partial

import torch
from torch import Tensor

from altprop import Batch, Grads, OptimizerFactory, Oracle, Problem, check_name
from altprop.algorithms.recurrent.eprop import FEEDBACKS, tie
from altprop.algorithms.recurrent.online import OnlineLearner, Trace
from altprop.algorithms.recurrent.traces import credited, followed, fresh, random_feedback, refuse_others
from altprop.testing import relative_error, set_up, sgd, toy_sequence


class RFLO(OnlineLearner):
    """Low-pass filter the local derivatives of each rate unit by its leak, and send errors through a fixed matrix.

    Of units h_t = (1 - a) h_(t-1) + a f(u_t) with u_t = x_t W_x^T + h_(t-1) W_h^T + b (`model=leaky_rnn`, a = `leak`),

        p_t = (1 - a) p_(t-1) + a f'(u_t) [x_t, h_(t-1), 1],    dW = sum_t (e_t B) p_t,

    with e_t = dE_t/dy_t, (B, C), and B (C, S) drawn once from N(0, 1 / C) (`feedback`); the readout learns from e_t
    itself. With a = 1 (`model=rnn`) a trace is the present time's alone. The paper has no gated cells: there a unit's
    own memory, the recurrent product held, takes the place of 1 - a, and the rule is e-prop with random feedback.

    Args:
        optimizer, update_every: see `OnlineLearner`.
        feedback: "random", or "symmetric" for the readout's W^T, which makes it e-prop of these units.

    Raises:
        AltpropError: for an unknown `feedback`.
        Refused: under noise.

    Paper: Murray, Local online learning in recurrent networks with random feedback, eLife 2019.
    """

    state = ("feedback",)

    def __init__(self, optimizer: OptimizerFactory, update_every: int | None = None, feedback: str = "random") -> None:
        super().__init__(optimizer, update_every)
        self.kind_of_feedback = check_name(feedback, "algorithm.feedback", FEEDBACKS)

    def _prepare(self, problem: Problem) -> None:
        refuse_others(problem, "RFLO")
        if self.kind_of_feedback == "random":
            self.feedback = random_feedback(problem)

    def _fresh(self, rows: int) -> Trace:
        return fresh(self.problem, rows)

    def _advance(self, batch: Batch, time: int, h: Tensor, trace: Trace) -> tuple[Tensor, Trace]:
        step = self.problem.local_step(batch, time, h)
        # `own` is 1 - a for a leaky unit.
        return step.state, followed(self.problem, trace, step.own, step.slopes, step.presynaptic)

    def _credit(self, error: Tensor, trace: Trace) -> Grads:
        return credited(self.problem, error, trace)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        return (
            Oracle(
                "symmetric feedback: the gradient where recurrent weights are 0", partial(_error, "symmetric"), 1e-12
            ),
            Oracle("not with random feedback", partial(_error, "random"), 1e-1, differs=True),
            Oracle("the rule written out, with random feedback", _by_hand, 1e-12),
            Oracle("not with another leak", partial(_by_hand, leak=0.3), 1e-2, differs=True),
        )


def _error(feedback: str) -> float:
    """Return the distance from the gradient, on masked sequences, where units do not meet."""
    problem, batch = toy_sequence("leaky_rnn", lengths=[7, 3, 5, 6], per_step=True)
    tie(problem, "none")
    rule = set_up(RFLO(sgd(), feedback=feedback), problem)
    return relative_error(rule.direction(batch)[1], problem.gradient(batch)[1])


def _by_hand(leak: float = 0.2) -> float:
    """Return the relative difference of the recurrent weights' direction from the rule, unit by unit."""
    problem, batch = toy_sequence("leaky_rnn", per_step=True)
    rule = set_up(RFLO(sgd()), problem)
    found = rule.direction(batch)[1]["cell.weight_state"]
    p = {name: value.detach() for name, value in problem.params.items()}
    expected = torch.zeros_like(found)
    assert rule.feedback is not None
    for row in range(4):
        h, trace = torch.zeros_like(p["cell.bias"]), torch.zeros_like(expected)
        for x, target in zip(batch.inputs[:, row], batch.targets[:, row], strict=True):
            rate = torch.tanh(p["cell.weight_input"] @ x + p["cell.weight_state"] @ h + p["cell.bias"])
            trace = (1 - leak) * trace + leak * torch.outer(1 - rate**2, h)
            h = 0.8 * h + 0.2 * rate
            error = p["readout.weight"] @ h + p["readout.bias"] - target
            expected += (error @ rule.feedback)[:, None] * trace / batch.samples
    return float((found - expected).norm() / expected.norm())
