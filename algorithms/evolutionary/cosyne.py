"""Cooperative synapse neuroevolution: every weight has a population of its own, and networks are put together anew."""

import math
from functools import partial
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
    Random,
    StepResult,
    check_name,
    check_number,
    check_whole,
)
from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.genetic import two_point_crossover
from altprop.algorithms.evolutionary.population import fitness, refresh_statistics

PERMUTATIONS = ("ranks", "all")


class Cosyne(Algorithm):
    """Let networks share fitness with their weights, and exchange the weights of bad networks place by place.

    One step is one generation. Column i of the genomes (P, D) is the population of weight i; row j of all columns is a
    network. With networks sorted from the best, j = 0, to the worst, j = P - 1:

        the best `share` of them cross two by two and mutate; their children replace as many of the worst rows
        x_ij is marked with probability 1 - ((P - 1 - j) / (P - 1))^(1 / D)
        within each column the marked weights change places at random

    so that the best network stays whole, the worst row is marked in every place, and of the others some
    -ln((P - 1 - j) / (P - 1)) weights are; a weight that is alone in its column stays where it is. The paper takes the
    share of fitness between the least and the largest where we take that of ranks, as EvoTorch does: only ranks count
    then. `permutation` all marks every weight. Mutation adds to a gene, with probability `mutation_rate`, a Cauchy draw
    of scale sigma (1 - progress): it narrows with the budget, as in `genetic`.

    The model is the best network on the latest batch. With ranks it is the first row of the next generation, so its
    objective on the next batch before the update is known and is the step's `loss`, and on full batches the best
    fitness never rises; with all it is None.

    Args:
        population: P, at least 4.
        share: of the networks that have children, and of those that children replace, above 0 and at most .5.
        permutation: ranks or all.
        sigma: scale of mutations, and standard deviation of the first population around the initial weights.
        mutation_rate: probability that a gene mutates.

    Raises:
        AltpropError: for values outside these.

    Paper: Gomez, Schmidhuber and Miikkulainen 2008, Accelerated neural evolution through cooperatively coevolved
    synapses.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    state: ClassVar[tuple[str, ...]] = ("genomes",)

    def __init__(
        self,
        population: int = 20,
        share: float = 0.25,
        permutation: str = "ranks",
        sigma: float = 0.02,
        mutation_rate: float = 0.05,
    ) -> None:
        self.population = check_whole(population, "algorithm.population", 4)
        self.share = check_number(share, "algorithm.share", above=0.0, high=0.5)
        self.parents = round(share * population)
        if not self.parents:
            raise AltpropError(f"algorithm.share={share} of population={population} is nobody; raise one of them")
        self.by_ranks = check_name(permutation, "algorithm.permutation", PERMUTATIONS) == "ranks"
        self.sigma = check_number(sigma, "algorithm.sigma", above=0.0)
        self.mutation_rate = check_number(mutation_rate, "algorithm.mutation_rate", above=0.0, high=1.0)
        self.genomes: Tensor

    def _setup(self, problem: Problem) -> None:
        start = problem.flat()
        others = start + self.sigma * problem.random.normal(self.population - 1, start.numel())
        self.genomes = torch.cat([start[None], others])

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem, random = self.problem, self.problem.random
        seen = refresh_statistics(problem, batch)
        values = fitness(problem, self.genomes, batch)
        ranked = self.genomes[values.argsort(stable=True)]
        problem.assign(ranked[0])
        rows = torch.cat([ranked[: -self.parents], self._children(ranked[: self.parents], random)])
        self.genomes = permuted(rows, self._marked(rows, random), random)
        loss = values[0].clone() if self.by_ranks else None
        return StepResult(loss if seen is None else seen, {"best_fitness": values.min(), "mean_fitness": values.mean()})

    def _children(self, parents: Tensor, random: Random) -> Tensor:
        """Return as many children (K, D) as there are parents (K, D): each of two parents drawn at random, mutated."""
        count = len(parents)
        first, second = parents[random.integers(0, count, 2, count)].unbind()
        children = two_point_crossover(first, second, random)
        sigma = self.sigma * (1 - self.problem.progress)
        change = sigma * (math.pi * (random.uniform(*children.shape) - 0.5)).tan()
        return children + change * (random.uniform(*children.shape) < self.mutation_rate)

    def _marked(self, rows: Tensor, random: Random) -> Tensor:
        """Return which weights of sorted rows (P, D) change places."""
        if not self.by_ranks:
            return torch.ones_like(rows, dtype=torch.bool)
        rank = torch.linspace(1, 0, self.population, dtype=rows.dtype, device=rows.device)[:, None]
        return random.uniform(*rows.shape) >= rank ** (1 / rows.shape[1])

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check ranks, that columns keep their weights, that the best is whole, and how many weights move."""
        every = partial(cls, permutation="all")
        return (
            *checks.of_ranks(cls),
            Oracle("the best full-batch fitness never rises", lambda: checks.rise(cls), 1e-14),
            Oracle("not where all change places", lambda: checks.rise(every), 1e-3, differs=True),
            Oracle("columns keep their weights, and the unmarked their place", lambda: _moved_wrongly(0.5), 0.0),
            Oracle("not under other marks", lambda: _moved_wrongly(0.7), 1.0, differs=True),
            Oracle("marks have the paper's probability: |z| < 4", lambda: _mark_score(6), 4.0),
            Oracle("not that of another number of weights", lambda: _mark_score(7), 4.0, differs=True),
        )


def permuted(rows: Tensor, marked: Tensor, random: Random) -> Tensor:
    """Return rows (P, D) in which the marked weights of each column have changed places, all orders equally likely.

    >>> rows = torch.arange(8.0).reshape(4, 2)
    >>> permuted(rows, torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0]], dtype=torch.bool), Random(1))
    tensor([[0., 1.],
            [6., 3.],
            [4., 5.],
            [2., 7.]])
    """
    sources = torch.where(marked, random.uniform(*rows.shape), 2.0).argsort(0)  # the marked first, in random order
    places = marked.cumsum(0) - 1
    return torch.where(marked, rows.gather(0, sources).gather(0, places.clamp(min=0)), rows)


def _moved_wrongly(share: float) -> float:
    """Return how many columns do not hold their weights, and how many weights moved without a mark of `share` .5."""
    random = Random(0, "cpu", torch.float64)
    rows, draws = random.normal(9, 40), random.uniform(9, 40)
    found = permuted(rows, draws < share, random)
    lost = (found.sort(0).values != rows.sort(0).values).any(0).sum()
    return float(lost + (found != rows)[draws >= 0.5].sum())


def _mark_score(size: int, count: int = 4000) -> float:
    """Return the largest |z| of the shares of marks in each of five rows of 6 weights, against those of `size`."""
    learner, random = Cosyne(5), Random(0, "cpu", torch.float64)
    rows = torch.zeros(5, 6, dtype=torch.float64, device="cpu")
    found = torch.stack([learner._marked(rows, random).double().mean(1) for _ in range(count)]).mean(0)
    expected = 1 - torch.linspace(1, 0, 5, dtype=torch.float64, device="cpu") ** (1 / size)
    deviation = (expected * (1 - expected) / (6 * count)).sqrt()
    sure = deviation == 0
    wrong = float((found - expected)[sure].abs().max())
    return wrong * 1e6 + float(((found - expected) / deviation)[~sure].abs().max())
