"""The cross-entropy method: a normal distribution is fitted to the best of what it draws."""

from typing import ClassVar

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    AltpropError,
    Batch,
    Oracle,
    PredictorKind,
    Problem,
    StepResult,
    check_number,
    check_whole,
)
from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.population import fitness, refresh_statistics
from altprop.testing import set_up, toy_point


class CrossEntropy(Algorithm):
    """Draw a population, and fit mean and widths of the distribution to its elite.

    One step is one generation. With mean m, widths sigma (D,), the K = `elites` best of P = `population` draws x_k and
    a = `smoothing`:

        x_k = m + sigma z_k,  z_k ~ N(0, I)
        m <- (1 - a) m + a mean_K(x),  sigma^2 <- (1 - a) sigma^2 + a var_K(x) + (`noise` (1 - progress))^2

    var_K is the mean square from the elite's mean, as the maximum of the likelihood has it: with few elites the widths
    shrink by themselves, and the added noise, which ends with the budget, keeps the search from stopping early (Szita
    and Lorincz 2006, whose noise falls linearly with the generations). Only ranks enter. `loss` is None (the mean is
    not among the evaluated), but for models with running statistics.

    Args:
        population: P, at least 4.
        elites: K, at least 2 and fewer than `population`.
        sigma: width of every parameter at the start, in units of the parameters.
        smoothing: a, above 0 and at most 1.
        noise: standard deviation that is added at the start, in units of the parameters.

    Raises:
        AltpropError: for values outside these.

    Paper: Rubinstein 1999, The cross-entropy method for combinatorial and continuous optimization; Szita and Lorincz
    2006, Learning Tetris using the noisy cross-entropy method.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    state: ClassVar[tuple[str, ...]] = ("sigma",)

    def __init__(
        self,
        population: int = 20,
        elites: int = 5,
        sigma: float = 0.05,
        smoothing: float = 0.7,
        noise: float = 0.02,
    ) -> None:
        self.population = check_whole(population, "algorithm.population", 4)
        self.elites = check_whole(elites, "algorithm.elites", 2)
        if elites >= population:
            raise AltpropError(f"algorithm.elites must be fewer than population={population}; got {elites}")
        self.smoothing = check_number(smoothing, "algorithm.smoothing", above=0.0, high=1.0)
        self.noise = check_number(noise, "algorithm.noise", 0.0)
        self._start = check_number(sigma, "algorithm.sigma", above=0.0)
        self.sigma: Tensor

    def _setup(self, problem: Problem) -> None:
        self.sigma = torch.full_like(problem.flat(), self._start)

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem, a = self.problem, self.smoothing
        loss = refresh_statistics(problem, batch)
        mean = problem.flat()
        members = mean + self.sigma * problem.random.normal(self.population, mean.numel())
        values = fitness(problem, members, batch)
        elite = members[values.argsort(stable=True)[: self.elites]]
        problem.assign((1 - a) * mean + a * elite.mean(0))
        added = (self.noise * (1 - problem.progress)) ** 2
        self.sigma = ((1 - a) * self.sigma.square() + a * elite.var(0, correction=0) + added).sqrt()
        scalars = {"best_fitness": values.min(), "mean_fitness": values.mean(), "sigma": self.sigma.mean()}
        return StepResult(loss, scalars)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check ranks, and that each parameter may have its own unit where no noise is added."""
        return (
            *checks.of_ranks(cls),
            Oracle("parameters in other units give one run", lambda: _rescaled(0.0), 1e-10),
            Oracle("not with noise, which has a unit", lambda: _rescaled(0.2), 1e-3, differs=True),
        )


def _rescaled(noise: float, steps: int = 10) -> float:
    """Return how far a run in other units is from the run in other units."""
    ends = []
    start = torch.tensor([0.5, -1.0, 1.5, 0.3], dtype=torch.float64, device="cpu")
    for unit in (torch.ones_like(start), torch.tensor([2.0, 0.5, 1.0, 8.0]).to(start)):
        problem, batch = toy_point([0.0] * 4, (unit * start).tolist())
        checks.pose(problem, lambda flat, unit=unit: checks.rosenbrock(flat / unit))  # type: ignore[misc]
        learner = set_up(CrossEntropy(sigma=0.3, noise=noise), problem)
        learner.sigma = learner.sigma * unit
        for _ in range(steps):
            learner.step(batch)
        ends.append(problem.flat() / unit)
    return float((ends[0] - ends[1]).abs().max())
