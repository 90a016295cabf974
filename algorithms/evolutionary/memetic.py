"""A genetic algorithm whose individuals learn by backpropagation before they are selected."""

from typing import ClassVar

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    AltpropError,
    Batch,
    Capability,
    Oracle,
    PredictorKind,
    Problem,
    StepResult,
    check_name,
    check_number,
    check_whole,
)
from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.genetic import gaussian_mutation, uniform_crossover
from altprop.algorithms.evolutionary.population import fitness, refresh_statistics
from altprop.testing import ended_apart, set_up, toy

INHERITANCES = ("lamarckian", "baldwinian")


class Memetic(Algorithm):
    """Let every individual take a few gradient steps, and select by what it has become.

    One step is one generation. With genomes theta_k (P, D), `refinements` K and `rate` eta, on the step's batch:

        phi_k <- theta_k, then K times phi_k <- phi_k - eta dL/dphi_k
        f_k = L(phi_k)
        lamarckian  what was learnt is inherited: theta_k <- phi_k
        baldwinian  it is not: theta_k stays, but is selected by f_k

    The `elites` best genomes live on; the others are replaced by children of pairs, each parent the better of two drawn
    at random, by uniform crossover of half of the pairs and N(0, (sigma (1 - progress))^2) on every gene. The model is
    phi of the best individual, with what it has learnt.

    A generation costs P K gradients, counted as such: at equal FLOPs backprop takes P K steps for it. `loss` is the
    model's objective on this batch before the step where what was learnt is inherited; else it is None, since the model
    is no genome. Everything inside a step is evaluated under one noise.

    Args:
        population: P, at least 1.
        elites: how many genomes survive, at least 1 and at most P.
        inheritance: lamarckian or baldwinian.
        refinements: K, gradient steps of each individual in each generation; 0 is a plain genetic algorithm.
        rate: eta.
        sigma: standard deviation of mutations, and of the first population around the initial weights.

    Raises:
        AltpropError: for values outside these.

    Paper: Moscato 1989, On evolution, search, optimization, genetic algorithms and martial arts: towards memetic
    algorithms; Hinton and Nowlan 1987, How learning can guide evolution (Baldwin); Whitley, Gordon and Mathias 1994,
    Lamarckian evolution, the Baldwin effect and function optimization.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT})
    kind: ClassVar[PredictorKind] = PredictorKind.OUTPUT
    state: ClassVar[tuple[str, ...]] = ("genomes",)

    def __init__(
        self,
        population: int = 8,
        elites: int = 2,
        inheritance: str = "lamarckian",
        refinements: int = 2,
        rate: float = 0.1,
        sigma: float = 0.02,
    ) -> None:
        self.population = check_whole(population, "algorithm.population", 1)
        self.elites = check_whole(elites, "algorithm.elites", 1)
        if elites > population:
            raise AltpropError(f"algorithm.elites must be at most population={population}; got {elites}")
        self.inherited = check_name(inheritance, "algorithm.inheritance", INHERITANCES) == "lamarckian"
        self.refinements = check_whole(refinements, "algorithm.refinements", 0)
        self.rate = check_number(rate, "algorithm.rate", above=0.0)
        self.sigma = check_number(sigma, "algorithm.sigma", above=0.0)
        self.genomes: Tensor

    def _setup(self, problem: Problem) -> None:
        start = problem.flat()
        others = start + self.sigma * problem.random.normal(self.population - 1, start.numel())
        self.genomes = torch.cat([start[None], others])

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        seen = refresh_statistics(problem, batch)
        with problem.same_noise():
            refined, before = zip(*(self._refined(genome, batch) for genome in self.genomes.unbind()), strict=True)
            learnt = torch.stack(refined)
            values = fitness(problem, learnt, batch)
        ranked = values.argsort(stable=True)
        problem.assign(learnt[ranked[:1]][0])
        parents = learnt if self.inherited else self.genomes
        self.genomes = torch.cat([parents[ranked[: self.elites]], self._children(parents[ranked])])
        loss = before[0] if self.inherited and self.refinements else None
        return StepResult(loss if seen is None else seen, {"best_fitness": values.min(), "mean_fitness": values.mean()})

    def _refined(self, genome: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return phi (D,) of a genome (D,), and its objective before it learnt."""
        problem, first = self.problem, None
        for _ in range(self.refinements):
            problem.assign(genome, update=False)
            value, gradient = problem.gradient(batch)
            genome = genome - self.rate * problem.flatten(gradient)
            first = value.detach() if first is None else first
        return genome, first

    def _children(self, parents: Tensor) -> Tensor:
        """Return children (P - elites, D) of parents (P, D), which come with the best first."""
        random, count = self.problem.random, self.population - self.elites
        chosen = random.integers(0, self.population, 2, count, 2).amin(2)  # the better of two has the lower rank
        first, second = parents[chosen[0]], parents[chosen[1]]
        crossed = random.uniform(count, 1) < 0.5
        children = torch.where(crossed, uniform_crossover(first, second, random), first)
        return gaussian_mutation(children, self.sigma * (1 - self.problem.progress), 1.0, random)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that one Lamarckian individual is gradient descent, that one of Baldwin's learns all of it anew."""
        return (
            Oracle("alone, Lamarckian: gradient descent", lambda: _from_descent("lamarckian", 10), 1e-15),
            Oracle("not Baldwinian", lambda: _from_descent("baldwinian", 10), 1e-3, differs=True),
            Oracle("alone, Baldwinian: the first steps again", lambda: _from_descent("baldwinian", 2), 1e-15),
            Oracle("the origin may lie anywhere", lambda: checks.translation_difference(cls), 1e-10),
            Oracle("fitness is of the present batch", lambda: checks.staleness(cls), 1e-14),
            Oracle("the best full-batch fitness never rises", lambda: checks.rise(cls), 1e-14),
            Oracle("nor where nothing is inherited", lambda: checks.rise(lambda: cls(inheritance="baldwinian")), 1e-14),
        )


def _from_descent(inheritance: str, descents: int, steps: int = 5) -> float:
    """Return how far a run of one individual is from so many steps of gradient descent at .3 on the same full batch."""
    (problem, batch), (other, _) = toy(seed=3), toy(seed=3)
    learner = set_up(Memetic(1, 1, inheritance, 2, 0.3), problem)
    for _ in range(steps):
        learner.step(batch)
    for _ in range(descents):
        other.assign(other.flat() - 0.3 * other.flatten(other.gradient(batch)[1]))
    return ended_apart(problem, other)
