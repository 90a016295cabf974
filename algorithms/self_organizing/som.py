"""The self-organising map: units on a grid that learn to lie where the data lie, neighbours close to neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    Batch,
    BatchMode,
    Capability,
    Oracle,
    Problem,
    Random,
    StepResult,
    check_name,
    check_number,
    check_whole,
)


class SelfOrganizingMap(Algorithm):
    r"""Kohonen's map, batch or online; a learner with its own model.

    The best matching unit of x is `c(x) = argmin_k ||x - w_k||`, the neighbourhood of units k and l at grid distance d
    is `h(k, l) = exp(-d^2 / (2 r^2))`, and for radius r = 0 `h` is 1 for k = l and 0 elsewhere.

    - batch: `w_k <- sum_x h(k, c(x)) x / sum_x h(k, c(x))` over the whole training set; at r = 0 this is one Lloyd
      iteration of k-means.
    - online: `w_k <- w_k + rate h(k, c(x)) (x - w_k)`, one example after the other.

    Radius and rate fall linearly with the share of the budget that is spent. Units are named by the labels of the
    training rows that they win, so the map predicts classes: the log frequency of each class at the best matching unit
    among those that won any row.

    Args:
        rows, columns: of the grid.
        mode: "batch" or "online".
        radius: at the start, in grid units; None takes half the longer side.
        radius_end: at the end of the budget.
        rate, rate_end: learning rate of the online rule at the start and at the end.
        forget: share of the label counts that the online rule forgets at each step, because its units move on.

    Raises:
        AltpropError: for an unusable value.

    Kohonen 1982, Biological Cybernetics 43; Kohonen 2013, Neural Networks 37 (batch rule). We start from training rows
    of the first batch, drawn by this run's own stream.
    """

    requires = frozenset({Capability.SUPERVISED, Capability.CLASSES, Capability.VECTORS})
    state = ("codebook", "counts")

    def __init__(
        self,
        rows: int = 10,
        columns: int = 10,
        mode: str = "batch",
        radius: float | None = None,
        radius_end: float = 0.5,
        rate: float = 0.5,
        rate_end: float = 0.01,
        forget: float = 0.05,
    ) -> None:
        self.rows, self.columns = check_whole(rows, "algorithm.rows", 1), check_whole(columns, "algorithm.columns", 1)
        self.mode = check_name(mode, "algorithm.mode", ("batch", "online"))
        self.batch = BatchMode.FULL if mode == "batch" else BatchMode.MINI
        start = max(rows, columns) / 2 if radius is None else radius
        self.radius = check_number(start, "algorithm.radius", 0.0)
        self.radius_end = check_number(radius_end, "algorithm.radius_end", 0.0)
        self.rate = check_number(rate, "algorithm.rate", 0.0, 1.0)
        self.rate_end = check_number(rate_end, "algorithm.rate_end", 0.0, 1.0)
        self.forget = check_number(forget, "algorithm.forget", 0.0, 1.0)
        self.codebook: Tensor | None = None
        self.counts: Tensor | None = None

    def _setup(self, problem: Problem) -> None:
        self.classes = problem.spec.outputs
        self.codebook = self.counts = None
        units = torch.arange(self.rows * self.columns, device=problem.device)
        place = torch.stack([units // self.columns, units % self.columns], dim=1).to(problem.dtype)
        offsets = place[:, None, :] - place[None, :, :]
        self._squared = offsets.square().sum(2)
        self._adjacent = offsets.abs().amax(2) <= 1

    def neighbourhood(self, radius: float) -> Tensor:
        """Return h (K, K) at a radius in grid units."""
        if radius <= 0:
            return torch.eye(len(self._squared), dtype=self._squared.dtype, device=self._squared.device)
        return torch.exp(-self._squared / (2 * radius**2))

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        x = batch.inputs.flatten(1)
        if self.codebook is None:
            self.codebook = initial_codebook(x, self.rows * self.columns, self.problem.random)
            self.counts = torch.zeros(len(self.codebook), self.classes, dtype=x.dtype, device=x.device)
        assert self.counts is not None
        progress = self.problem.progress
        h = self.neighbourhood(_between(self.radius, self.radius_end, progress))
        distance = distances(x, self.codebook)
        nearest, winner = distance.min(1)
        runner_up = distance.scatter(1, winner[:, None], math.inf).argmin(1)
        won, labels = one_hot(winner, len(self.codebook), x.dtype), one_hot(batch.targets, self.classes, x.dtype)
        if self.mode == "batch":
            self.counts = won.T @ labels
            self.codebook = batch_update(self.codebook, x, won, h)
        else:
            self.counts = (1 - self.forget) * self.counts + won.T @ labels
            self.codebook = online_update(self.codebook, x, h, _between(self.rate, self.rate_end, progress))
            # torch runs them element by element: a search by products, and a multiply-add a weight for the update.
            self.problem.ledger.charge("other", 4.0 * len(x) * self.codebook.numel())
        self.problem.ledger.updates += 1
        torn = (~self._adjacent[winner, runner_up]).to(x.dtype).mean()
        error = nearest.clamp(min=0).sqrt().mean()
        return StepResult(scalars={"quantisation_error": error, "topographic_error": torn})

    def _predictor(self) -> Callable[[Tensor], Tensor]:
        return self._predict

    def _predict(self, inputs: Tensor) -> Tensor:
        """Return log class frequencies (B, C) of the best matching unit among those that have won a row."""
        x = inputs.flatten(1)
        if self.codebook is None or self.counts is None:
            return torch.zeros(len(x), self.classes, dtype=x.dtype, device=x.device)
        named = self.counts.sum(1) > 1e-6
        winner = distances(x, self.codebook[named]).argmin(1)
        counts = self.counts[named] + 1 / self.classes  # Laplace's rule: no class is impossible
        return (counts / counts.sum(1, keepdim=True)).log()[winner]

    def artefacts(self) -> dict[str, Any]:
        """Return the codebook (K, D) and the label counts of the units (K, C)."""
        if self.codebook is None or self.counts is None:
            return {}
        return {"codebook": self.codebook.cpu().numpy(), "label_counts": self.counts.cpu().numpy()}

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that radius 0 is Lloyd's algorithm; a radius above 0 is not."""
        return (
            Oracle("batch at radius 0 equals a Lloyd iteration", lambda: _against_lloyd(0.0), 1e-12),
            Oracle("not Lloyd at radius 1", lambda: _against_lloyd(1.0), 1e-2, differs=True),
        )


