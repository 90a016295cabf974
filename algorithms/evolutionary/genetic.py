"""A generational genetic algorithm on real-valued parameters."""

import math
from typing import ClassVar

import torch
from deap import tools
from torch import Tensor

from altprop import (
    Algorithm,
    AltpropError,
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
from altprop.algorithms.evolutionary.population import Individual, fitness, individuals, refresh_statistics

SELECTIONS = ("tournament", "truncation")


def uniform_crossover(first: Tensor, second: Tensor, random: Random) -> Tensor:
    """Return children (K, D) that take each gene from either parent with equal probability (Syswerda 1989)."""
    return torch.where(random.uniform(*first.shape) < 0.5, first, second)


def two_point_crossover(first: Tensor, second: Tensor, random: Random) -> Tensor:
    """Return children (K, D): the first parent outside two random cuts, the second between them.

    >>> ones = torch.ones(1, 6)
    >>> two_point_crossover(ones, 2 * ones, Random(2))
    tensor([[1., 1., 2., 1., 1., 1.]])
    """
    size = first.shape[1]
    cuts = random.integers(0, size + 1, first.shape[0], 2).sort(1).values
    gene = torch.arange(size, device=first.device)
    return torch.where((gene >= cuts[:, :1]) & (gene < cuts[:, 1:]), second, first)


CROSSOVERS = {"uniform": uniform_crossover, "two_point": two_point_crossover}


def gaussian_mutation(children: Tensor, sigma: float, rate: float, random: Random) -> Tensor:
    """Return children (K, D) with N(0, sigma^2) added to each gene with probability `rate`."""
    change = sigma * random.normal(*children.shape)
    if rate < 1:
        change = change * (random.uniform(*children.shape) < rate)
    return children + change


class Genetic(Algorithm):
    """Select, cross and mutate a population of parameter points; the best one is the model.

    One step is one generation. The whole population, survivors included, is evaluated on the step's batch; the `elites`
    best live on unchanged; the others are replaced by children of selected pairs. Mutation narrows with the budget,
    sigma (1 - progress), so that the search ends fine.

    The model is the best individual on the latest batch. It is the first elite, so its objective on the next batch
    before the update is known and is the step's `loss`; without elites it is None. On full batches the best fitness
    never rises; on mini-batches the choice among noisy values is optimistic, so evaluate on held-out data.

    Args:
        population: individuals, at least 2.
        elites: how many survive unchanged, fewer than `population`.
        selection: tournament, or truncation to the best.
        pressure: individuals in a tournament, or survivors of the truncation.
        crossover: uniform or two_point.
        crossover_rate: probability that a child has two parents.
        sigma: standard deviation of mutations, and of the first population around the initial weights.
        mutation_rate: probability that a gene mutates.

    Raises:
        AltpropError: for values outside these.

    Paper: Holland 1975, Adaptation in natural and artificial systems; on network weights: Montana and Davis 1989,
    Training feedforward neural networks using genetic algorithms. DEAP's own operators copy single individuals and draw
    from global `random`; crossover and mutation here act on stacks and draw from the run's stream.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    state: ClassVar[tuple[str, ...]] = ("genomes", "fitness", "generation")

    def __init__(
        self,
        population: int = 20,
        elites: int = 2,
        selection: str = "tournament",
        pressure: int = 5,
        crossover: str = "uniform",
        crossover_rate: float = 1.0,
        sigma: float = 0.05,
        mutation_rate: float = 1.0,
    ) -> None:
        self.population = check_whole(population, "algorithm.population", 2)
        self.elites = check_whole(elites, "algorithm.elites", 0)
        self.pressure = check_whole(pressure, "algorithm.pressure", 1)
        if elites >= population:
            raise AltpropError(f"algorithm.elites must be fewer than population={population}; got {elites}")
        self.selection = check_name(selection, "algorithm.selection", SELECTIONS)
        self.crossover = check_name(crossover, "algorithm.crossover", CROSSOVERS)
        if selection == "truncation" and pressure > population:
            raise AltpropError(f"algorithm.pressure must be at most population={population}; got {pressure}")
        self.crossover_rate = check_number(crossover_rate, "algorithm.crossover_rate", 0.0, 1.0)
        self.sigma = check_number(sigma, "algorithm.sigma", above=0.0)
        self.mutation_rate = check_number(mutation_rate, "algorithm.mutation_rate", above=0.0, high=1.0)
        self.genomes: Tensor
        self.fitness: Tensor
        self.generation = 0

    def _setup(self, problem: Problem) -> None:
        start = problem.flat()
        self.genomes = start + self.sigma * problem.random.normal(self.population, start.numel())
        self.genomes[0] = start
        self.fitness = torch.full((self.population,), math.inf, dtype=torch.float64, device="cpu")

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        loss = refresh_statistics(problem, batch)
        values = fitness(problem, self.genomes, batch)
        if loss is None and (self.elites > 0 or self.generation == 0):
            loss = values[0].clone()
        ranked = values.argsort(stable=True)
        problem.assign(self.genomes[ranked[:1]][0])
        self.fitness = values.to("cpu", torch.float64)
        self.genomes = torch.cat([self.genomes[ranked[: self.elites]], self._children(values)])
        self.generation += 1
        return StepResult(loss, {"best_fitness": values.min(), "mean_fitness": values.mean()})

    def _children(self, values: Tensor) -> Tensor:
        random, count = self.problem.random, self.population - self.elites
        parents = self.genomes[random.each(self._selected, values)]
        first, second = parents[:count], parents[count:]
        children = CROSSOVERS[self.crossover](first, second, random)
        if self.crossover_rate < 1:
            crossed = random.uniform(count, 1) < self.crossover_rate
            children = torch.where(crossed, children, first)
        return gaussian_mutation(children, self.sigma * (1 - self.problem.progress), self.mutation_rate, random)

    def _selected(self, random: Random, values: Tensor) -> Tensor:
        """Let DEAP choose two parents for each child, from the fitness of each row (P,); return their rows."""
        candidates, count = individuals(values), 2 * (self.population - self.elites)
        if self.selection == "truncation":
            best: list[Individual] = tools.selBest(candidates, self.pressure)
            chosen = [best[place] for place in random.integers(0, len(best), count).tolist()]
        else:
            with random.as_global():
                chosen = tools.selTournament(candidates, count, tournsize=self.pressure)
        return torch.tensor([one.row for one in chosen], device=values.device)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that only ranks count, elites never get worse on full batches, and a generation has its own batch."""
        return (
            Oracle("f and 7 log1p(f) - 3 give one run", lambda: checks.rank_difference(cls, checks.squashed), 0.0),
            Oracle(
                "not f and -f give one run", lambda: checks.rank_difference(cls, checks.negated), 1e-3, differs=True
            ),
            Oracle("the origin may lie anywhere", lambda: checks.translation_difference(cls), 2e-12),
            Oracle("fitness is of the present batch", lambda: checks.staleness(cls), 1e-14),
            Oracle(
                "elites: the best full-batch fitness never rises", lambda: checks.rise(lambda: cls(elites=2)), 1e-14
            ),
            Oracle(
                "not no elites: the best full-batch fitness never rises",
                lambda: checks.rise(lambda: cls(elites=0)),
                1e-3,
                differs=True,
            ),
        )
