"""Particle swarm optimization with inertia, and a global or a ring neighbourhood."""

from typing import ClassVar

import torch
from torch import Tensor

from altprop import Algorithm, Batch, Oracle, PredictorKind, Problem, StepResult, check_name, check_number, check_whole
from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.genetic import Genetic
from altprop.algorithms.evolutionary.population import fitness, refresh_statistics

NEIGHBOURHOODS = ("all", "ring")


class ParticleSwarm(Algorithm):
    """Let particles fly towards the best place that each has seen, and the best that its neighbours have seen.

    One step is one generation. With places x_i, velocities v_i, own best places p_i, best p of the neighbours g_i, and
    r, s uniform in [0, 1) for each gene:

        v_i <- `inertia` v_i + `own` r (p_i - x_i) + `social` s (g_i - x_i),  x_i <- x_i + v_i

    where no velocity exceeds `fastest` in any gene. The defaults are Clerc and Kennedy's constriction, under which a
    swarm converges on one function; on mini-batches its best places jump, and without the bound it explodes.

    Places and best places are both evaluated on the step's batch, 2 P evaluations a generation, so that no best place
    lives on a lucky batch; on full batches the best fitness never rises. The model is the best place; it is evaluated
    anew before the swarm moves, so its objective is known and is the step's `loss`.

    Args:
        population: P, at least 3.
        inertia: what is left of a velocity.
        own: pull of the own best place.
        social: pull of the neighbours' best place.
        neighbourhood: all, or ring (oneself and the two beside).
        fastest: largest velocity of a gene, in units of `sigma`.
        sigma: standard deviation of the first places around the initial weights, and of the first velocities.

    Raises:
        AltpropError: for values outside these.

    Paper: Kennedy and Eberhart 1995, Particle swarm optimization; inertia: Shi and Eberhart 1998; constriction: Clerc
    and Kennedy 2002, The particle swarm: explosion, stability, and convergence in a multidimensional complex space.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    state: ClassVar[tuple[str, ...]] = ("places", "velocities", "best", "model_row")

    def __init__(
        self,
        population: int = 20,
        inertia: float = 0.7298,
        own: float = 1.49618,
        social: float = 1.49618,
        neighbourhood: str = "all",
        fastest: float = 1.0,
        sigma: float = 0.1,
    ) -> None:
        self.population = check_whole(population, "algorithm.population", 3)
        self.inertia = check_number(inertia, "algorithm.inertia", 0.0, below=1.0)
        self.own = check_number(own, "algorithm.own", 0.0)
        self.social = check_number(social, "algorithm.social", 0.0)
        self.ring = check_name(neighbourhood, "algorithm.neighbourhood", NEIGHBOURHOODS) == "ring"
        self.sigma = check_number(sigma, "algorithm.sigma", above=0.0)
        self.fastest = check_number(fastest, "algorithm.fastest", above=0.0)
        self.places: Tensor
        self.velocities: Tensor
        self.best: Tensor
        self.model_row: Tensor

    def _setup(self, problem: Problem) -> None:
        start, random = problem.flat(), problem.random
        self.best = start + self.sigma * random.normal(self.population, start.numel())
        self.best[0] = start
        self.velocities = self.sigma * random.normal(self.population, start.numel())
        self.places = self.best + self.velocities
        self.model_row = torch.zeros(1, dtype=torch.int64, device=problem.device)

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        refresh_statistics(problem, batch)
        values = fitness(problem, torch.cat([self.best, self.places]), batch)
        old, new = values[: self.population], values[self.population :]
        loss = old[self.model_row][0]
        won = new < old
        self.best, kept = torch.where(won[:, None], self.places, self.best), torch.where(won, new, old)
        self.model_row = kept.argsort(stable=True)[:1]
        problem.assign(self.best[self.model_row][0])
        self._move(self.best[self._leaders(kept)])
        return StepResult(loss, {"best_fitness": values.min(), "mean_fitness": values.mean()})

    def _leaders(self, values: Tensor) -> Tensor:
        """Return whose best place pulls each particle, (P,), from the fitness of the best places, (P,)."""
        if not self.ring:
            return values.argsort(stable=True)[:1].expand(self.population)
        rows = torch.arange(self.population, device=values.device)
        near = torch.stack([rows, rows.roll(1), rows.roll(-1)])
        choice = values[near].argsort(dim=0, stable=True)[:1]
        return near.gather(0, choice)[0]

    def _move(self, leaders: Tensor) -> None:
        random, shape = self.problem.random, self.places.shape
        pull = self.own * random.uniform(*shape) * (self.best - self.places)
        follow = self.social * random.uniform(*shape) * (leaders - self.places)
        bound = self.fastest * self.sigma
        self.velocities = (self.inertia * self.velocities + pull + follow).clamp(-bound, bound)
        self.places = self.places + self.velocities

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check ranks, and that the best place never gets worse on full batches, as it does where nothing is kept."""
        return (
            *checks.of_ranks(cls),
            Oracle("the best full-batch fitness never rises", lambda: checks.rise(cls), 1e-14),
            Oracle("in a ring too", lambda: checks.rise(lambda: cls(neighbourhood="ring")), 1e-14),
            Oracle("not where every child lives", lambda: checks.rise(lambda: Genetic(elites=0)), 1e-3, differs=True),
        )
