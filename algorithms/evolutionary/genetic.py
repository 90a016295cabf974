"""A generational genetic algorithm on real-valued parameters."""

import math
from functools import partial
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
from altprop.algorithms.evolutionary.population import fitness, individuals, refresh_statistics, tournament

SELECTIONS = ("tournament", "truncation")
MUTATIONS = ("gaussian", "self_adaptive")


def uniform_crossover(first: Tensor, second: Tensor, random: Random) -> Tensor:
    """Return children (K, D) that take each gene from either parent with equal probability (Syswerda 1989)."""
    # Between 0 and 1 this is a choice, in a third of the time that torch.where takes by a mask without order.
    return torch.lerp(second, first, (random.uniform(*first.shape) < 0.5).to(first.dtype))


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


def blend_crossover(first: Tensor, second: Tensor, random: Random) -> Tensor:
    """Return children (K, D) of genes from the interval between the parents, half as long again on either side.

    This is BLX-.5 (Eshelman and Schaffer 1993), one of the two children that DEAP's `cxBlend` makes of a pair.
    """
    share = 2 * random.uniform(*first.shape) - 0.5
    return (1 - share) * first + share * second


def simulated_binary_crossover(first: Tensor, second: Tensor, random: Random, eta: float = 20.0) -> Tensor:
    """Return the children (K, D) of pairs that lie on the side of the first parent.

    With u from U(0, 1) for each gene, beta = (2 u)^(1 / (eta + 1)) up to u = 1/2 and (2 - 2 u)^(-1 / (eta + 1)) above,
    the child is ((1 + beta) first + (1 - beta) second) / 2 (Deb and Agrawal 1995). A pair in the other order and with
    the same u has the child of the other side, and both together have their parents' mean.
    """
    u = random.uniform(*first.shape)
    beta = torch.where(u <= 0.5, 2 * u, 1 / (2 - 2 * u)) ** (1 / (eta + 1))
    return ((1 + beta) * first + (1 - beta) * second) / 2


CROSSOVERS = {
    "uniform": uniform_crossover,
    "two_point": two_point_crossover,
    "blend": blend_crossover,
    "sbx": simulated_binary_crossover,
}


def log_normal(widths: Tensor, size: int, random: Random) -> Tensor:
    """Return widths after a step of self-adaptation, one of each of K individuals (K, 1) or one of each gene (K, D).

        one    sigma <- sigma exp(N(0, 1 / D))
        each   sigma_i <- sigma_i exp(N(0, 1 / 2D) + N_i(0, 1 / (2 sqrt(D)))), the first draw common to all genes

    These are Schwefel's step lengths (Beyer and Schwefel 2002), as in DEAP's `mutESLogNormal` with c = 1.

    Args:
        widths: see above.
        size: D.
        random: what to draw from.
    """
    common = random.normal(len(widths), 1)
    if widths.shape[1] == 1:
        return widths * (common / math.sqrt(size)).exp()
    own = random.normal(*widths.shape)
    return widths * (common / math.sqrt(2 * size) + own / math.sqrt(2 * math.sqrt(size))).exp()


def gaussian_mutation(children: Tensor, sigma: float | Tensor, rate: float, random: Random) -> Tensor:
    """Return children (K, D) with N(0, sigma^2) added to each gene with probability `rate`."""
    change = random.normal(*children.shape).mul_(sigma)
    if rate < 1:
        change = change * (random.uniform(*children.shape) < rate)
    return change.add_(children)


