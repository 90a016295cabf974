"""(mu + lambda) and (mu, lambda) evolution strategies: widths that are inherited, or Rechenberg's 1/5 rule."""

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
from altprop.algorithms.evolutionary.genetic import gaussian_mutation, log_normal
from altprop.algorithms.evolutionary.population import fitness, refresh_statistics
from altprop.testing import set_up, toy_point

SELECTIONS = ("comma", "plus")
ADAPTATIONS = ("one", "each", "fifth")
RECOMBINATIONS = ("none", "discrete", "intermediate")


class MuLambdaES(Algorithm):
    """Mutate mu parents lambda times, each child with its own width, and keep the mu best.

    One step is one generation. A child x of width sigma, of one parent drawn at random or recombined from all, becomes

        sigma' = sigma by `log_normal`,  x' = x + sigma' N(0, I)

    so that who is selected brings along the width that made it. `adaptation` each has a width for every gene. With
    `adaptation` fifth all share one width, and with p the share of children that are better than the best parent

        sigma <- sigma exp((p - 1/5) / sqrt(D + 1))

    which with one parent and one child is Rechenberg's rule (Hansen, Arnold and Auger 2015). It stands still where a
    fifth succeeds.

        comma  the mu best of the children follow: lambda evaluations a generation, and mu more where parents are judged
        plus   the mu best of parents and children follow: mu + lambda evaluations, all on the step's batch; on full
               batches the best fitness never rises

    The model is the best of those who follow. Its objective on the next batch before the update is known, and is the
    step's `loss`, where parents are evaluated (plus, fifth); else it is None. On mini-batches the choice among noisy
    values is optimistic, so evaluate on held-out data. Widths of one for all genes move by some 1 / sqrt(D) a
    generation: in large nets `sigma` decides.

    Args:
        parents: mu.
        offspring: lambda, more than `parents` for comma.
        selection: comma or plus.
        adaptation: one, each or fifth.
        recombination: none; discrete, each gene from a parent drawn at random; or intermediate, the mean. Of widths
            both take the geometric mean.
        sigma: the first width, and that of the first parents around the initial weights.

    Raises:
        AltpropError: for values outside these.

    Paper: Rechenberg 1973, Evolutionsstrategie; Schwefel 1981, Numerical optimization of computer models; Beyer and
    Schwefel 2002, Evolution strategies: a comprehensive introduction. `evolution_strategy` is the cumulative one.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    state: ClassVar[tuple[str, ...]] = ("genomes", "widths")

    def __init__(
        self,
        parents: int = 3,
        offspring: int = 20,
        selection: str = "comma",
        adaptation: str = "one",
        recombination: str = "intermediate",
        sigma: float = 0.05,
    ) -> None:
        self.parents = check_whole(parents, "algorithm.parents", 1)
        self.offspring = check_whole(offspring, "algorithm.offspring", 1)
        self.plus = check_name(selection, "algorithm.selection", SELECTIONS) == "plus"
        if not self.plus and offspring <= parents:
            raise AltpropError(f"algorithm.offspring must be more than parents={parents} for comma; got {offspring}")
        self.adaptation = check_name(adaptation, "algorithm.adaptation", ADAPTATIONS)
        self.recombination = check_name(recombination, "algorithm.recombination", RECOMBINATIONS)
        self.sigma = check_number(sigma, "algorithm.sigma", above=0.0)
        self.genomes: Tensor
        self.widths: Tensor

    def _setup(self, problem: Problem) -> None:
        start = problem.flat()
        others = start + self.sigma * problem.random.normal(self.parents - 1, start.numel())
        self.genomes = torch.cat([start[None], others])
        every = self.genomes if self.adaptation == "each" else self.genomes[:, :1]
        self.widths = torch.full_like(every, self.sigma)

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        seen = refresh_statistics(problem, batch)
        children, widths = self._children(problem.random)
        loss, told = None, fitness(problem, children, batch)
        if self.plus or self.adaptation == "fifth":
            old = fitness(problem, self.genomes, batch)
            loss, share = old[0], (told < old.min()).to(told.dtype).mean()
            if self.adaptation == "fifth":
                widths, self.widths = (self._after_success(one, share) for one in (widths, self.widths))
            if self.plus:
                told = torch.cat([old, told])
                children, widths = torch.cat([self.genomes, children]), torch.cat([self.widths, widths])
        best = told.argsort(stable=True)[: self.parents]
        self.genomes, self.widths = children[best], widths[best]
        problem.assign(self.genomes[0])
        scalars = {"best_fitness": told.min(), "mean_fitness": told.mean(), "sigma": self.widths.log().mean().exp()}
        return StepResult(loss if seen is None else seen, scalars)

    def _children(self, random: Random) -> tuple[Tensor, Tensor]:
        """Return children (lambda, D) and their widths, (lambda, 1) or (lambda, D)."""
        count, size = self.offspring, self.genomes.shape[1]
        if self.recombination == "none":
            rows = random.integers(0, self.parents, count)
            genomes, widths = self.genomes[rows], self.widths[rows]
        else:
            widths = self.widths.log().mean(0).exp().expand(count, -1)
            genomes = self.genomes.mean(0).expand(count, -1)
            if self.recombination == "discrete":
                genomes = self.genomes.gather(0, random.integers(0, self.parents, count, size))
        if self.adaptation != "fifth":
            widths = log_normal(widths, size, random)
        return gaussian_mutation(genomes, widths, 1.0, random), widths

    def _after_success(self, widths: Tensor, share: Tensor) -> Tensor:
        """Return widths after a generation in which this share of the children was better than the best parent."""
        return widths * ((share - 0.2) / math.sqrt(self.genomes.shape[1] + 1)).exp()

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check ranks, that the 1/5 rule stands still at 1/5, the law of log-normal steps and what plus keeps."""
        plus = partial(cls, selection="plus", adaptation="each", recombination="discrete")
        rechenberg = partial(cls, 1, 1, "plus", "fifth")
        return (
            *checks.of_ranks(cls),
            Oracle("plus, a width a gene: one run", lambda: checks.rank_difference(plus, checks.squashed), 0.0),
            Oracle("plus: the best full-batch fitness never rises", lambda: checks.rise(plus), 1e-14),
            Oracle("not with comma", lambda: checks.rise(lambda: cls(3, 4, sigma=0.5)), 1e-3, differs=True),
            Oracle("1/5 rule: one run", lambda: checks.rank_difference(rechenberg, checks.squashed), 0.0),
            Oracle("1/5 rule: a fifth of successes keeps the width", lambda: abs(_growth(cls, 4)), 1e-14),
            Oracle("not a quarter", lambda: abs(_growth(cls, 5)), 1e-3, differs=True),
            Oracle("steps of one width have their law: |z| < 4", lambda: _from_law(1), 4.0),
            Oracle("so have steps of a width a gene", lambda: _from_law(9), 4.0),
            Oracle("not with other lengths", lambda: _from_law(9, 1), 4.0, differs=True),
        )


