"""OpenAI's evolution strategy: the gradient of a smoothed objective from mirrored pairs, and any optimizer."""

from typing import ClassVar

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    AltpropError,
    Batch,
    OptimizerFactory,
    Oracle,
    PredictorKind,
    Problem,
    StepResult,
    Updater,
    check_name,
    check_number,
    check_whole,
)
from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.population import centred_ranks, fitness, refresh_statistics
from altprop.testing import monte_carlo, set_up, sgd, toy_point

SHAPINGS = ("ranks", "none")


class OpenAIES(Algorithm):
    """Estimate the gradient of E f(theta + sigma eps) from mirrored pairs, and hand it to the optimizer.

    One step is one generation. With P = `population` and eps_k ~ N(0, I), k = 1 .. P/2:

        g = 1 / (P sigma) sum_k (u(f(theta + sigma eps_k)) - u(f(theta - sigma eps_k))) eps_k

    u is the identity (`shaping` none), which makes g an unbiased estimate of the smoothed objective's gradient, exact
    along each eps_k where f is linear or quadratic; or the centred rank among all P values, from -1/2 to 1/2, which no
    monotone change of f alters. Equal values share a rank, so a flat fitness moves nothing; where one of a pair is
    infinite and u the identity, the pair is left out.

    The paper divides by sigma, its published code does not; with ranks that is a matter of the learning rate alone, and
    none under Adam. The penalties of task and noise are part of f, and of its ranks. The published weight decay is the
    optimizer's. Few draws make g nearly orthogonal to the gradient, so that Adam's usual rate of .001 goes nowhere in
    a small budget: take .01 to .03. `loss` is None (the mean is not among the evaluated), but for models with running
    statistics.

    Args:
        optimizer: how g becomes an update.
        population: P, an even number.
        sigma: width of the perturbations, in units of the parameters.
        shaping: ranks or none.

    Raises:
        AltpropError: for values outside these.

    Paper: Salimans et al. 2017, Evolution strategies as a scalable alternative to reinforcement learning,
    arXiv:1703.03864.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    state: ClassVar[tuple[str, ...]] = ("updater",)

    updater: Updater

    def __init__(
        self, optimizer: OptimizerFactory, population: int = 20, sigma: float = 0.05, shaping: str = "ranks"
    ) -> None:
        self._optimizer = optimizer
        self.pairs = check_whole(population, "algorithm.population", 2) // 2
        if population % 2:
            raise AltpropError(f"algorithm.population must be even, for mirrored pairs; got {population}")
        self.sigma = check_number(sigma, "algorithm.sigma", above=0.0)
        self.shaping = check_name(shaping, "algorithm.shaping", SHAPINGS)

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self._optimizer, direction="other")

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        loss = refresh_statistics(self.problem, batch)
        values, gradient = self.estimate(batch)
        self.updater.apply(self.problem.unflatten(gradient))
        return StepResult(loss, {"best_fitness": values.min(), "mean_fitness": values.mean()})

    def estimate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the fitness of all individuals, (P,), and g, (D,); no parameter changes."""
        mean = self.problem.flat()
        draws = self.problem.random.normal(self.pairs, mean.numel())
        moves = self.sigma * draws
        values = fitness(self.problem, torch.cat([mean + moves, mean - moves]), batch)
        shaped = centred_ranks(values) if self.shaping == "ranks" else values
        gaps = shaped[: self.pairs] - shaped[self.pairs :]
        gaps = torch.where(gaps.isfinite(), gaps, 0.0)
        return values, gaps @ draws / (2 * self.pairs * self.sigma)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check ranks, that pairs are exact on a quadratic and not beyond, and that the mean is the gradient."""
        return (
            *checks.of_ranks(lambda: cls(sgd(0.01))),
            Oracle("a pair gives its slope on a quadratic", lambda: _from_slopes(2), 1e-11),
            Oracle("not on a cubic", lambda: _from_slopes(3), 1e-3, differs=True),
            Oracle("the mean is the gradient: |z| < 4", lambda: _z_score(1.0), 4.0),
            Oracle("not the mean is minus the gradient", lambda: _z_score(-1.0), 4.0, differs=True),
            Oracle("not the mean is half the gradient", lambda: _z_score(0.5), 4.0, differs=True),
        )


def _posed(power: int) -> tuple[OpenAIES, Batch, Tensor]:
    """Return a learner on the sum of theta^power / power, its batch, and the gradient where it stands."""
    problem, batch = toy_point([0.0] * 6, [0.5, -1.0, 2.0, 1.0, -0.3, 0.7])
    checks.pose(problem, lambda flat: flat.pow(power).sum(1) / power)
    learner = set_up(OpenAIES(sgd(), 100, shaping="none"), problem)
    return learner, batch, problem.flat().pow(power - 1)


def _from_slopes(power: int) -> float:
    """Return the largest difference between g and the mean of (gradient . eps) eps over the same draws."""
    learner, batch, gradient = _posed(power)
    random = learner.problem.random
    before = random.state_dict()
    found = learner.estimate(batch)[1]
    random.load_state_dict(before)
    draws = random.normal(50, 6)
    return float((found - draws @ gradient @ draws / 50).abs().max())


def _z_score(share: float) -> float:
    """Return the z-score of g on a quadratic against a share of the gradient."""
    learner, batch, gradient = _posed(2)
    return monte_carlo(lambda: learner.estimate(batch)[1], share * gradient, 100)
