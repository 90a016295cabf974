"""Natural evolution strategies: the natural gradient of a search distribution, separable (SNES) or full (xNES)."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    Batch,
    Oracle,
    PredictorKind,
    Problem,
    StepResult,
    check_number,
    check_whole,
)
from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.population import fitness, refresh_statistics, refuse_dense
from altprop.testing import relative_error, set_up, toy_point


def utilities(count: int) -> list[float]:
    """Return the utility of each rank, the best first, of so many individuals; their sum is 0 (Wierstra et al. 2014).

    >>> [round(u, 4) for u in utilities(4)]
    [0.4804, 0.0196, -0.25, -0.25]
    """
    raw = [max(0.0, math.log(count / 2 + 1) - math.log(rank)) for rank in range(1, count + 1)]
    return [u / sum(raw) - 1 / count for u in raw]


def usual_population(size: int) -> int:
    """Return 4 + floor(3 ln D), the usual number of individuals in D dimensions."""
    return 4 + math.floor(3 * math.log(size))


class SeparableNES(Algorithm):
    """Follow the natural gradient of a normal distribution with a width for each parameter (SNES).

    One step is one generation. With mean m, widths sigma (D,), P = `population`, draws s_k ~ N(0, I) in the order of
    the fitness of m + sigma s_k, and u_k the utility of rank k:

        m <- m + sigma sum_k u_k s_k,  sigma <- sigma exp(eta / 2 sum_k u_k (s_k^2 - 1))

    with eta = (3 + ln D) / (5 sqrt(D)). Only ranks enter. `loss` is None (the mean is not among the evaluated), but for
    models with running statistics.

    Args:
        population: P, at least 4; null for 4 + floor(3 ln D).
        sigma: width of every parameter at the start, in units of the parameters.
        rate: eta in units of the paper's.

    Raises:
        AltpropError: for values outside these.

    Paper: Schaul, Glasmachers and Schmidhuber 2011, High dimensions and heavy tails for natural evolution strategies;
    Wierstra et al. 2014, Natural evolution strategies, arXiv:1106.4487.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    state: ClassVar[tuple[str, ...]] = ("sigma",)

    def __init__(self, population: int | None = None, sigma: float = 0.05, rate: float = 1.0) -> None:
        self.population = None if population is None else check_whole(population, "algorithm.population", 4)
        self.rate = check_number(rate, "algorithm.rate", 0.0)
        self._start = check_number(sigma, "algorithm.sigma", above=0.0)
        self.sigma: Tensor

    def _setup(self, problem: Problem) -> None:
        start = problem.flat()
        size = start.numel()
        count = self.population or usual_population(size)
        self.eta = self.rate * (3 + math.log(size)) / (5 * math.sqrt(size))
        self.utilities = torch.tensor(utilities(count), dtype=problem.dtype, device=problem.device)
        self.sigma = torch.full_like(start, self._start)

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        loss = refresh_statistics(problem, batch)
        mean = problem.flat()
        draws = problem.random.normal(len(self.utilities), mean.numel())
        values = fitness(problem, mean + self.sigma * draws, batch)
        ranked = draws[values.argsort(stable=True)]
        problem.assign(mean + self.sigma * (self.utilities @ ranked))
        self.sigma = self.sigma * (self.eta / 2 * (self.utilities @ (ranked.square() - 1))).exp()
        sigma = self.sigma.log().mean().exp()
        return StepResult(loss, {"best_fitness": values.min(), "mean_fitness": values.mean(), "sigma": sigma})

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check ranks, that each parameter may have its own unit, and that a rotation is another problem."""
        scales = torch.tensor([2.0, 0.5, 1.0, 8.0], dtype=torch.float64, device="cpu")
        return (
            *checks.of_ranks(cls),
            Oracle("parameters in other units give one run", lambda: _mapped_separable(torch.diag(scales)), 1e-10),
            Oracle("not rotated ones", lambda: _mapped_separable(_rotation()), 1e-3, differs=True),
        )


class ExponentialNES(Algorithm):
    """Follow the natural gradient of a normal distribution with a full covariance matrix (xNES).

    One step is one generation. With mean m, A (D, D) whose product A A^T is the covariance, P = `population`, draws s_k
    ~ N(0, I) in the order of the fitness of m + A s_k, and u_k the utility of rank k:

        m <- m + A sum_k u_k s_k,  A <- A exp(eta / 2 sum_k u_k (s_k s_k^T - I))

    with eta = (9 + 3 ln D) / (5 D sqrt(D)). The paper moves the width and the shape of A apart; its rates for them are
    equal, and then this is the same. A linear map of the parameters maps the run. A holds D^2 numbers, and a generation
    decomposes one such matrix: large nets are refused. `loss` is None, but for models with running statistics.

    Args:
        population: P, at least 4; null for 4 + floor(3 ln D).
        sigma: width at the start, in units of the parameters.
        rate: eta in units of the paper's.
        most_parameters: the largest D that is not refused.

    Raises:
        AltpropError: for values outside these.

    Paper: Glasmachers et al. 2010, Exponential natural evolution strategies; Wierstra et al. 2014, arXiv:1106.4487.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    state: ClassVar[tuple[str, ...]] = ("transform",)

    def __init__(
        self, population: int | None = None, sigma: float = 0.05, rate: float = 1.0, most_parameters: int = 1000
    ) -> None:
        self.population = None if population is None else check_whole(population, "algorithm.population", 4)
        self.rate = check_number(rate, "algorithm.rate", 0.0)
        self.most_parameters = check_whole(most_parameters, "algorithm.most_parameters", 1)
        self._start = check_number(sigma, "algorithm.sigma", above=0.0)
        self.transform: Tensor

    def _setup(self, problem: Problem) -> None:
        size = problem.flat().numel()
        refuse_dense(problem, size, self.most_parameters, matrices=5, instead="algorithm=snes")
        count = self.population or usual_population(size)
        self.eta = self.rate * (9 + 3 * math.log(size)) / (5 * size * math.sqrt(size))
        self.utilities = torch.tensor(utilities(count), dtype=problem.dtype, device=problem.device)
        self.transform = self._start * torch.eye(size, dtype=problem.dtype, device=problem.device)

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        loss = refresh_statistics(problem, batch)
        mean = problem.flat()
        draws = problem.random.normal(len(self.utilities), mean.numel())
        values = fitness(problem, mean + draws @ self.transform.T, batch)
        ranked = draws[values.argsort(stable=True)]
        problem.assign(mean + self.transform @ (self.utilities @ ranked))
        # The utilities add up to 0, so the identity drops out.
        scales, axes = torch.linalg.eigh((ranked.T * self.utilities) @ ranked)
        self.transform = self.transform @ (axes * (self.eta / 2 * scales).exp()) @ axes.T
        sigma = self.transform.square().mean().sqrt() * math.sqrt(mean.numel())
        return StepResult(loss, {"best_fitness": values.min(), "mean_fitness": values.mean(), "sigma": sigma})

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check ranks, that every linear map gives the same run, and that the map of the start counts."""
        shear = _rotation() @ torch.diag(torch.tensor([1.0, 3.0, 0.2, 1.0], dtype=torch.float64, device="cpu"))
        return (
            *checks.of_ranks(cls),
            Oracle("a linear map of the parameters maps the run", lambda: _mapped_full(shear), 1e-9),
            Oracle("not without its start", lambda: _mapped_full(shear, start=False), 1e-3, differs=True),
            Oracle("a generation is the paper's, in two parts", lambda: _against_two_parts(1.0), 1e-12),
            Oracle("not with a shape that moves twice as fast", lambda: _against_two_parts(2.0), 1e-6, differs=True),
        )


START = (0.5, -1.0, 1.5, 0.3)


def _rotation() -> Tensor:
    """Return an orthogonal matrix (4, 4) that mixes all axes: a Householder reflection."""
    v = torch.tensor([[1.0, 2.0, -1.0, 0.5]], dtype=torch.float64, device="cpu")
    return torch.eye(4, dtype=torch.float64, device="cpu") - 2 * v.T @ v / v.square().sum()


def _posed(matrix: Tensor) -> tuple[Problem, Batch]:
    """Return Rosenbrock's function of M^-1 theta from M times a start, as a problem and its batch."""
    start = torch.tensor(START, dtype=torch.float64, device="cpu")
    problem, batch = toy_point([0.0] * 4, (matrix @ start).tolist())
    checks.pose(problem, lambda flat: checks.rosenbrock(flat @ torch.linalg.inv(matrix).T))
    return problem, batch


