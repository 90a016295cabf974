"""Finite differences: one weight after the other is moved, and the objective is looked at on either side."""

from functools import partial

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    Batch,
    OptimizerFactory,
    Oracle,
    PredictorKind,
    Problem,
    Refused,
    StepResult,
    Updater,
    check_number,
    check_whole,
)
from altprop.algorithms.perturbation.checks import order
from altprop.algorithms.perturbation.points import differences, refresh_statistics
from altprop.testing import set_up, sgd, toy

CHUNK = 64


class FiniteDifferences(Algorithm):
    """Take the gradient by central differences: what all rules that disturb weights estimate, at what it costs in full.

        g_i = (L(theta + h e_i) - L(theta - h e_i)) / (2 h),    i = 1 .. D.

    The error is of order h^2, and of rounding over h: in float32 h = 0.01 is near the best, in float64 1e-5. A step
    costs 2 D evaluations, all on one batch and under one noise, 128 points at once. It is the limit of weight
    perturbation as the draws become an orthonormal basis, and the deterministic reference for that family.

    Args:
        optimizer: how g becomes an update; it is no exact gradient, so closures are refused.
        step: h, in units of the parameters.
        most_parameters: D above which it is refused.

    Raises:
        AltpropError: for values that are not positive.
        Refused: at set-up for a model with more parameters.

    Paper: Jabri and Flower 1992, Weight perturbation, with forward differences; Kiefer and Wolfowitz 1952, Stochastic
    estimation of the maximum of a regression function, with central ones.
    """

    kind = PredictorKind.MODEL
    state = ("updater",)

    updater: Updater

    def __init__(self, optimizer: OptimizerFactory, step: float = 0.01, most_parameters: int = 2000) -> None:
        self._optimizer = optimizer
        self.size = check_number(step, "algorithm.step", above=0.0)
        self.most_parameters = check_whole(most_parameters, "algorithm.most_parameters", 1)

    def _setup(self, problem: Problem) -> None:
        size = problem.flat().numel()
        if size > self.most_parameters:
            raise Refused(
                f"finite_differences of {size} parameters takes {2 * size} evaluations a step, and "
                f"algorithm.most_parameters is {self.most_parameters}; use a smaller model, or algorithm=spsa"
            )
        self.updater = problem.updater(self._optimizer, direction="other")

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        with problem.same_noise():
            loss = refresh_statistics(problem, batch)
            direction = self.estimate(batch)
        self.updater.apply(problem.unflatten(direction))
        return StepResult(loss)

    def estimate(self, batch: Batch) -> Tensor:
        """Return g, (D,); no parameter changes."""
        centre = self.problem.flat()
        axes = self.size * torch.eye(len(centre), dtype=centre.dtype, device=centre.device)
        return torch.cat([differences(self.problem, batch, part) for part in axes.split(CHUNK)]) / (2 * self.size)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check it against the gradient, and how its error falls with h."""
        return (
            Oracle("h = 1e-5: the gradient", partial(_off, 1e-5), 1e-8),
            Oracle("not h = 1", partial(_off, 1.0), 0.02, differs=True),
            Oracle("error O(h^2), slope off 2 by", _off_order_two, 0.1),
        )


def _off(step: float) -> float:
    """Return the relative error against the gradient."""
    problem, batch = toy((4, 5, 6, 3))
    rule = set_up(FiniteDifferences(sgd(), step), problem)
    expected = problem.flatten(problem.gradient(batch)[1])
    return float((rule.estimate(batch) - expected).norm() / expected.norm())


def _off_order_two() -> float:
    return abs(order(_off, (0.03, 0.01, 0.003)) - 2)
