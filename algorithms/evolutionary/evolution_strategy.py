"""A (mu/mu_w, lambda) evolution strategy with mirrored draws and cumulative step-size adaptation."""

import math
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


class EvolutionStrategy(Algorithm):
    """Search by a normal distribution whose mean is the model and whose width adapts itself.

    One step is one generation. With mean m, width sigma, lambda = `population` and mu = lambda / 2:

        x_k = m + sigma z_k,  z_k ~ N(0, I) in mirrored pairs (z, -z)
        z_w = sum over the mu best of w_i z_(i),  w_i ~ ln(mu + 1/2) - ln i
        m <- m + sigma z_w
        p <- (1 - c) p + sqrt(c (2 - c) mu_w) z_w,  sigma <- sigma exp(c / d (|p| / E|N(0, I)| - 1))

    c = (mu_w + 2) / (D + mu_w + 5) and d = 1 + c + 2 max(0, sqrt((mu_w - 1) / (D + 1)) - 1) are Hansen's. mu_w is the
    variance-effective number of parents; mirrored draws partly cancel, so that under neutral selection z_w has variance
    1/mu_w = sum w^2 - (1 - sum w^2) / (lambda - 1), and the path is normalised by that.

    Only ranks enter. The path needs about D / mu_w generations to change sigma: with thousands of parameters sigma
    stays nearly what it was set to, and it decides the result. A full covariance matrix would cost D^2 a step.

    `loss` is None (the mean is not among the evaluated), but for models with running statistics.

    Args:
        population: lambda, an even number of at least 4.
        sigma: width at the start, in units of the parameters.

    Raises:
        AltpropError: for values outside these.

    Paper: Hansen and Ostermeier 2001, Completely derandomized self-adaptation in evolution strategies; mirrored draws:
    Brockhoff et al. 2010, Mirrored sampling and sequential selection for evolution strategies.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    state: ClassVar[tuple[str, ...]] = ("sigma", "path")

    def __init__(self, population: int = 20, sigma: float = 0.05) -> None:
        self.population = check_whole(population, "algorithm.population", 4)
        if population % 2:
            raise AltpropError(f"algorithm.population must be even, for mirrored pairs; got {population}")
        self._start = check_number(sigma, "algorithm.sigma", above=0.0)
        self.sigma: Tensor
        self.path: Tensor

    def _setup(self, problem: Problem) -> None:
        size = problem.flat().numel()
        self.parents = self.population // 2
        raw = [math.log(self.parents + 0.5) - math.log(i) for i in range(1, self.parents + 1)]
        weights = [w / sum(raw) for w in raw]
        squares = sum(w * w for w in weights)
        self.effective = 1 / (squares - (1 - squares) / (self.population - 1))
        self.rate = (self.effective + 2) / (size + self.effective + 5)
        self.damping = 1 + self.rate + 2 * max(0.0, math.sqrt((self.effective - 1) / (size + 1)) - 1)
        self.length = math.sqrt(size) * (1 - 1 / (4 * size) + 1 / (21 * size * size))
        self.weights = torch.tensor(weights, dtype=problem.dtype, device=problem.device)
        self.path = torch.zeros(size, dtype=problem.dtype, device=problem.device)
        self.sigma = torch.tensor(self._start, dtype=problem.dtype, device=problem.device)

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        loss = refresh_statistics(problem, batch)
        mean = problem.flat()
        draws = self.draws(mean.numel())
        values = fitness(problem, mean + self.sigma * draws, batch)
        chosen = values.argsort(stable=True)[: self.parents]
        move = self.weights @ draws[chosen]
        problem.assign(mean + self.sigma * move)
        self.path = (1 - self.rate) * self.path + math.sqrt(self.rate * (2 - self.rate) * self.effective) * move
        scalars = {"best_fitness": values.min(), "mean_fitness": values.mean(), "sigma": self.sigma}
        growth = self.rate / self.damping * (self.path.norm() / self.length - 1)
        self.sigma = self.sigma * growth.clamp(max=1.0).exp()
        return StepResult(loss, scalars)

    def draws(self, size: int) -> Tensor:
        """Return standard normal draws (lambda, D) in mirrored pairs, in random order.

        The order settles ties: without it the stable sort would prefer one of each pair on a flat fitness.
        """
        random = self.problem.random
        half = random.normal(self.population // 2, size)
        return torch.cat([half, -half])[random.permutation(self.population)]

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that only ranks count, the origin does not, and a generation is evaluated on its own batch."""
        return (
            Oracle("f and 7 log1p(f) - 3 give one run", lambda: checks.rank_difference(cls, checks.squashed), 0.0),
            Oracle(
                "not f and -f give one run", lambda: checks.rank_difference(cls, checks.negated), 1e-3, differs=True
            ),
            Oracle("the origin may lie anywhere", lambda: checks.translation_difference(cls), 2e-12),
            Oracle("fitness is of the present batch", lambda: checks.staleness(cls), 1e-14),
        )
