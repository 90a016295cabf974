"""Barzilai and Borwein's gradient steps, whose length is a secant estimate of the inverse curvature."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    Batch,
    BatchMode,
    Capability,
    Oracle,
    Problem,
    StepResult,
    check_name,
    check_number,
    check_whole,
)
from altprop.algorithms.second_order.descent import evaluated
from altprop.testing import set_up, toy, toy_point

LENGTHS = ("long", "short", "alternate")
LEAST, MOST = 1e-10, 1e10


class BarzilaiBorwein(Algorithm):
    """Step along minus the gradient g, (D,), by the length at which one number fits the last change of gradient.

    With s the last step and y the change of g on it, over the whole training set,

        long:  alpha = s . s / s . y        short:  alpha = s . y / y . y        theta <- theta - alpha g

    so that alpha lies between the inverses of the largest and the smallest curvature, and the objective may rise from
    step to step. It may not rise above its largest value of the last `memory` places by more than Armijo's condition
    allows: from a place that does, or that is not finite, the next step goes back and tries a quarter of alpha. Where
    s . y is not positive, alpha is as large as it was.

    Args:
        lr: alpha of the first step, above 0.
        length: long, short or alternate, which takes them in turn.
        memory: places whose largest value is the limit, at least 1; 1 never lets the objective rise.

    Raises:
        AltpropError: for an unknown name or a number out of range.

    Paper: Barzilai and Borwein 1988, doi:10.1093/imanum/8.1.141; the limit is that of Raydan 1997,
    doi:10.1137/S1052623494266365, judged at the next step's own evaluation, so that a step costs one gradient.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT})
    batch: BatchMode = BatchMode.FULL
    state: ClassVar[tuple[str, ...]] = ("place", "gradient", "alpha", "values", "taken")

    def __init__(self, lr: float = 0.1, length: str = "alternate", memory: int = 10) -> None:
        self.lr = check_number(lr, "algorithm.lr", above=0.0)
        self.length = check_name(length, "algorithm.length", LENGTHS)
        self.memory = check_whole(memory, "algorithm.memory", 1)

    def _setup(self, problem: Problem) -> None:
        self.place = problem.flat()
        self.gradient = torch.zeros_like(self.place)
        self.alpha = self.place.new_tensor(self.lr)
        self.values = self.place.new_zeros(self.memory)
        self.taken = 0

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        loss, gradient = evaluated(problem, batch)
        here = problem.flat()
        with torch.no_grad(), problem.ledger.primitive("update", 0):
            if self.taken == 0:
                begin = torch.where(torch.isfinite(loss), loss, torch.full_like(loss, float("inf")))
                self.values = begin.expand(self.memory).clone()
            limit = self.values.max() - 1e-4 * self.alpha * self.gradient.dot(self.gradient)
            kept = torch.isfinite(gradient.sum()) & (loss <= limit)
            found = self.estimate(here - self.place, gradient - self.gradient)
            self.alpha = torch.where(kept, found, self.alpha / 4).clamp(LEAST, MOST)
            self.place = torch.where(kept, here, self.place)
            self.gradient = torch.where(kept, gradient, self.gradient)
            self.values = torch.where(kept, torch.cat([self.values[1:], loss[None]]), self.values)
            target = self.place - self.alpha * self.gradient
        self.taken += 1
        problem.assign(target)
        return StepResult(loss, {"alpha": self.alpha, "went_back": 1 - kept.to(loss.dtype)})

    def estimate(self, s: Tensor, y: Tensor) -> Tensor:
        """Return alpha, a scalar, from a step and the change of the gradient on it, (D,)."""
        along = s.dot(y)
        long = self.length == "long" or (self.length == "alternate" and self.taken % 2 == 1)
        ratio = s.dot(s) / along if long else along / y.dot(y)
        fits = (along > 0) & torch.isfinite(ratio) & (self.taken > 0)
        return torch.where(fits, ratio, self.alpha)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check alpha against the Hessian, and that equal curvatures are solved by the second step."""
        return (
            Oracle("long: alpha = s . s / s . H s on a quadratic", partial(_alpha_error, "long", "long"), 1e-11),
            Oracle("short: alpha = s . H s / H s . H s", partial(_alpha_error, "short", "short"), 1e-11),
            Oracle("long is not short", partial(_alpha_error, "long", "short"), 1e-3, differs=True),
            Oracle("one curvature: two steps", partial(_round_bowl, 2), 1e-12),
            Oracle("not one", partial(_round_bowl, 1), 1e-3, differs=True),
        )


def _alpha_error(length: str, expected: str) -> float:
    """Return the largest relative error of alpha over ten steps on a quadratic."""
    problem, batch = toy((5, 1), rows=20, loss="half_squared_error")
    rule = set_up(BarzilaiBorwein(0.01, length), problem)
    here = problem.linearize(batch)
    hessian = torch.stack([here.hvp(v) for v in torch.eye(len(here.gradient), dtype=problem.dtype, device="cpu")])
    rule.step(batch)
    before, worst = rule.place, 0.0
    for _ in range(10):
        rule.step(batch)
        s = rule.place - before
        y, before = hessian @ s, rule.place
        exact = s.dot(s) / s.dot(y) if expected == "long" else s.dot(y) / y.dot(y)
        worst = max(worst, float((rule.alpha / exact - 1).abs()))
    return worst


def _round_bowl(steps: int) -> float:
    """Return the distance to the minimum after some steps, over that before, where all curvatures are one."""
    problem, batch = toy_point([1.0, -2.0, 0.5], [4.0, 4.0, 4.0])
    rule = set_up(BarzilaiBorwein(0.1), problem)
    centre = problem.flat().new_tensor([1.0, -2.0, 0.5])
    start = float((problem.flat() - centre).norm())
    for _ in range(steps):
        rule.step(batch)
    return float((problem.flat() - centre).norm()) / start
