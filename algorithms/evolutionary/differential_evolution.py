"""Differential evolution: rand/1/bin, or JADE, which adapts its own parameters."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    Batch,
    Oracle,
    PredictorKind,
    Problem,
    Random,
    StepResult,
    check_name,
    check_number,
    check_whole,
)
from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.genetic import Genetic
from altprop.algorithms.evolutionary.population import fitness, refresh_statistics

STRATEGIES = ("rand_1_bin", "jade")


class DifferentialEvolution(Algorithm):
    """Let each individual compete with a trial that differences of others have moved.

    One step is one generation. For each individual x_i, with r1, r2, r3 other individuals, all different:

        v_i = x_r1 + F (x_r2 - x_r3)                          rand_1_bin
        v_i = x_i + F_i (x_p - x_i) + F_i (x_r1 - x_r2)       jade, x_p one of the best `best_share`
        u_ij = v_ij with probability CR, and for one gene j for certain; else x_ij
        x_i <- u_i where f(u_i) <= f(x_i)

    JADE draws F_i from a Cauchy distribution around mu_F with scale .1, above 0 and cut at 1, and CR_i from N(mu_CR,
    .1) cut to [0, 1]; both means move by a tenth towards those of the trials that were better, Lehmer's mean for F.
    Without its archive, a variant of the paper's own: its size would depend on values.

    Parents and trials are evaluated on the same batch, 2 P evaluations a generation; on full batches the best fitness
    never rises. The model is the best individual; that is among the next parents, so its objective before the update is
    known and is the step's `loss`.

    Args:
        population: P, at least 4.
        strategy: rand_1_bin or jade.
        factor: F; the first mu_F of jade.
        crossover_rate: CR; the first mu_CR of jade.
        best_share: share of the best that jade pulls towards.
        sigma: standard deviation of the first population around the initial weights.

    Raises:
        AltpropError: for values outside these.

    Paper: Storn and Price 1997, Differential evolution, a simple and efficient heuristic for global optimization over
    continuous spaces; Zhang and Sanderson 2009, JADE: adaptive differential evolution with optional external archive.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    state: ClassVar[tuple[str, ...]] = ("genomes", "model_row", "factor", "crossover_rate")

    def __init__(
        self,
        population: int = 20,
        strategy: str = "rand_1_bin",
        factor: float = 0.5,
        crossover_rate: float = 0.9,
        best_share: float = 0.1,
        sigma: float = 0.05,
    ) -> None:
        self.population = check_whole(population, "algorithm.population", 4)
        self.adapts = check_name(strategy, "algorithm.strategy", STRATEGIES) == "jade"
        self._factor = check_number(factor, "algorithm.factor", above=0.0, high=2.0)
        self._crossover_rate = check_number(crossover_rate, "algorithm.crossover_rate", 0.0, 1.0)
        self.best_share = check_number(best_share, "algorithm.best_share", above=0.0, high=1.0)
        self.sigma = check_number(sigma, "algorithm.sigma", above=0.0)
        self.genomes: Tensor
        self.model_row: Tensor
        self.factor: Tensor
        self.crossover_rate: Tensor

    def _setup(self, problem: Problem) -> None:
        start = problem.flat()
        self.genomes = start + self.sigma * problem.random.normal(self.population, start.numel())
        self.genomes[0] = start
        self.model_row = torch.zeros(1, dtype=torch.int64, device=problem.device)
        self.factor = torch.tensor(self._factor, dtype=problem.dtype, device=problem.device)
        self.crossover_rate = torch.tensor(self._crossover_rate, dtype=problem.dtype, device=problem.device)

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem, random, parents = self.problem, self.problem.random, self.genomes
        refresh_statistics(problem, batch)
        # Nobody's fitness is known before the batch is, so JADE's best are those of this batch.
        old = fitness(problem, parents, batch)
        factors, rates = self._parameters(random)
        trials = crossed(parents, self._mutants(parents, old, factors, random), rates, random)
        new = fitness(problem, trials, batch)
        won = new <= old
        self.genomes = torch.where(won[:, None], trials, parents)
        loss = old[self.model_row][0]
        values = torch.where(won, new, old)
        self.model_row = values.argsort(stable=True)[:1]
        problem.assign(self.genomes[self.model_row][0])
        if self.adapts:
            self._adapt(won & (new < old), factors, rates)
        everyone = torch.cat([old, new])
        return StepResult(
            loss, {"best_fitness": everyone.min(), "mean_fitness": everyone.mean(), "factor": self.factor}
        )

    def _parameters(self, random: Random) -> tuple[Tensor, Tensor]:
        """Return F_i and CR_i of each individual, (P, 1)."""
        if not self.adapts:
            ones = torch.ones_like(self.genomes[:, :1])
            return self.factor * ones, self.crossover_rate * ones
        # A Cauchy draw that is above 0: the inverse of the distribution at a draw from the rest of it.
        below = 0.5 + torch.atan(-self.factor / 0.1) / math.pi
        place = below + (1 - below) * random.uniform(self.population, 1)
        factors = self.factor + 0.1 * torch.tan(math.pi * (place - 0.5))
        rates = self.crossover_rate + 0.1 * random.normal(self.population, 1)
        return factors.clamp(0.0, 1.0), rates.clamp(0.0, 1.0)

    def _mutants(self, parents: Tensor, values: Tensor, factors: Tensor, random: Random) -> Tensor:
        first, second, third = parents[others(self.population, random)].unbind()
        if not self.adapts:
            return first + factors * (second - third)
        count = max(1, round(self.best_share * self.population))
        best = values.argsort(stable=True)[:count][random.integers(0, count, self.population)]
        return parents + factors * (parents[best] - parents) + factors * (first - second)

    def _adapt(self, won: Tensor, factors: Tensor, rates: Tensor) -> None:
        """Move mu_F and mu_CR towards the means of those that improved, (P,); nobody leaves them where they are."""
        mine = won[:, None].to(factors.dtype)
        count, total = mine.sum(), (mine * factors).sum()
        any_won = count > 0
        factor = (mine * factors.square()).sum() / torch.where(total > 0, total, 1.0)
        rate = (mine * rates).sum() / count.clamp(min=1.0)
        self.factor = torch.where(any_won, 0.9 * self.factor + 0.1 * factor, self.factor)
        self.crossover_rate = torch.where(any_won, 0.9 * self.crossover_rate + 0.1 * rate, self.crossover_rate)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check ranks, and that the best never gets worse on full batches, as it does where parents do not compete."""
        plain, jade = (
            "rand_1_bin: the best full-batch fitness never rises",
            "jade: the best full-batch fitness never rises",
        )
        return (
            *checks.of_ranks(cls),
            Oracle(plain, lambda: checks.rise(cls), 1e-14),
            Oracle(jade, lambda: checks.rise(lambda: cls(strategy="jade")), 1e-14),
            Oracle("not where every child lives", lambda: checks.rise(lambda: Genetic(elites=0)), 1e-3, differs=True),
        )


def others(count: int, random: Random) -> Tensor:
    """Return three other individuals for each of P, all different: (3, P) rows.

    >>> rows = others(4, Random(0))
    >>> [sorted([*rows[:, i].tolist(), i]) for i in range(4)] == 4 * [[0, 1, 2, 3]]
    True
    """
    keys = random.uniform(count, count)
    return (keys + 2 * torch.eye(count, dtype=keys.dtype, device=keys.device)).argsort(dim=1, stable=True)[:, :3].T


def crossed(parents: Tensor, mutants: Tensor, rates: Tensor, random: Random) -> Tensor:
    """Return trials (P, D) that take each gene of the mutant with probability `rates` (P, 1), one gene for certain."""
    gene = torch.arange(parents.shape[1], device=parents.device)
    sure = gene == random.integers(0, parents.shape[1], len(parents), 1)
    return torch.where((random.uniform(*parents.shape) < rates) | sure, mutants, parents)