class Genetic(Algorithm):
    """Select, cross and mutate a population of parameter points; the best one is the model.

    One step is one generation. The whole population, survivors included, is evaluated on the step's batch; the `elites`
    best live on unchanged; the others are replaced by children of selected pairs. Gaussian mutation narrows with the
    budget, sigma (1 - progress), so that the search ends fine. Where it is self_adaptive every individual has a width
    of its own, `sigma` at first, which a child has from its first parent and changes by `log_normal` before it mutates:
    with D parameters by some 1 / sqrt(D) a generation, slowly in large nets.

    The model is the best individual on the latest batch. It is the first elite, so its objective on the next batch
    before the update is known and is the step's `loss`; without elites it is None. On full batches the best fitness
    never rises; on mini-batches the choice among noisy values is optimistic, so evaluate on held-out data.

    Args:
        population: individuals, at least 2.
        elites: how many survive unchanged, fewer than `population`.
        selection: tournament, or truncation to the best.
        pressure: individuals in a tournament, or survivors of the truncation.
        crossover: uniform, two_point, blend or sbx (simulated binary).
        crossover_rate: probability that a child has two parents.
        sigma: standard deviation of mutations, and of the first population around the initial weights.
        mutation_rate: probability that a gene mutates.
        mutation: gaussian or self_adaptive.
        eta: of sbx; the larger, the nearer are children to their parents (20 in Deb et al. 2002).

    Raises:
        AltpropError: for values outside these.

    Paper: Holland 1975, Adaptation in natural and artificial systems; on network weights: Montana and Davis 1989,
    Training feedforward neural networks using genetic algorithms; sbx: Deb and Agrawal 1995, Simulated binary crossover
    for continuous search space; blend: Eshelman and Schaffer 1993, Real-coded genetic algorithms and
    interval-schemata; self-adaptation: Schwefel 1981, Numerical optimization of computer models. DEAP's own operators
    copy single individuals and draw from global `random`; here all act on stacks and draw from the run's stream, and
    tournaments choose whom DEAP's would.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    state: ClassVar[tuple[str, ...]] = ("genomes", "fitness", "generation", "widths")

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
        mutation: str = "gaussian",
        eta: float = 20.0,
    ) -> None:
        self.population = check_whole(population, "algorithm.population", 2)
        self.elites = check_whole(elites, "algorithm.elites", 0)
        self.pressure = check_whole(pressure, "algorithm.pressure", 1)
        if elites >= population:
            raise AltpropError(f"algorithm.elites must be fewer than population={population}; got {elites}")
        self.selection = check_name(selection, "algorithm.selection", SELECTIONS)
        self.cross = CROSSOVERS[check_name(crossover, "algorithm.crossover", CROSSOVERS)]
        if crossover == "sbx":
            self.cross = partial(simulated_binary_crossover, eta=check_number(eta, "algorithm.eta", 0.0))
        if selection == "truncation" and pressure > population:
            raise AltpropError(f"algorithm.pressure must be at most population={population}; got {pressure}")
        self.crossover_rate = check_number(crossover_rate, "algorithm.crossover_rate", 0.0, 1.0)
        self.sigma = check_number(sigma, "algorithm.sigma", above=0.0)
        self.mutation_rate = check_number(mutation_rate, "algorithm.mutation_rate", above=0.0, high=1.0)
        self.adapts = check_name(mutation, "algorithm.mutation", MUTATIONS) == "self_adaptive"
        self.genomes: Tensor
        self.fitness: Tensor
        self.widths: Tensor | None = None
        self.generation = 0

    def _setup(self, problem: Problem) -> None:
        start = problem.flat()
        self.genomes = start + self.sigma * problem.random.normal(self.population, start.numel())
        self.genomes[0] = start
        if self.adapts:
            self.widths = torch.full_like(self.genomes[:, :1], self.sigma)
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
        best = ranked[: self.elites]
        children, widths = self._children(values)
        self.genomes = torch.cat([self.genomes[best], children])
        if self.widths is not None and widths is not None:
            self.widths = torch.cat([self.widths[best], widths])
        self.generation += 1
        return StepResult(loss, {"best_fitness": values.min(), "mean_fitness": values.mean()})

    def _children(self, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return children (P - elites, D) and their widths (P - elites, 1), where they have some."""
        random, count = self.problem.random, self.population - self.elites
        chosen = random.each(self._selected, values)
        first, second = (self.genomes.index_select(0, rows) for rows in (chosen[:count], chosen[count:]))
        children = self.cross(first, second, random)
        if self.crossover_rate < 1:
            crossed = random.uniform(count, 1) < self.crossover_rate
            children = torch.where(crossed, children, first)
        if self.widths is None:
            sigma = self.sigma * (1 - self.problem.progress)
            return gaussian_mutation(children, sigma, self.mutation_rate, random), None
        widths = log_normal(self.widths[chosen[:count]], children.shape[1], random)
        return gaussian_mutation(children, widths, self.mutation_rate, random), widths

    def _selected(self, random: Random, values: Tensor) -> Tensor:
        """Choose two parents for each child, from the fitness of each row (P,); return their rows."""
        count = 2 * (self.population - self.elites)
        if self.selection == "tournament":
            return tournament(values, count, self.pressure, random)
        return values.argsort(stable=True)[random.integers(0, self.pressure, count)]

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that only ranks count, elites never get worse on full batches, and a generation has its own batch.

        Operators have the laws that their papers give.
        """
        both = partial(cls, crossover="sbx", mutation="self_adaptive")
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
            Oracle("tournaments are DEAP's, draw for draw", lambda: _from_deap(3), 0.0),
            Oracle("not those of another size", lambda: _from_deap(4), 1e-3, differs=True),
            Oracle("sbx, self-adaptive: one run", lambda: checks.rank_difference(both, checks.squashed), 0.0),
            Oracle("sbx, self-adaptive: the origin", lambda: checks.translation_difference(both), 1e-10),
            Oracle("sbx: the pair has its parents' mean", lambda: _mean_of_pairs(2), 1e-14),
            Oracle("not the other child with its own draws", lambda: _mean_of_pairs(3), 1e-3, differs=True),
            Oracle("sbx: the spread has Deb's law, D sqrt(n) < 2", lambda: _from_spread_law(20.0), 2.0),
            Oracle("not that of another eta", lambda: _from_spread_law(10.0), 2.0, differs=True),
        )


def _from_deap(size: int) -> float:
    """Return the share of rows in which tournaments of `size` differ from DEAP's of 3, with equal values among them."""
    ours, theirs = Random(0, "cpu", torch.float64), Random(0, "cpu", torch.float64)
    wrong = 0
    for count in (1, 2, 5, 64, 100):
        values = ours.normal(count).round(decimals=1)
        with theirs.as_global():
            chosen = tools.selTournament(individuals(values), 200, tournsize=3)
        wrong += int((tournament(values, 200, size, ours).cpu() != torch.tensor([one.row for one in chosen])).sum())
    return wrong / 1000