def one_hot(index: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Return 1 at each index (B,) and 0 elsewhere, (B, size); torch's own takes whole numbers of eight bytes."""
    return (index[:, None] == torch.arange(size, device=index.device)).to(dtype)


def distances(x: Tensor, codebook: Tensor) -> Tensor:
    """Return squared distances (B, K) between rows of x (B, D) and of the codebook (K, D)."""
    return torch.addmm(codebook.square().sum(1), x, codebook.T, alpha=-2) + x.square().sum(1, keepdim=True)


def batch_update(codebook: Tensor, x: Tensor, won: Tensor, h: Tensor) -> Tensor:
    """Return the neighbourhood-weighted means; a unit that no row reaches stays.

    Args:
        codebook: (K, D).
        x: rows (B, D).
        won: (B, K), one-hot best matching units.
        h: neighbourhood (K, K).
    """
    weight = h @ won.sum(0)
    total = h @ (won.T @ x)
    reached = (weight > 0)[:, None]
    return torch.where(
        reached, total / weight.clamp(min=1e-300 if x.dtype == torch.float64 else 1e-38)[:, None], codebook
    )


def online_update(codebook: Tensor, x: Tensor, h: Tensor, rate: float) -> Tensor:
    """Return the codebook (K, D) after one pass over the rows of x (B, D), one after the other."""
    codebook = codebook.clone()
    for row in x:
        winner = (codebook - row).square().sum(1).argmin()
        codebook += rate * h[winner][:, None] * (row - codebook)
    return codebook


def initial_codebook(x: Tensor, units: int, random: Random) -> Tensor:
    """Return `units` rows drawn from x (B, D), without repetition where there are enough, a little apart."""
    if units <= len(x):
        chosen = random.permutation(len(x))[:units]
    else:
        chosen = random.integers(0, len(x), units)
    return x[chosen] + 1e-3 * x.std() * random.normal(units, x.shape[1])


def _between(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress


def _against_lloyd(radius: float) -> float:
    """Return the largest difference of one batch update from cluster means, on drawn data."""
    random = Random(3, "cpu", torch.float64)
    x, codebook = random.normal(60, 3), random.normal(6, 3)
    codebook[5] += 100  # no row is near: this unit stays
    som = SelfOrganizingMap(2, 3)
    units = torch.arange(6, device="cpu")
    place = torch.stack([units // 3, units % 3], dim=1).to(x.dtype)
    som._squared = (place[:, None] - place[None]).square().sum(2)
    nearest = torch.stack([(codebook - row).square().sum(1).argmin() for row in x])
    won = one_hot(nearest, 6, x.dtype)
    ours = batch_update(codebook, x, won, som.neighbourhood(radius))
    gaps = [
        (ours[k] - (x[nearest == k].mean(0) if bool((nearest == k).any()) else codebook[k])).abs().max()
        for k in range(6)
    ]
    return float(torch.stack(gaps).max())
