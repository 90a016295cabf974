"""Networks by two objectives at once, loss and number of weights: NSGA-II on whole populations."""

from typing import Any, ClassVar

import torch
from deap import tools
from torch import Tensor

from altprop import (
    Algorithm,
    AltpropError,
    Batch,
    BatchMode,
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
from altprop.algorithms.evolutionary.population import LossAndSize, fitness, pareto, refresh_statistics
from altprop.testing import set_up, toy_point

MOST = 1e30
"""A loss that is no number counts as this: crowding distances need differences."""


class NSGA2(Algorithm):
    """Breed networks for little loss and few weights; the population spreads along the Pareto front of both.

    One step is one generation. A genome is all weights and biases of a network; those that are 0 are absent, and its
    size is the number of the others. All are evaluated on the whole training set (on mini-batches chance decides who
    dominates whom): the P parents first, and then

        P of them win crowded tournaments of two: who dominates the other, else who has more room on its front
        pairs of them cross, each gene from either with equal probability, in `crossover_rate` of the children
        present weights change by N(0, (sigma (1 - progress))^2), then each is removed with probability `toggle_rate`;
        with the same probability each absent one appears, near its initial value, with deviation sigma
        of parents and children those live on that come first in non-dominated sorting, and of the last front that
        has room those of the largest crowding distance

    Of candidates that are equal in both objectives one counts and the others come last: networks without weights, who
    are many and all equal, would else crowd out those that do not yet beat them.

    Tournaments, sorting and crowding distances are DEAP's (`selTournamentDCD`, `selNSGA2`), on objectives of the whole
    population; crossover and mutation act on stacks. In the first population row k keeps each of the initial weights
    with probability 1 - k / P.

    The model is the network of least loss. It is always kept, so its objective before the update is known and is the
    step's `loss`; the best loss never rises. The front of the last generation is an artefact, `front`: loss on the
    training set and number of weights. A generation costs 2 P evaluations; absent weights save none of them, since the
    networks are evaluated as dense ones.

    Args:
        population: P, a multiple of 4 (DEAP's tournaments) and at least 8.
        crossover_rate: probability that a child has two parents.
        sigma: standard deviation of mutations, and of weights that appear around their initial values.
        toggle_rate: probability that a weight is removed, or appears.

    Raises:
        AltpropError: for values outside these.

    Paper: Deb, Pratap, Agarwal and Meyarivan 2002, A fast and elitist multiobjective genetic algorithm: NSGA-II. Their
    simulated binary crossover would fill in what one parent lacks, so genes are exchanged whole.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    batch = BatchMode.FULL
    state: ClassVar[tuple[str, ...]] = ("genomes", "losses", "start")

    def __init__(
        self, population: int = 40, crossover_rate: float = 0.9, sigma: float = 0.1, toggle_rate: float = 0.01
    ) -> None:
        self.population = check_whole(population, "algorithm.population", 8)
        if population % 4:
            raise AltpropError(f"algorithm.population must be a multiple of 4; got {population}")
        self.crossover_rate = check_number(crossover_rate, "algorithm.crossover_rate", 0.0, 1.0)
        self.sigma = check_number(sigma, "algorithm.sigma", above=0.0)
        self.toggle_rate = check_number(toggle_rate, "algorithm.toggle_rate", 0.0, 1.0)
        self.start: Tensor
        self.genomes: Tensor
        self.losses: Tensor

    def _setup(self, problem: Problem) -> None:
        start = self.start = problem.flat()
        share = torch.arange(self.population, dtype=start.dtype, device=start.device) / self.population
        self.genomes = start * (problem.random.uniform(self.population, start.numel()) >= share[:, None])
        self.losses = torch.full_like(share, torch.inf)

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem, random = self.problem, self.problem.random
        seen = refresh_statistics(problem, batch)
        with problem.same_noise():
            old = fitness(problem, self.genomes, batch)
            parents = self.genomes[random.each(_tournaments, old, sizes(self.genomes))]
            children = self._children(parents, random)
            everyone = torch.cat([self.genomes, children])
            values = torch.cat([old, fitness(problem, children, batch)])
        kept = random.each(_survivors, values, sizes(everyone))
        kept = kept[values[kept].argsort(stable=True)]
        self.genomes, self.losses = everyone[kept], values[kept]
        problem.assign(self.genomes[0])
        scalars = {"best_fitness": values.min(), "mean_fitness": values.mean()}
        scalars |= {"weights": sizes(self.genomes)[0], "mean_weights": sizes(self.genomes).mean()}
        return StepResult(old[0].clone() if seen is None else seen, scalars)

    def _children(self, parents: Tensor, random: Random) -> Tensor:
        """Return a child (P, D) of each parent (P, D) with its neighbour, 0 with 1, 2 with 3 and so on."""
        neighbours = parents.reshape(-1, 2, parents.shape[1]).flip(1).reshape(parents.shape)
        crossed = random.uniform(len(parents), 1) < self.crossover_rate
        children = torch.where(crossed, uniform_crossover(parents, neighbours, random), parents)
        present = children != 0
        moved = gaussian_mutation(children, self.sigma * (1 - self.problem.progress), 1.0, random)
        new = self.start + self.sigma * random.normal(*children.shape)
        toggled = random.uniform(*children.shape) < self.toggle_rate
        return torch.where(present != toggled, torch.where(present, moved, new), 0.0)

    def artefacts(self) -> dict[str, Any]:
        """Return the Pareto front of the last generation: loss on the training set, and number of weights."""
        points = zip(self.losses.tolist(), sizes(self.genomes).tolist(), strict=True)
        front = pareto([(loss, int(size), "") for loss, size in points])
        return {"front": {"loss": [loss for loss, _, _ in front], "weights": [size for _, size, _ in front]}}

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that a known front is found, that nobody is kept whom a discarded one dominates, and fresh fitness."""
        return (
            Oracle("a known front is found, point by point", lambda: _from_known_front(60), 1e-12),
            Oracle("not in two generations", lambda: _from_known_front(2), 1e-2, differs=True),
            Oracle("nobody lives on whom a discarded one dominates", lambda: _dominated(kept=True), 0.0),
            Oracle("not the other way round", lambda: _dominated(kept=False), 0.0, differs=True),
            Oracle("fitness is of the present batch", lambda: checks.staleness(cls), 1e-14),
            Oracle("the best full-batch fitness never rises", lambda: checks.rise(cls), 1e-14),
        )


def sizes(genomes: Tensor) -> Tensor:
    """Return the number of weights that are not 0 in each row (P, D), (P,)."""
    return (genomes != 0).sum(1).to(genomes.dtype)


class Candidate:
    """A row of a population with both objectives, as DEAP's selections take it."""

    __slots__ = ("fitness", "row")

    def __init__(self, row: int, loss: float, size: float) -> None:
        self.row, self.fitness = row, LossAndSize((min(loss, MOST), size))


def _candidates(losses: Tensor, counts: Tensor) -> list[Candidate]:
    both = zip(losses.tolist(), counts.tolist(), strict=True)
    return [Candidate(row, loss, size) for row, (loss, size) in enumerate(both)]


def _rows(chosen: list[Candidate], like: Tensor) -> Tensor:
    return torch.tensor([one.row for one in chosen], device=like.device)


def _tournaments(random: Random, losses: Tensor, counts: Tensor) -> Tensor:
    """Return the rows of as many winners of crowded tournaments as there are candidates (P,)."""
    candidates = tools.selNSGA2(_candidates(losses, counts), len(losses))  # which gives each its crowding distance
    with random.as_global():
        return _rows(tools.selTournamentDCD(candidates, len(candidates)), losses)


def _survivors(random: Random, losses: Tensor, counts: Tensor) -> Tensor:
    """Return the rows of the better half of 2 P candidates, (P,), equals after all others."""
    candidates, wanted = _candidates(losses, counts), len(losses) // 2
    different = list({one.fitness.values: one for one in reversed(candidates)}.values())[::-1]
    chosen = tools.selNSGA2(different, min(wanted, len(different)))
    rows = {one.row for one in different}
    equals = [one for one in candidates if one.row not in rows]
    return _rows([*chosen, *equals[: wanted - len(chosen)]], losses)


def _from_known_front(steps: int) -> float:
    """Return how far a front is from the true one where weight i of 6, if it is absent, costs 2^-i.

    The best that k weights can do is to be the first k, so the loss is 2^(1 - k) - 2^-5.
    """
    problem, batch = toy_point([0.0] * 6, [1.0] * 6)
    costs = 0.5 ** torch.arange(6, dtype=torch.float64, device="cpu")
    checks.pose(problem, lambda flat: (costs * (flat == 0)).sum(1))
    learner = set_up(NSGA2(20, toggle_rate=0.1), problem)
    for _ in range(steps):
        learner.step(batch)
    front: dict[str, list[float]] = learner.artefacts()["front"]
    found = dict(zip(front["weights"], front["loss"], strict=True))
    return max(abs(found.get(k, 9.0) - (2.0 ** (1 - k) - 2.0**-5)) for k in range(7))


def _dominated(*, kept: bool, count: int = 40) -> float:
    """Return how many of those that live on are dominated by others, or how many of the others by them."""
    random = Random(0, "cpu", torch.float64)
    losses, counts = random.uniform(count), random.integers(0, 30, count).double()
    chosen = torch.zeros(count, dtype=torch.bool, device="cpu")
    chosen[_survivors(random, losses, counts)] = True
    no_worse = (losses[:, None] <= losses) & (counts[:, None] <= counts)
    better = no_worse & ((losses[:, None] < losses) | (counts[:, None] < counts))
    return float((better[~chosen][:, chosen] if kept else better[chosen][:, ~chosen]).sum())
