"""Policy gradients with parameter-based exploration: a width for each parameter, learned from mirrored pairs."""

from typing import ClassVar

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    AltpropError,
    Batch,
    OptimizerFactory,
    Oracle,
    PredictorKind,
    Problem,
    StepResult,
    Updater,
    check_name,
    check_number,
    check_whole,
)
from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.population import centred_ranks, fitness, refresh_statistics
from altprop.testing import monte_carlo, set_up, sgd, toy_point

SHAPINGS = ("ranks", "none")


class PGPE(Algorithm):
    """Estimate the gradients of E f in the mean and in the widths of a normal distribution from mirrored pairs.

    One step is one generation. With N = `population` / 2 pairs, eps_k = sigma z_k, z_k ~ N(0, I), f_k+- = u(f(m +-
    eps_k)) and b_k the mean of u over all other pairs:

        g_m = 1/N sum_k eps_k (f_k+ - f_k-) / 2
        g_sigma = 1/N sum_k (eps_k^2 - sigma^2) / sigma ((f_k+ + f_k-) / 2 - b_k)
        m <- optimizer(g_m),  sigma <- sigma - `sigma_rate` g_sigma, by at most `most_change` of itself

    These are sigma^2 times the gradients, which is the paper's choice of rates, alpha sigma^2; g_m goes to the
    optimizer, under SGD as in the paper. u is the centred rank, from -1/2 to 1/2, or the identity (`shaping` none), for
    which both estimates are unbiased. The paper's baseline is a running mean; that of the other pairs is of the present
    batch, and leaves no bias. The bound on the change of sigma is not the paper's: without it a width may turn
    negative. A pair with an infinite value is left out. `loss` is None, but for models with running statistics.

    Args:
        optimizer: how g_m becomes an update.
        population: individuals, an even number of at least 4.
        sigma: width of every parameter at the start, in units of the parameters.
        sigma_rate: rate of the widths.
        most_change: of a width in a generation, in units of itself.
        shaping: ranks or none.

    Raises:
        AltpropError: for values outside these.

    Paper: Sehnke et al. 2010, Parameter-exploring policy gradients.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    state: ClassVar[tuple[str, ...]] = ("updater", "sigma")

    updater: Updater

    def __init__(
        self,
        optimizer: OptimizerFactory,
        population: int = 20,
        sigma: float = 0.05,
        sigma_rate: float = 0.2,
        most_change: float = 0.2,
        shaping: str = "ranks",
    ) -> None:
        self._optimizer = optimizer
        self.pairs = check_whole(population, "algorithm.population", 4) // 2
        if population % 2:
            raise AltpropError(f"algorithm.population must be even, for mirrored pairs; got {population}")
        self._start = check_number(sigma, "algorithm.sigma", above=0.0)
        self.sigma_rate = check_number(sigma_rate, "algorithm.sigma_rate", 0.0)
        self.most_change = check_number(most_change, "algorithm.most_change", 0.0, below=1.0)
        self.shaping = check_name(shaping, "algorithm.shaping", SHAPINGS)
        self.sigma: Tensor

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self._optimizer, direction="other")
        self.sigma = torch.full_like(problem.flat(), self._start)

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        loss = refresh_statistics(self.problem, batch)
        values, of_mean, of_sigma = self.estimate(batch)
        self.updater.apply(self.problem.unflatten(of_mean))
        change = self.most_change * self.sigma
        self.sigma = self.sigma - (self.sigma_rate * of_sigma).clamp(-change, change)
        sigma = self.sigma.log().mean().exp()
        return StepResult(loss, {"best_fitness": values.min(), "mean_fitness": values.mean(), "sigma": sigma})

    def estimate(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the fitness of all individuals, (P,), g_m and g_sigma, (D,); nothing changes."""
        mean, pairs = self.problem.flat(), self.pairs
        moves = self.sigma * self.problem.random.normal(pairs, mean.numel())
        values = fitness(self.problem, torch.cat([mean + moves, mean - moves]), batch)
        shaped = centred_ranks(values) if self.shaping == "ranks" else values
        gaps, sums = shaped[:pairs] - shaped[pairs:], shaped[:pairs] + shaped[pairs:]
        whole = sums.isfinite()
        kept = whole.sum().clamp(min=2)
        gaps, middles = torch.where(whole, gaps / 2, 0.0), torch.where(whole, sums / 2, 0.0)
        # Against the mean of the others is against the mean of all, times N / (N - 1).
        above = torch.where(whole, middles - middles.sum() / kept, 0.0) * kept / (kept - 1)
        spread = (moves.square() - self.sigma.square()) / self.sigma
        return values, gaps @ moves / pairs, above @ spread / pairs

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check ranks, that pairs are exact on a quadratic, and that both means are what they stand for."""
        return (
            *checks.of_ranks(lambda: cls(sgd(1.0))),
            Oracle("a pair gives its slope on a quadratic", lambda: _from_slopes(2), 1e-12),
            Oracle("not on a cubic", lambda: _from_slopes(3), 1e-3, differs=True),
            Oracle("the mean is the gradient times sigma^2: |z| < 4", lambda: _z_score(1.0, 0), 4.0),
            Oracle("not minus that", lambda: _z_score(-1.0, 0), 4.0, differs=True),
            Oracle("the widths' mean is their gradient times sigma^2: |z| < 4", lambda: _z_score(1.0, 1), 4.0),
            Oracle("not minus that of the widths", lambda: _z_score(-1.0, 1), 4.0, differs=True),
            Oracle("not seven tenths of it", lambda: _z_score(0.7, 1), 4.0, differs=True),
        )


WIDTHS = (0.5, 1.0, 1.5, 0.7)


def _posed(power: int, start: tuple[float, ...]) -> tuple[PGPE, Batch, Tensor]:
    """Return a learner with other widths on the sum of theta^power / power, its batch, and the gradient."""
    problem, batch = toy_point([0.0] * 4, start)
    checks.pose(problem, lambda flat: flat.pow(power).sum(1) / power)
    learner = set_up(PGPE(sgd(), 20, shaping="none"), problem)
    learner.sigma = torch.tensor(WIDTHS, dtype=torch.float64, device="cpu")
    return learner, batch, problem.flat().pow(power - 1)


def _from_slopes(power: int) -> float:
    """Return the largest difference between g_m and the mean of (gradient . eps) eps over the same draws."""
    learner, batch, gradient = _posed(power, (0.5, -1.0, 2.0, 1.0))
    random = learner.problem.random
    before = random.state_dict()
    found = learner.estimate(batch)[1]
    random.load_state_dict(before)
    moves = learner.sigma * random.normal(10, 4)
    return float((found - moves @ gradient @ moves / 10).abs().max())


def _z_score(share: float, which: int) -> float:
    """Return the z-score of g_m (which = 0) or g_sigma (1) on a quadratic against a share of what it stands for.

    E f = (|m|^2 + |sigma|^2) / 2, whose gradients are m and sigma.
    """
    learner, batch, gradient = _posed(2, (0.5, -0.2, 0.3, 0.1))
    sigma = learner.sigma
    expected = sigma.square() * (sigma if which else gradient)
    return monte_carlo(lambda: learner.estimate(batch)[1 + which], share * expected, 800)
