"""Weight perturbation: all weights are disturbed at once, and each learns from what the loss did."""

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
from altprop.algorithms.perturbation.checks import order
from altprop.algorithms.perturbation.points import check_draw, differences, drawn, finite, refresh_statistics
from altprop.testing import monte_carlo, set_up, sgd, toy, toy_point


class WeightPerturbation(Algorithm):
    """Correlate the noise on all parameters with the change of the objective that it makes.

    With xi like all D parameters theta, elements of mean 0 and variance 1, drawn K times a step,

        sides = 1:  g = mean over draws of (L(theta + sigma xi) - L(theta)) / sigma xi
        sides = 2:  g = mean over draws of (L(theta + sigma xi) - L(theta - sigma xi)) / (2 sigma) xi.

    As sigma -> 0 it is the forward gradient along xi, whose mean is the gradient; one side is biased by O(sigma), two
    by O(sigma^2). The pair (+xi, -xi) is antithetic: it cancels what is even in xi, so that on a quadratic its slope is
    exact. The variance grows with D, where node perturbation's grows with the number of units. All points of a step see
    one batch and one noise, and nothing is differentiated.

    Args:
        optimizer: how g becomes an update; it is no gradient, so closures are refused.
        sigma: size of the noise, in units of the parameters.
        sides: 1, against the undisturbed loss, or 2, an antithetic pair.
        samples: K; a step costs `sides` K evaluations, one more with one side.
        draw: normal or rademacher.

    Raises:
        AltpropError: for values outside these.

    Paper: Jabri and Flower 1992, Weight perturbation: an optimal architecture and learning technique for analog VLSI
    (one weight at a time: `finite_differences`); all at once: Cauwenberghs 1993, A fast stochastic error-descent
    algorithm, with rademacher noise.
    """

    kind = PredictorKind.MODEL
    state = ("updater",)

    updater: Updater

    def __init__(
        self,
        optimizer: OptimizerFactory,
        sigma: float = 0.01,
        sides: int = 1,
        samples: int = 1,
        draw: str = "normal",
    ) -> None:
        self._optimizer = optimizer
        self.sigma = check_number(sigma, "algorithm.sigma", above=0.0)
        self.sides = check_whole(sides, "algorithm.sides", 1, 2)
        self.samples = check_whole(samples, "algorithm.samples", 1)
        self.draw = check_draw(draw)

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self._optimizer, direction="other")

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        draws = drawn(problem, self.draw, self.samples, problem.flat().numel())
        with problem.same_noise():
            loss = problem.objective(batch) if self.sides == 1 else refresh_statistics(problem, batch)
            direction = self.estimate(batch, draws, loss)
        self.updater.apply(problem.unflatten(direction))
        return StepResult(loss)

    def estimate(self, batch: Batch, draws: Tensor, loss: Tensor | None) -> Tensor:
        """Return g, (D,), along the rows of draws (K, D); no parameter changes.

        Args:
            batch: on which all is evaluated.
            draws: xi.
            loss: the objective without noise, for one side.
        """
        if self.sides == 2:
            slopes = differences(self.problem, batch, self.sigma * draws) / (2 * self.sigma)
        else:
            assert loss is not None
            moved = self.problem.population_objective(self.problem.flat() + self.sigma * draws, batch)
            slopes = finite(moved - loss) / self.sigma
        return slopes @ draws / len(draws)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check the sum over all weights, what a pair gives on a quadratic, and how the error falls with sigma."""
        return (
            Oracle("over the axes of all weights = the gradient", partial(_over_axes, 2, 1e-4), 1e-7),
            Oracle("not with a sigma of 1", partial(_over_axes, 2, 1.0), 0.02, differs=True),
            Oracle("an antithetic pair is exact on a quadratic at sigma = 1", partial(_on_quadratic, 2), 1e-12),
            Oracle("not one side", partial(_on_quadratic, 1), 0.05, differs=True),
            Oracle("one side: error O(sigma), slope off 1 by", partial(_order_error, 1, 1), 0.1),
            Oracle("two sides: error O(sigma^2), slope off 2 by", partial(_order_error, 2, 2), 0.1),
            Oracle("not one side: error O(sigma^2)", partial(_order_error, 1, 2), 0.1, differs=True),
            Oracle("mean = the gradient, abs z", partial(_z_score, 1.0), 4.0),
            Oracle("not minus the gradient: abs z", partial(_z_score, -1.0), 4.0, differs=True),
            Oracle("not half the gradient: abs z", partial(_z_score, 0.5), 4.0, differs=True),
        )


def _over_axes(sides: int, sigma: float) -> float:
    """Return the relative error of the sum over the axes of all weights against the gradient."""
    problem, batch = toy((4, 5, 3))
    rule = set_up(WeightPerturbation(sgd(), sigma, sides), problem)
    loss, gradient = problem.gradient(batch)
    axes = torch.eye(problem.flat().numel(), dtype=torch.float64, device="cpu")
    expected = problem.flatten(gradient)
    return float((len(axes) * rule.estimate(batch, axes, loss) - expected).norm() / expected.norm())


def _order_error(sides: int, claimed: int) -> float:
    """Return how far the order of the error is from the claimed one, between sigma = .03 and .003."""
    return abs(order(partial(_over_axes, sides), (0.03, 0.01, 0.003)) - claimed)


def _on_quadratic(sides: int) -> float:
    """Return the largest difference, at sigma = 1, from slope times draw on 1/2 |theta - centre|^2."""
    problem, batch = toy_point([0.5, -1.0, 2.0], [1.0, 1.0, -1.0])
    rule = set_up(WeightPerturbation(sgd(), 1.0, sides), problem)
    draws = problem.random.normal(5, 3)
    gradient = problem.flatten(problem.gradient(batch)[1])
    found = rule.estimate(batch, draws, problem.objective(batch))
    return float((found - draws @ gradient @ draws / 5).abs().max())


def _z_score(share: float) -> float:
    """Return the abs z-score of g against a share of the gradient."""
    problem, batch = toy((4, 5, 3))
    rule = set_up(WeightPerturbation(sgd(), 1e-3, 2), problem)
    expected = share * problem.flatten(problem.gradient(batch)[1])
    size = len(expected)
    return monte_carlo(lambda: rule.estimate(batch, problem.random.normal(100, size), None), expected, 60)
