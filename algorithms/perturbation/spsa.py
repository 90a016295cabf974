"""SPSA: simultaneous perturbation stochastic approximation, two evaluations for any number of parameters."""

from functools import partial

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    Batch,
    OptimizerFactory,
    Oracle,
    PredictorKind,
    Problem,
    StepResult,
    Updater,
    check_number,
    check_whole,
)
from altprop.algorithms.perturbation.points import differences, drawn, refresh_statistics
from altprop.testing import monte_carlo, set_up, sgd, toy, toy_point


class SPSA(Algorithm):
    """Estimate the gradient from the objective at two points on either side, along a direction of signs.

    In step k, with Delta like all D parameters, each element -1 or 1, drawn for each of K pairs,

        c_k = c / (k + 1)^gamma,
        g = mean over pairs of (L(theta + c_k Delta) - L(theta - c_k Delta)) / (2 c_k) Delta^-1,

    where Delta^-1, element by element, is Delta itself. The bias is of order c_k^2. Both points of a pair see one batch
    and one noise. The gain a_k is that of the optimizer axis: his step is optimizer=sgd with a learning rate that
    falls.

    Args:
        optimizer: how g becomes an update; it is no gradient, so closures are refused.
        c: size of the first perturbation, in units of the parameters.
        gamma: how fast it falls, 0 for not at all; his asymptotic one is 1/6, his practical one 0.101.
        pairs: K; a step costs 2 K evaluations.

    Raises:
        AltpropError: for values outside these.

    Paper: Spall 1992, Multivariate stochastic approximation using a simultaneous perturbation gradient approximation;
    the gains: Spall 1998, Implementation of the simultaneous perturbation algorithm for stochastic optimization.
    """

    kind = PredictorKind.MODEL
    state = ("updater",)

    updater: Updater

    def __init__(self, optimizer: OptimizerFactory, c: float = 0.01, gamma: float = 0.101, pairs: int = 1) -> None:
        self._optimizer = optimizer
        self.c = check_number(c, "algorithm.c", above=0.0)
        self.gamma = check_number(gamma, "algorithm.gamma", 0.0)
        self.pairs = check_whole(pairs, "algorithm.pairs", 1)

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self._optimizer, direction="other")

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        deltas = drawn(problem, "rademacher", self.pairs, problem.flat().numel())
        with problem.same_noise():
            loss = refresh_statistics(problem, batch)
            direction = self.estimate(batch, deltas)
        self.updater.apply(problem.unflatten(direction))
        return StepResult(loss)

    @property
    def size(self) -> float:
        """c_k of the present step."""
        return float(self.c / (self.problem.ledger.steps + 1) ** self.gamma)

    def estimate(self, batch: Batch, deltas: Tensor) -> Tensor:
        """Return g, (D,), along the rows of deltas (K, D), each element -1 or 1; no parameter changes."""
        slopes = differences(self.problem, batch, self.size * deltas) / (2 * self.size)
        return slopes @ deltas / len(deltas)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check all directions of signs at once, what a pair gives on a quadratic, and the size of the perturbation."""
        return (
            Oracle("mean over all 2^D directions, quadratic: the gradient", partial(_all_signs, 1), 1e-12),
            Oracle("not over every third", partial(_all_signs, 3), 0.05, differs=True),
            Oracle("a pair gives its slope on a quadratic, at c = 1", partial(_pair, "half_squared_error"), 1e-12),
            Oracle("not on a net", partial(_pair, "cross_entropy"), 1e-3, differs=True),
            Oracle("mean = the gradient, abs z", partial(_z_score, 1.0), 4.0),
            Oracle("not minus the gradient: abs z", partial(_z_score, -1.0), 4.0, differs=True),
            Oracle("not half the gradient: abs z", partial(_z_score, 0.5), 4.0, differs=True),
            Oracle("c_k in the 32nd step, gamma = 1/5: half of c", partial(_size, 31), 1e-15),
            Oracle("not in the 31st", partial(_size, 30), 1e-4, differs=True),
        )


def _all_signs(every: int) -> float:
    """Return the largest difference from the gradient of the mean over all directions of signs, or a part of them."""
    problem, batch = toy_point([0.5, -1.0, 2.0, 0.0], [1.0, 1.0, -1.0, 3.0])
    rule = set_up(SPSA(sgd(), 0.7), problem)
    places = torch.arange(16, device="cpu")[:, None] >> torch.arange(4, device="cpu")
    deltas = (2 * (places & 1) - 1).double()[::every]
    return float((rule.estimate(batch, deltas) - problem.flatten(problem.gradient(batch)[1])).abs().max())


def _pair(loss: str) -> float:
    """Return the relative difference of g from (gradient . Delta) Delta, for a linear net or one of tanh units."""
    sizes, activation = ((4, 3), "identity") if loss == "half_squared_error" else ((4, 5, 3), "tanh")
    problem, batch = toy(sizes, activation=activation, loss=loss)
    rule = set_up(SPSA(sgd(), 1.0, gamma=0.0), problem)
    gradient = problem.flatten(problem.gradient(batch)[1])
    delta = problem.random.rademacher(1, len(gradient))
    expected = (delta @ gradient) @ delta
    return float((rule.estimate(batch, delta) - expected).norm() / expected.norm())


def _z_score(share: float) -> float:
    """Return the abs z-score of g against a share of the gradient."""
    problem, batch = toy((4, 5, 3))
    rule = set_up(SPSA(sgd(), 1e-3), problem)
    expected = share * problem.flatten(problem.gradient(batch)[1])
    return monte_carlo(lambda: rule.estimate(batch, problem.random.rademacher(100, len(expected))), expected, 60)


def _size(steps: int) -> float:
    """Return how far c_k is from half of c, after so many steps."""
    problem, _ = toy()
    rule = set_up(SPSA(sgd(), 0.6, gamma=0.2), problem)
    problem.ledger.steps = steps
    return abs(rule.size - 0.3)
