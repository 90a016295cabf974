"""Covariance matrix adaptation: a full covariance matrix, or a diagonal one for large nets (sep-CMA-ES)."""

import math
from typing import ClassVar

import numpy as np
import torch
from deap import base, cma
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
from altprop.algorithms.evolutionary.population import Minimised, fitness, refresh_statistics, refuse_dense
from altprop.testing import set_up, toy_point

COVARIANCES = ("full", "diagonal")


class CMAES(Algorithm):
    """Search by a normal distribution whose mean, width and covariance follow the best of each generation.

    One step is one generation. With mean m, width sigma, covariance C of symmetric root A = C^(1/2),
    lambda = `population`, mu = lambda / 2 parents of weights w_i ~ ln(mu + 1/2) - ln i and mu_w = 1 / sum w_i^2:

        x_k = m + sigma y_k,  y_k = A z_k,  z_k ~ N(0, I)
        m <- m + sigma y_w,  y_w = sum over the mu best of w_i y_(i)
        p_s <- (1 - c_s) p_s + sqrt(c_s (2 - c_s) mu_w) z_w,  sigma <- sigma exp(c_s / d_s (|p_s| / E|N(0, I)| - 1))
        p_c <- (1 - c_c) p_c + h sqrt(c_c (2 - c_c) mu_w) y_w
        C <- (1 - c_1 - c_mu + (1 - h) c_1 c_c (2 - c_c)) C + c_1 p_c p_c^T + c_mu sum w_i y_(i) y_(i)^T

    h is 0 where p_s has become too long, else 1. The usual root B d of C = B d^2 B^T draws from the same distribution,
    but eigenvectors are any device's own choice of sign and, where eigenvalues repeat, of basis. All constants are
    those of DEAP's `cma.Strategy`, to which a run is equal; its draws cannot be stacked over seeds, so the update is
    written here in torch. C is decomposed every 1 / (10 D (c_1 + c_mu)) generations (Hansen 2016), which is every one
    for D up to some hundred.

    `covariance` diagonal keeps the diagonal of C alone and multiplies c_1 and c_mu by (D + 2) / 3. Full, C holds D^2
    numbers and a decomposition costs 9 D^3 FLOPs: large nets are refused, and at equal FLOPs small ones hardly move
    (with 131 parameters on iris one generation is 2.5 times the task's budget). Only ranks enter. `loss` is None (the
    mean is not among the evaluated), but for models with running statistics.

    Args:
        population: lambda, at least 4; null for 4 + floor(3 ln D).
        sigma: width at the start, in units of the parameters.
        covariance: full or diagonal.
        most_parameters: the largest D for which a full covariance is not refused.

    Raises:
        AltpropError: for values outside these.

    Paper: Hansen and Ostermeier 2001, Completely derandomized self-adaptation in evolution strategies; Hansen 2016,
    The CMA evolution strategy: a tutorial, arXiv:1604.00772; diagonal: Ros and Hansen 2008, A simple modification in
    CMA-ES achieving linear time and space complexity.
    """

    kind: ClassVar[PredictorKind] = PredictorKind.MODEL
    state: ClassVar[tuple[str, ...]] = (
        "sigma", "width_path", "shape_path", "covariance", "root", "generation",
    )  # fmt: skip

    def __init__(
        self,
        population: int | None = None,
        sigma: float = 0.05,
        covariance: str = "full",
        most_parameters: int = 1000,
    ) -> None:
        self.population = None if population is None else check_whole(population, "algorithm.population", 4)
        self._start = check_number(sigma, "algorithm.sigma", above=0.0)
        self.full = check_name(covariance, "algorithm.covariance", COVARIANCES) == "full"
        self.most_parameters = check_whole(most_parameters, "algorithm.most_parameters", 1)
        self.weights: Tensor
        self.sigma: Tensor
        self.width_path: Tensor
        self.shape_path: Tensor
        self.covariance: Tensor
        self.root: Tensor
        self.generation = 0

    def _setup(self, problem: Problem) -> None:
        start = problem.flat()
        size = start.numel()
        if self.full:
            choice = "algorithm.covariance=diagonal (sep-CMA-ES)"
            refuse_dense(problem, size, self.most_parameters, matrices=4, instead=choice)
        self._set_constants(size)
        self.weights = self.weights.to(start)
        self.sigma = torch.tensor(self._start, dtype=problem.dtype, device=problem.device)
        self.width_path, self.shape_path = torch.zeros_like(start), torch.zeros_like(start)
        self.root = torch.diag(torch.ones_like(start)) if self.full else torch.ones_like(start)
        self.covariance = self.root.clone()

    def _set_constants(self, size: int) -> None:
        """Set DEAP's constants for D parameters."""
        self.offspring = self.population or 4 + math.floor(3 * math.log(size))
        parents = self.offspring // 2
        weights = math.log(parents + 0.5) - torch.arange(1.0, parents + 1, dtype=torch.float64, device="cpu").log()
        self.weights = weights / weights.sum()
        mass = 1 / float(self.weights.square().sum())
        self.effective = mass
        self.width_rate = (mass + 2) / (size + mass + 3)
        self.damping = 1 + 2 * max(0.0, math.sqrt((mass - 1) / (size + 1)) - 1) + self.width_rate
        self.shape_rate = 4 / (size + 4)
        faster = 1.0 if self.full else (size + 2) / 3
        self.one_rate = min(1.0, faster * 2 / ((size + 1.3) ** 2 + mass))
        self.many_rate = min(1 - self.one_rate, faster * 2 * (mass - 2 + 1 / mass) / ((size + 2) ** 2 + mass))
        self.gap = max(1, math.floor(1 / (10 * size * (self.one_rate + self.many_rate))))
        self.length = math.sqrt(size) * (1 - 1 / (4 * size) + 1 / (21 * size * size))

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        loss = refresh_statistics(problem, batch)
        sigma = self.sigma
        mean, _, values = self.evolve(problem.flat(), batch)
        problem.assign(mean)
        return StepResult(loss, {"best_fitness": values.min(), "mean_fitness": values.mean(), "sigma": sigma})

    def evolve(self, mean: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate one generation around a mean (D,); return the next mean, the individuals (lambda, D) and values."""
        draws = self.problem.random.normal(self.offspring, mean.numel())
        points = mean + self.sigma * self._shaped(draws)
        values = fitness(self.problem, points, batch)
        best = draws[values.argsort(stable=True)[: len(self.weights)]]
        moved = mean + self.sigma * self._shaped(self.weights @ best)
        self._adapt(best)
        return moved, points, values

    def _shaped(self, values: Tensor) -> Tensor:
        """Return A v for each row v (..., D), where A is the symmetric root of the covariance."""
        return values @ self.root if self.full else values * self.root

    def _adapt(self, best: Tensor) -> None:
        """Update paths, covariance and width from the draws of the parents, (mu, D), the best first."""
        move = self.weights @ best
        c, s = self.shape_rate, self.width_rate
        self.width_path = (1 - s) * self.width_path + math.sqrt(s * (2 - s) * self.effective) * move
        self.generation += 1
        length = self.width_path.norm() / self.length
        grown = math.sqrt(1 - (1 - s) ** (2 * self.generation))
        short = (length / grown < 1.4 + 2 / (move.numel() + 1)).to(move.dtype)
        shaped = self._shaped(best)
        step = math.sqrt(c * (2 - c) * self.effective) * (self.weights @ shaped)
        self.shape_path = (1 - c) * self.shape_path + short * step
        kept = 1 - self.one_rate - self.many_rate + (1 - short) * self.one_rate * c * (2 - c)
        if self.full:
            one, many = torch.outer(self.shape_path, self.shape_path), (self.weights * shaped.T) @ shaped
        else:
            one, many = self.shape_path.square(), self.weights @ shaped.square()
        covariance = kept * self.covariance + self.one_rate * one + self.many_rate * many
        # A width that has left the range of numbers takes the last good covariance along.
        self.covariance = torch.where(covariance.isfinite().all(), covariance, self.covariance)
        self.sigma = self.sigma * (s / self.damping * (length - 1)).clamp(max=1.0).exp()
        if self.generation % self.gap == 0:
            self._decompose()

    def _decompose(self) -> None:
        """Refresh the root; eigenvalues that rounding has made negative become 1e-14 of the largest."""
        with self.problem.ledger.work("decomposition", per="call"):
            if self.full:
                squares, axes = torch.linalg.eigh(self.covariance)
                self.root = (axes * _widths(squares)) @ axes.mT
            else:
                self.root = _widths(self.covariance)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check ranks, DEAP's own strategy generation by generation, and the diagonal variant's units."""
        units = torch.tensor([2.0, 0.5, 1.0, 8.0], dtype=torch.float64, device="cpu")
        return (
            *checks.of_ranks(cls),
            Oracle("DEAP's strategy takes the same steps", lambda: _from_deap(cls()), 1e-9),
            Oracle(
                "not with a diagonal covariance", lambda: _from_deap(cls(covariance="diagonal")), 1e-3, differs=True
            ),
            Oracle("diagonal: parameters in other units give one run", lambda: _rescaled("diagonal", units), 1e-10),
            Oracle("not without their widths", lambda: _rescaled("diagonal", units, start=False), 1e-3, differs=True),
        )


def _widths(squares: Tensor) -> Tensor:
    """Return the roots of squared widths (D,)."""
    return torch.maximum(squares, 1e-14 * squares.max()).sqrt()


class _Row(list[float]):
    """A row of a population as DEAP's strategy takes it."""

    def __init__(self, values: list[float]) -> None:
        super().__init__(values)
        self.fitness: base.Fitness = Minimised()


def _from_deap(learner: CMAES, steps: int = 40) -> float:
    """Return the largest relative difference in mean, width and covariance from DEAP's strategy, over a run.

    Both see the same individuals: ours are told to DEAP's `update`.
    """
    start = [0.5, -1.0, 1.5, 0.3, -0.2, 0.8]
    problem, batch = toy_point([0.0] * 6, start)
    told: list[Tensor] = []

    def watched(flat: Tensor) -> Tensor:
        told.append(flat.clone())
        return checks.rosenbrock(flat)

    checks.pose(problem, watched)
    set_up(learner, problem)
    theirs = cma.Strategy(start, 0.05, lambda_=learner.offspring)
    worst = 0.0
    for _ in range(steps):
        learner.step(batch)
        rows = [_Row(row) for row in told[-1].tolist()]
        for row, value in zip(rows, checks.rosenbrock(told[-1]).tolist(), strict=True):
            row.fitness.values = (value,)
        theirs.update(rows)
        whole = learner.covariance if learner.covariance.dim() == 2 else torch.diag(learner.covariance)
        pairs = (
            (problem.flat().numpy(), theirs.centroid),
            (learner.sigma.numpy(), theirs.sigma),
            (whole.numpy(), theirs.C),
        )
        worst = max(worst, *(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs))
    return worst


def _rescaled(covariance: str, units: Tensor, steps: int = 30, *, start: bool = True) -> float:
    """Return how far a run in other units is from the run in other units, with its widths in them or not."""
    ends = []
    for unit in (torch.ones_like(units), units):
        problem, batch = toy_point([0.0] * 4, (unit * torch.tensor([0.5, -1.0, 1.5, 0.3]).to(unit)).tolist())
        checks.pose(problem, lambda flat, unit=unit: checks.rosenbrock(flat / unit))  # type: ignore[misc]
        learner = set_up(CMAES(sigma=0.3, covariance=covariance), problem)
        if start:
            learner.root, learner.covariance = unit.clone(), unit.square()
        for _ in range(steps):
            learner.step(batch)
        ends.append(problem.flat() / unit)
    return float((ends[0] - ends[1]).abs().max())
