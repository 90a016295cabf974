"""CMA-ES that begins anew where it has stopped to move, with larger populations (IPOP) or in two regimes (BIPOP)."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    Batch,
    Oracle,
    PredictorKind,
    Problem,
    StepResult,
    check_name,
    check_number,
    check_whole,
)
from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.cma_es import CMAES, COVARIANCES
from altprop.algorithms.evolutionary.population import fitness, refresh_statistics
from altprop.testing import set_up, toy_point

SCHEDULES = ("ipop", "bipop")
NARROW, CONDITION, WIDE = 1e-12, 1e14, 1e4  # Hansen's TolX, ConditionCov and TolUpSigma, in units of sigma at the start


class RestartedCMAES(Algorithm):
    """Run `cma_es` until it stagnates, then again from another place; the best individual so far is the model.

    One step is one generation of the present run. A run ends (Hansen's criteria) where the best values of the last
    10 + ceil(30 D / lambda) generations and all of the present one lie within `tolerance`; where every width is below
    1e-12 or one above 1e4 of `sigma`; where C has a condition above 1e14; or after 100 + 50 (D + 3)^2 / sqrt(lambda)
    generations. The next one starts at theta_0 + `region` u, u uniform in [-1, 1]^D and theta_0 the initial weights:

        ipop   lambda doubles with every restart
        bipop  doubles once, and then whichever regime has spent fewer evaluations: lambda doubled, as above; or
               lambda = floor(lambda_0 (lambda_large / (2 lambda_0))^(v^2)) with sigma 10^(-2 w), v and w uniform in
               [0, 1], for at most half as many evaluations as the last large run

    The best individual of all runs is the model, a point and not a mean: a mean that starts anew is no model. It is
    evaluated on every batch beside the generation, so that the two are compared on one; its objective there is the
    step's `loss`. On full batches it never rises. On mini-batches the values of a run do not come to lie within
    `tolerance`, and the choice among noisy values is optimistic: evaluate on held-out data.

    Args:
        schedule: ipop or bipop.
        region: half the side of the cube in which runs start, in units of the parameters.
        population: lambda_0, at least 4; null for 4 + floor(3 ln D).
        sigma: width at the start of each run.
        covariance, most_parameters: as in `cma_es`.
        tolerance: see above, in units of the objective.

    Raises:
        AltpropError: for values outside these.

    Paper: Auger and Hansen 2005, A restart CMA evolution strategy with increasing population size; Hansen 2009,
    Benchmarking a BI-population CMA-ES on the BBOB-2009 function testbed, without its further criterion of stagnating
    medians and with the same number of generations in both regimes.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    not_stacked: ClassVar[str] = "the size of its population depends on when it stagnates"
    state: ClassVar[tuple[str, ...]] = (
        "search", "mean", "elite", "start", "history", "offspring", "width", "large", "small", "last_large", "spent",
        "restarts", "generation",
    )  # fmt: skip

    def __init__(
        self,
        schedule: str = "ipop",
        region: float = 0.5,
        population: int | None = None,
        sigma: float = 0.05,
        covariance: str = "full",
        most_parameters: int = 1000,
        tolerance: float = 1e-12,
    ) -> None:
        self.schedule = check_name(schedule, "algorithm.schedule", SCHEDULES)
        self.region = check_number(region, "algorithm.region", above=0.0)
        self.population = None if population is None else check_whole(population, "algorithm.population", 4)
        self.sigma = check_number(sigma, "algorithm.sigma", above=0.0)
        self.covariance = check_name(covariance, "algorithm.covariance", COVARIANCES)
        self.most_parameters = check_whole(most_parameters, "algorithm.most_parameters", 1)
        self.tolerance = check_number(tolerance, "algorithm.tolerance", 0.0)
        self.search: CMAES
        self.mean: Tensor
        self.elite: Tensor
        self.start: Tensor
        self.history: list[float]

    def _setup(self, problem: Problem) -> None:
        self.start = problem.flat()
        self.elite = self.mean = self.start
        self.first = self.population or 4 + math.floor(3 * math.log(self.start.numel()))
        self.large, self.spent, self.restarts = self.first, [0, 0], 0
        self.small, self.last_large = False, 0
        self._begin(self.first, self.sigma)

    def _begin(self, offspring: int, width: float) -> None:
        """Begin a run from the present mean."""
        self.offspring, self.width = offspring, width
        self.search = CMAES(offspring, width, self.covariance, self.most_parameters)
        self.search.problem = self.problem
        self.search._setup(self.problem)
        self.history, self.generation = [], 0
        size = self.start.numel()
        self.most = math.ceil(100 + 50 * (size + 3) ** 2 / math.sqrt(offspring))
        self.span = 10 + math.ceil(30 * size / offspring)

    def _structure(self, saved: Mapping[str, Any]) -> None:
        self._begin(saved["offspring"], saved["width"])

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        loss = refresh_statistics(problem, batch)
        known = fitness(problem, self.elite[None], batch)[0]
        sigma = self.search.sigma
        self.mean, points, values = self.search.evolve(self.mean, batch)
        least = values.min()
        if bool(least < known):
            self.elite = points[values.argmin()].clone()
        problem.assign(self.elite)
        scalars: dict[str, float | Tensor] = {"best_fitness": torch.minimum(least, known), "sigma": sigma}
        scalars |= {"mean_fitness": values.mean(), "population": self.offspring, "restarts": self.restarts}
        self.generation += 1
        self.spent[self.small] += self.offspring
        self.history = [*self.history, float(least)][-self.span :]
        if self._has_stopped(values):
            self._restart()
        return StepResult(known if loss is None else loss, scalars)

    def _has_stopped(self, values: Tensor) -> bool:
        """Return whether this run leads nowhere any more; values that are no numbers are no progress."""
        evaluations = self.generation * self.offspring
        if self.generation >= self.most or (self.small and 2 * evaluations >= self.last_large):
            return True
        if len(self.history) == self.span:
            both = [*self.history, *values.tolist()]
            if not max(both) - min(both) > self.tolerance:
                return True
        search = self.search
        widths = search.covariance.diagonal() if search.full else search.covariance
        largest = float(search.sigma * torch.maximum(widths.max().sqrt(), search.shape_path.abs().max()))
        if not self.width * NARROW < largest < self.width * WIDE:
            return True
        if self.generation % search.gap:
            return False
        with self.problem.ledger.work("condition", per="call"):
            squares = torch.linalg.eigvalsh(search.covariance) if search.full else widths.sort().values
        return not float(squares[-1]) < CONDITION * float(squares[0])

    def _restart(self) -> None:
        random = self.problem.random
        if not self.small:
            self.last_large = self.generation * self.offspring
        self.restarts += 1
        self.mean = self.start + self.region * (2 * random.uniform(self.start.numel()) - 1)
        large, small = self.spent
        self.small = self.schedule == "bipop" and self.restarts > 1 and small < large
        if self.small:
            power, narrowing = random.uniform(2).tolist()
            offspring = math.floor(self.first * (self.large / (2 * self.first)) ** (power**2))
            self._begin(offspring, self.sigma * 10 ** (-2 * narrowing))
        else:
            self.large *= 2
            self._begin(self.large, self.sigma)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that a run is cma_es's up to its end, and that what it hands out never gets worse."""
        return (
            Oracle("until the first restart it is cma_es", lambda: _from_plain(1e-12), 0.0),
            Oracle("not after it", lambda: _from_plain(10.0), 1e-3, differs=True),
            Oracle("the best full-batch fitness never rises", lambda: checks.rise(cls), 1e-14),
            Oracle("f and 7 log1p(f) - 3 give one run", lambda: checks.rank_difference(cls, checks.squashed), 0.0),
            Oracle(
                "not f and -f give one run", lambda: checks.rank_difference(cls, checks.negated), 1e-3, differs=True
            ),
            Oracle("the origin may lie anywhere", lambda: checks.translation_difference(cls), 1e-10),
        )


def _from_plain(tolerance: float, steps: int = 60) -> float:
    """Return how far the mean is from that of cma_es under the same draws."""
    start = [0.5, -1.0, 1.5, 0.3, -0.2, 0.8]
    ends = []
    for learner in (CMAES(), RestartedCMAES(tolerance=tolerance)):
        problem, batch = toy_point([0.0] * 6, start)
        checks.pose(problem, checks.rosenbrock)
        set_up(learner, problem)
        for _ in range(steps):
            learner.step(batch)
        ends.append(problem.flat() if isinstance(learner, CMAES) else learner.mean)
    return float((ends[0] - ends[1]).abs().max())