def _mean_of_pairs(seed: int) -> float:
    """Return how far the mean of both children of pairs is from their parents', with stream 2 and another one."""
    first, second = Random(1, "cpu", torch.float64).normal(2, 50, 7).unbind()
    streams = (Random(2, "cpu", torch.float64), Random(seed, "cpu", torch.float64))
    one = simulated_binary_crossover(first, second, streams[0])
    other = simulated_binary_crossover(second, first, streams[1])
    return float((one + other - first - second).abs().max())


def _from_spread_law(eta: float, count: int = 20000) -> float:
    """Return sqrt(n) times the largest distance of the spread's distribution from that of eta = 20.

    With parents 1 and -1 a child lies at its spread, whose distribution function is beta^(eta + 1) / 2 up to 1 and
    1 - beta^-(eta + 1) / 2 above. By Kolmogorov's law 2 is exceeded with probability 7e-4.
    """
    ones = torch.ones(count, 1, dtype=torch.float64, device="cpu")
    spread = simulated_binary_crossover(ones, -ones, Random(0, "cpu", torch.float64), eta)[:, 0].sort().values
    power = spread**21
    law = torch.where(spread <= 1, power / 2, 1 - 1 / (2 * power))
    place = torch.arange(count, dtype=torch.float64, device="cpu") / count
    return float(torch.maximum((law - place).abs(), (law - place - 1 / count).abs()).max()) * math.sqrt(count)
