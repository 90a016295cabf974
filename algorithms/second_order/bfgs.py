"""BFGS: a quasi-Newton method that builds the inverse Hessian from the gradients that it meets."""

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
)
from altprop.algorithms.second_order.dense import refuse_large
from altprop.algorithms.second_order.descent import Moved, Place, descend, repeats, unit_first
from altprop.algorithms.second_order.line_search import SEARCHES
from altprop.testing import set_up, toy

LEAST_CURVATURE = 1e-10


class BFGS(Algorithm):
    """Search along d = -H g, with H, (D, D), the inverse Hessian that fits the last change of gradient.

    g, (D,), is the gradient over the whole training set. With s the step and y the change of the gradient on it,

        H <- (I - rho s y^T) H (I - rho y s^T) + rho s s^T,    rho = 1 / (y . s)

    which starts from (y . s / y . y) I. A pair with y . s not above 1e-10 |y| |s|, or one that is not finite, teaches
    nothing, so H stays positive definite. A direction that does not descend, or a search that finds no decrease, ends
    in a start from H = I. Where the search fails nothing moves.

    Args:
        line_search: strong_wolfe, which makes y . s positive, or backtracking.
        largest: numbers that H may hold; a problem with more is refused.

    Raises:
        AltpropError: for an unknown name or a number out of range.

    Paper: Broyden, Fletcher, Goldfarb and Shanno 1970; Nocedal and Wright, 2nd edition, section 6.1.
    """

    not_stacked: ClassVar[str] = "each seed's line search ends at the values that it meets"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT})
    batch: BatchMode = BatchMode.FULL
    state: ClassVar[tuple[str, ...]] = ("inverse", "known")

    def __init__(self, line_search: str = "strong_wolfe", largest: float = 2e7) -> None:
        self.search = SEARCHES[check_name(line_search, "algorithm.line_search", tuple(SEARCHES))]()
        self.largest = check_number(largest, "algorithm.largest", above=0.0)

    def _setup(self, problem: Problem) -> None:
        refuse_large(problem, "bfgs", self.largest, "algorithm=lbfgs, which keeps a few vectors")
        self.inverse: Tensor | None = None
        self.known: Place | None = None

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        moved = descend(self.problem, batch, self.known, self.direction, self.search, self._first)
        if moved.step == 0 or moved.restarted:
            self.inverse = None
        if moved.after is not None:
            self.learn(moved.step * moved.direction, moved.after[1] - moved.gradient)
        self.known = next_known(self.problem, moved)
        return StepResult(moved.loss, moved.scalars)

    def _first(self, slope: float, size: float, restarted: bool) -> float:
        return unit_first(slope, size, restarted or self.inverse is None)

    def direction(self, gradient: Tensor) -> Tensor:
        """Return -H g, (D,)."""
        if self.inverse is None:
            return -gradient
        with self.problem.ledger.work("product with H", per="call"):
            return -(self.inverse @ gradient)

    def learn(self, s: Tensor, y: Tensor) -> None:
        """Let H map y, (D,), onto s, (D,)."""
        with self.problem.ledger.work("update of H", per="call"):
            curvature, square = y.dot(s), y.dot(y)
            if not bool((curvature > LEAST_CURVATURE * s.norm() * square.sqrt()) & torch.isfinite(square)):
                return
            if self.inverse is None:
                self.inverse = (curvature / square) * torch.eye(len(s), dtype=s.dtype, device=s.device)
            rho, turned = 1 / curvature, self.inverse @ y
            cross = torch.outer(s, turned)
            outer = torch.outer(s, s)
            self.inverse = self.inverse - rho * (cross + cross.T) + (rho * rho * y.dot(turned) + rho) * outer

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that D exact searches solve a quadratic of D dimensions, and find its inverse Hessian."""
        return (
            Oracle("a quadratic of D dimensions in D exact searches", partial(_quadratic, True), 1e-10),
            Oracle("not without what it learns", partial(_quadratic, False), 1e-3, differs=True),
            Oracle("H is the inverse Hessian then", _inverse_error, 1e-10),
            Oracle("H y = s after every update", _secant_error, 1e-12),
        )


def next_known(problem: Problem, moved: Moved, full: bool = True) -> Place | None:
    """Return objective and gradient where the next step begins, if that sees the same function."""
    return moved.after if repeats(problem, full) else None


def _exact_searches(learns: bool) -> tuple[BFGS, Tensor, Tensor, float]:
    """Take D steps of exact length on a quadratic; return the rule, the Hessian and |gradient| after over before."""
    problem, batch = toy((5, 1), rows=20, loss="half_squared_error")
    rule = set_up(BFGS(), problem)
    size = problem.flat().numel()
    here = problem.linearize(batch)
    hessian = torch.stack([here.hvp(v) for v in torch.eye(size, dtype=problem.dtype, device="cpu")])
    gradient = start = here.gradient
    for _ in range(size):
        direction = rule.direction(gradient)
        s = -(gradient.dot(direction) / direction.dot(hessian @ direction)) * direction
        if learns:
            rule.learn(s, hessian @ s)
        gradient = gradient + hessian @ s
    return rule, hessian, gradient, float(gradient.norm() / start.norm())


def _quadratic(learns: bool) -> float:
    return _exact_searches(learns)[3]


def _inverse_error() -> float:
    rule, hessian, _, _ = _exact_searches(True)
    assert rule.inverse is not None
    return float((rule.inverse @ hessian - torch.eye(len(hessian), dtype=hessian.dtype, device="cpu")).norm())


def _secant_error() -> float:
    """Return the largest relative |H y - s| over four steps on a net."""
    problem, batch = toy((4, 5, 3))
    rule = set_up(BFGS(), problem)
    worst = 0.0
    for _ in range(4):
        before, (_, grads) = problem.flat(), problem.gradient(batch)
        rule.step(batch)
        s = problem.flat() - before
        y = problem.flatten(problem.gradient(batch)[1]) - problem.flatten(grads)
        assert rule.inverse is not None
        worst = max(worst, float((rule.inverse @ y - s).norm() / s.norm()))
    return worst