def _difference(plain: Problem, mapped: Problem, matrix: Tensor) -> float:
    return float((matrix @ plain.flat() - mapped.flat()).abs().max())


def _mapped_separable(matrix: Tensor, steps: int = 30) -> float:
    """Return how far the run of the mapped problem is from the map of the run; widths follow the diagonal."""
    plain, batch = _posed(torch.eye(4, dtype=torch.float64, device="cpu"))
    mapped, _ = _posed(matrix)
    first, second = (set_up(SeparableNES(sigma=0.3), problem) for problem in (plain, mapped))
    second.sigma = second.sigma * matrix.diag().abs()
    for _ in range(steps):
        first.step(batch)
        second.step(batch)
    return _difference(plain, mapped, matrix)


def _mapped_full(matrix: Tensor, steps: int = 30, *, start: bool = True) -> float:
    """Return how far the run of the mapped problem is from the map of the run, with A mapped at the start or not."""
    plain, batch = _posed(torch.eye(4, dtype=torch.float64, device="cpu"))
    mapped, _ = _posed(matrix)
    first, second = (set_up(ExponentialNES(sigma=0.3), problem) for problem in (plain, mapped))
    if start:
        second.transform = matrix @ second.transform
    for _ in range(steps):
        first.step(batch)
        second.step(batch)
    return _difference(plain, mapped, matrix)


def _against_two_parts(shape_rate: float) -> float:
    """Return the relative error of A after a generation against sigma and B that move apart, by matrix exponentials."""
    problem, batch = _posed(torch.eye(4, dtype=torch.float64, device="cpu"))
    learner = set_up(ExponentialNES(12, sigma=0.3), problem)
    before, mean = problem.random.state_dict(), problem.flat()
    learner.step(batch)
    problem.random.load_state_dict(before)
    draws = problem.random.normal(12, 4)
    order = checks.rosenbrock(mean + 0.3 * draws).argsort()
    unit = torch.eye(4, dtype=torch.float64, device="cpu")
    moment = torch.zeros_like(unit)
    for u, s in zip(utilities(12), draws[order], strict=True):
        moment += u * (torch.outer(s, s) - unit)
    width = moment.trace() / 4
    sigma = 0.3 * (learner.eta / 2 * width).exp()
    expected = sigma * torch.linalg.matrix_exp(shape_rate * learner.eta / 2 * (moment - width * unit))
    return relative_error({"A": learner.transform}, {"A": expected})
