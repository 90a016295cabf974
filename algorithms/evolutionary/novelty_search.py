"""Search for new behaviours alone, whatever the objective says: novelty search."""

import math
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from altprop import (
    Algorithm,
    AltpropError,
    Batch,
    BatchMode,
    Capability,
    Oracle,
    PredictorKind,
    Problem,
    Random,
    StepResult,
    check_number,
    check_whole,
)
from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.genetic import gaussian_mutation, uniform_crossover
from altprop.algorithms.evolutionary.population import fitness_and_behaviour, refresh_statistics, tournament


class NoveltySearch(Algorithm):
    """Breed those who behave unlike the others and unlike all in an archive; the objective selects nobody.

    One step is one generation. The behaviour of each of P individuals is told by the problem's descriptor; each of its
    K numbers is taken as a share of its span, and what lies beyond counts as on the bound: b in [0, 1]^K. Then

        novelty_i = mean of |b_i - b_j| over the k nearest of the other individuals and the archive
        `archived` individuals, drawn at random, leave their behaviour in the archive for good
        the `elites` most novel live on; the others are replaced by children of pairs that win tournaments of novelty

    with uniform crossover and Gaussian mutation. With novelty replaced by fitness, and no archive, this is `genetic`
    at progress 0: mutation does not narrow here, since nothing is to be found ever more exactly. An individual whose
    behaviour is no number has no novelty.

    The model is the individual of the least loss among all that were ever evaluated, though nobody was bred for it; the
    loss is that of the one evaluation, so where episodes are drawn anew in each step the best of many is a lucky one.
    No objective of the present batch is known: the step has no `loss`. Told in each step are `archive`, how many
    behaviours it holds, `mean_novelty`, and `record`, the least loss so far.

    Distances cost P (P + archive) K subtractions a generation; the archive grows without end, as in the paper.

    Args:
        population: P, at least 2.
        neighbours: k, fewer than P, so that there are as many in the first generation; 15 in the paper.
        archived: how many of each generation enter the archive, at most P; 0 leaves it empty.
        elites: how many survive unchanged, fewer than P.
        pressure: individuals in a tournament.
        sigma: standard deviation of mutations, and of the first population around the initial weights.
        mutation_rate: probability that a gene mutates.

    Raises:
        AltpropError: for values outside these.

    Paper: Lehman and Stanley 2011, Abandoning objectives: evolution through the search for novelty alone. There the
    networks are NEAT's, and the archive takes who is above a threshold of novelty that follows how many enter. The
    random choice has no threshold, and adds as many in each seed: Gomes, Mariano and Christensen 2015, Devising
    effective novelty search algorithms: a comprehensive empirical study.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.BEHAVIOUR})
    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    batch = BatchMode.FULL
    state: ClassVar[tuple[str, ...]] = ("genomes", "archive", "record")

    def __init__(
        self,
        population: int = 20,
        neighbours: int = 15,
        archived: int = 1,
        elites: int = 2,
        pressure: int = 5,
        sigma: float = 0.05,
        mutation_rate: float = 1.0,
    ) -> None:
        self.population = check_whole(population, "algorithm.population", 2)
        self.neighbours = check_whole(neighbours, "algorithm.neighbours", 1)
        self.archived = check_whole(archived, "algorithm.archived", 0, population)
        self.elites = check_whole(elites, "algorithm.elites", 0)
        for name, value in (("neighbours", neighbours), ("elites", elites)):
            if value >= population:
                raise AltpropError(f"algorithm.{name} must be fewer than population={population}; got {value}")
        self.pressure = check_whole(pressure, "algorithm.pressure", 1)
        self.sigma = check_number(sigma, "algorithm.sigma", above=0.0)
        self.mutation_rate = check_number(mutation_rate, "algorithm.mutation_rate", above=0.0, high=1.0)
        self.genomes: Tensor
        self.archive: Tensor
        self.record: Tensor

    def _setup(self, problem: Problem) -> None:
        assert problem.descriptor is not None
        start = problem.flat()
        self.genomes = start + self.sigma * problem.random.normal(self.population, start.numel())
        self.genomes[0] = start
        self.low, self.high = (start.new_tensor(ends) for ends in (problem.descriptor.low, problem.descriptor.high))
        self.archive = start.new_zeros(0, len(self.low))
        self.record = start.new_full((), math.inf)

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem, random = self.problem, self.problem.random
        refresh_statistics(problem, batch)
        values, behaviour = fitness_and_behaviour(problem, self.genomes, batch)
        self._remember(values)
        here = self._scaled(behaviour)
        novelty = nearest_mean(here, torch.cat([here, self.archive]), self.neighbours)
        novelty = novelty.nan_to_num(nan=0.0)
        if self.archived:
            self.archive = torch.cat([self.archive, here[random.permutation(self.population)[: self.archived]]])
        best = self.genomes[novelty.argsort(stable=True, descending=True)[: self.elites]]
        self.genomes = torch.cat([best, self._children(novelty, random)])
        told = {"best_fitness": values.min(), "mean_fitness": values.mean(), "record": self.record}
        return StepResult(None, told | {"mean_novelty": novelty.mean(), "archive": float(len(self.archive))})

    def _remember(self, values: Tensor) -> None:
        """Let the best of this generation (P,) be the model, if nobody was better before."""
        place = values.argmin(0, keepdim=True)
        better = values[place][0] < self.record
        self.record = torch.where(better, values[place][0], self.record)
        self.problem.assign(torch.where(better, self.genomes[place][0], self.problem.flat()))

    def _scaled(self, behaviour: Tensor) -> Tensor:
        """Return behaviours (P, K) as shares of their span; what is no number stays none, and is nobody's neighbour."""
        share = (behaviour - self.low) / (self.high - self.low)
        return share.where(share.isfinite(), math.nan).clamp(0, 1)

    def _children(self, novelty: Tensor, random: Random) -> Tensor:
        """Return children (P - elites, D) of parents that were chosen by their novelty (P,)."""
        first, second = self.genomes[random.each(self._selected, -novelty)].chunk(2)
        children = uniform_crossover(first, second, random)
        return gaussian_mutation(children, self.sigma, self.mutation_rate, random)

    def _selected(self, random: Random, values: Tensor) -> Tensor:
        """Return the rows of two parents for each child, the least of each tournament by values (P,)."""
        return tournament(values, 2 * (self.population - self.elites), self.pressure, random)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check novelty against a search tree, that the objective selects nobody, and archive and model by counting."""
        return (
            Oracle("novelty is that of a k-d tree", lambda: _from_tree(4), 1e-12),
            Oracle("not of another number of neighbours", lambda: _from_tree(5), 1e-3, differs=True),
            Oracle("whatever the objective, the same are bred", lambda: _bred_apart(transform=_permuted), 0.0),
            Oracle("not whatever the behaviour", lambda: _bred_apart(view=_mirrored), 1e-3, differs=True),
            Oracle("the origin of behaviour may lie anywhere", lambda: _bred_apart(shift=0.75), 0.0),
            Oracle("the archive takes so many of each generation, each once", lambda: _not_archived(2), 0.0),
            Oracle("not one more", lambda: _not_archived(3), 1.0, differs=True),
            Oracle("the model is the first best of all evaluated", lambda: _from_best(last=False), 0.0),
            Oracle("not the best of the last generation", lambda: _from_best(last=True), 1e-3, differs=True),
        )


def nearest_mean(points: Tensor, others: Tensor, count: int) -> Tensor:
    """Return the mean distance of each point (P, K) to its `count` nearest among others (Q, K), (P,).

    The others hold the points as well: the least of `count` + 1 distances is that to itself, 0, and adds nothing.
    A distance that is no number is the largest.

    >>> points = torch.tensor([[0.0], [1.0], [4.0]])
    >>> nearest_mean(points, torch.cat([points, torch.tensor([[7.0]])]), 2)
    tensor([2.5000, 2.0000, 3.0000])
    """
    distances = (points[:, None] - others).square().sum(-1).sqrt()
    return distances.topk(count + 1, largest=False).values.sum(1) / count


_small = partial(NoveltySearch, 12, neighbours=4, archived=2, sigma=0.3)


def _from_tree(count: int) -> float:
    """Return how far the novelty of 4 neighbours is from that of `count` neighbours by a k-d tree, itself left out."""
    random = Random(0, "cpu", torch.float64)
    points, archive = random.normal(12, 2), random.normal(30, 2)
    archive[0] = points[0]  # another at no distance counts
    others = torch.cat([points, archive])
    distances, _ = cKDTree(others.numpy()).query(points.numpy(), k=count + 1)
    found = nearest_mean(points, others, 4).numpy()
    return float(np.abs(found - np.asarray(distances)[:, 1:].mean(1)).max())


def _permuted(values: Tensor) -> Tensor:
    """Return the values of a generation (P,) in another order."""
    return values.roll(5)


def _mirrored(seen: Tensor) -> Tensor:
    """Return behaviours (P, 2) whose first number has no sign."""
    return torch.stack([seen[:, 0].abs(), seen[:, 1]], 1)


def _bred_apart(**how: Any) -> float:
    """Return the largest difference of populations between a run as it is and one on a problem of another look."""
    one, other = (checks.behaved(_small, **kind)[2] for kind in ({}, how))
    return max(float((a.flat - b.flat).abs().max()) for a, b in zip(one, other, strict=True))


def _not_archived(each: int) -> float:
    """Return how many entries are missing where `each` of every generation enter, and how many are of no individual."""
    learner, _, seen = checks.behaved(_small)
    assert isinstance(learner, NoveltySearch)
    wrong = abs(len(learner.archive) - each * len(seen))
    for entries, one in zip(learner.archive.split(2), seen, strict=True):
        own = learner._scaled(one.behaviour)
        rows = [int((own == entry).all(1).nonzero()[0]) if (own == entry).all(1).any() else -1 for entry in entries]
        wrong += rows.count(-1) + len(rows) - len(set(rows))
    return float(wrong)


def _from_best(*, last: bool) -> float:
    """Return how far the model is from the first best of all that was evaluated, or of the last generation."""
    _, problem, seen = checks.behaved(_small, transform=lambda values: (2 * values).round())
    kept = seen[-1:] if last else seen
    values, flat = torch.cat([one.values for one in kept]), torch.cat([one.flat for one in kept])
    return float((problem.flat() - flat[int((values == values.min()).nonzero()[0])]).abs().max())