def _growth(make: type[MuLambdaES], successes: int, generations: int = 5) -> float:
    """Return the change of log sigma where so many of 20 children are better than the parent in every generation."""
    problem, batch = toy_point([0.0] * 3, [1.0] * 3)
    learner = set_up(make(1, 20, "comma", "fifth"), problem)

    def told(flat: Tensor) -> Tensor:
        place = torch.arange(len(flat), device=flat.device)
        return torch.where(place < successes, 0.0, 2.0).to(flat) if len(flat) > 1 else torch.ones_like(flat[:, 0])

    checks.pose(problem, told)
    for _ in range(generations):
        learner.step(batch)
    return math.log(float(learner.widths[0]) / learner.sigma)


def _from_law(kinds: int, claimed: int | None = None, size: int = 9, count: int = 20000) -> float:
    """Return the largest |z| of mean, variance and covariance of log-normal steps against Schwefel's law.

    Args:
        kinds: widths an individual, 1 or `size`.
        claimed: those that the law is for.
        size: D.
        count: of individuals.
    """
    ones = torch.ones(count, kinds, dtype=torch.float64, device="cpu")
    steps = log_normal(ones, size, Random(0, "cpu", torch.float64)).log()
    common, own = (1 / size, 0.0) if (claimed or kinds) == 1 else (1 / (2 * size), 1 / (2 * math.sqrt(size)))
    first, last = steps[:, 0], steps[:, -1]
    products = {first: 0.0, first.square(): common + own, first * last: common if kinds > 1 else common + own}
    return max(abs(float((x.mean() - mean) / x.std())) * math.sqrt(count) for x, mean in products.items())
