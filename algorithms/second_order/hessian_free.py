"""Hessian-free optimisation: Gauss-Newton steps by preconditioned conjugate gradients, the best iterate of each."""

import math
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
    check_number,
    check_whole,
)
from altprop.algorithms.second_order.conjugate_gradient import Path, preconditioned
from altprop.algorithms.second_order.line_search import Backtracking
from altprop.linearization import Linearization
from altprop.testing import set_up, toy

LEAST_DAMPING, MOST_DAMPING = 1e-10, 1e10
PERSISTENCE = 0.95


class HessianFree(Algorithm):
    """Solve (G + lambda I) d = -g by conjugate gradients, take the best iterate on the way, and search along it.

    g, (D,), is the gradient over the whole training set and G the generalised Gauss-Newton matrix, seen through its
    products with vectors alone. The solve begins at .95 of the last solution, is preconditioned by

        M = diag((E[g_i^2] + lambda)^(3/4)),    g_i the gradients of single rows,

    and ends by its relative progress (`conjugate_gradient.preconditioned`). Of the iterates that it kept, the last one
    is taken unless the objective is lower at one before (CG backtracking); then a backtracking line search decides how
    far to go. With rho the decrease over the one that the quadratic model without its damping predicts, lambda *= 3/2
    where rho < 1/4 and *= 2/3 where rho > 3/4. Everything in a step sees one noise. Where no decrease is found, or
    something is not finite, nothing moves, lambda grows and the next solve begins at 0.

    Args:
        damping: lambda at the start, on the scale of the mean loss's curvature.
        iterations: the largest number of products a step.
        progress: relative, below which a solve ends.
        preconditioner: whether to use M, which costs the gradients of single rows; 1 in its place otherwise.

    Raises:
        AltpropError: for a number out of range.

    Paper: Martens 2010, Deep learning via Hessian-free optimization (ICML), with the whole training set for the
    curvature where he takes a part. His ratio rho counts the damping as part of the model; Martens and Sutskever 2012
    leave it out, as here. `newton_cg` is without preconditioner, warm start and backtracking over iterates.
    """

    not_stacked: ClassVar[str] = "conjugate gradients end, and trust is given, by the values that each seed meets"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT, Capability.CURVATURE})
    batch: BatchMode = BatchMode.FULL
    state: ClassVar[tuple[str, ...]] = ("damping", "start")

    def __init__(
        self, damping: float = 1.0, iterations: int = 50, progress: float = 5e-4, preconditioner: bool = True
    ) -> None:
        self.damping = check_number(damping, "algorithm.damping", 0.0)
        self.iterations = check_whole(iterations, "algorithm.iterations", 1)
        self.progress = check_number(progress, "algorithm.progress", 0.0)
        self.preconditioner = preconditioner
        self.search = Backtracking()

    def _setup(self, problem: Problem) -> None:
        if self.preconditioner and problem.spec.sequence is False:
            problem.refuse_batch_norm("the gradients of single rows, which hessian_free preconditions by,")
        self.start = torch.zeros_like(problem.flat())

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        with problem.same_noise():
            here = problem.linearize(batch)
            path = self.solve(here, self.scale(batch))
            place, value = self._best(path, batch)
            direction = path.iterates[place]
            slope, predicted = self._model(here, direction, path.values[place])
            used = {"damping": self.damping, "products": float(path.iterations), "iterate": place / len(path.values)}
            step = 0.0
            if -math.inf < slope < 0:
                start = problem.flat()
                phi = self._along(start, direction, batch)
                step = self.search.search(phi, float(here.loss), slope).step
                if step > 0:
                    problem.assign(start + step * direction)
        rho = (float(here.loss) - value) / predicted if predicted > 0 else -math.inf
        self._adapt(rho if step > 0 else -math.inf)
        self.start = PERSISTENCE * path.iterates[-1] if step > 0 else torch.zeros_like(direction)
        return StepResult(here.loss, {**used, "step": step, "rho": rho})

    def scale(self, batch: Batch) -> Tensor:
        """Return the diagonal of M, (D,)."""
        problem = self.problem
        if not self.preconditioner:
            return torch.ones_like(self.start)
        rows = problem.per_example_gradients(batch)
        squares = torch.cat([rows[name].square().mean(0).flatten() for name in problem.params])
        found: Tensor = (squares + max(self.damping, LEAST_DAMPING)) ** 0.75
        return found

    def solve(self, here: Linearization, scale: Tensor) -> Path:
        """Return the iterates of the solve with (G + lambda I)."""
        damping, ledger = self.damping, self.problem.ledger
        with ledger.charged():  # the inner products; the products with G count themselves
            path = preconditioned(
                lambda v: here.ggn_vp(v) + damping * v,
                here.gradient,
                self.start,
                scale,
                self.iterations,
                self.progress,
            )
        ledger.charge("other", path.flops)
        return path

    def _best(self, path: Path, batch: Batch) -> tuple[int, float]:
        """Go back over the iterates while the objective falls; return which one it is, and the objective there."""
        start = self.problem.flat()
        place = len(path.iterates) - 1
        value = self._along(start, path.iterates[place], batch)(1.0)
        while place > 1:
            before = self._along(start, path.iterates[place - 1], batch)(1.0)
            if math.isfinite(value) and not before < value:
                break
            place, value = place - 1, before
        return place, value

    def _along(self, start: Tensor, direction: Tensor, batch: Batch) -> partial[float]:
        return partial(self._value, start, direction, batch)

    def _value(self, start: Tensor, direction: Tensor, batch: Batch, step: float) -> float:
        problem = self.problem
        with torch.no_grad():
            return float(problem.functional_objective(problem.unflatten(start + step * direction), batch))

    def _model(self, here: Linearization, direction: Tensor, value: float) -> tuple[float, float]:
        """Return the slope along a direction and the decrease that the model without its damping predicts."""
        ledger = self.problem.ledger
        with ledger.work("slopes", per="call", calls=2):
            slope, square = float(here.gradient.dot(direction)), float(direction.dot(direction))
        return slope, -(value - 0.5 * self.damping * square)

    def _adapt(self, rho: float) -> None:
        moved = 1.5 if not rho >= 0.25 else 2 / 3 if rho > 0.75 else 1.0
        self.damping = min(max(self.damping * moved, LEAST_DAMPING), MOST_DAMPING)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check the solve against a whole matrix, and that a quadratic takes one step."""
        return (
            Oracle("a quadratic in one step", partial(_quadratic, 200), 1e-10),
            Oracle("not with three products", partial(_quadratic, 3), 1e-3, differs=True),
            Oracle("the solve is with G + lambda I", partial(_solve_error, 1.0, True), 1e-10),
            Oracle("without M and with a warm start too", partial(_solve_error, 1.0, False), 1e-10),
            Oracle("not with twice lambda", partial(_solve_error, 2.0, True), 1e-3, differs=True),
        )


def _quadratic(iterations: int) -> float:
    """Return |gradient| after one step on a convex quadratic without damping, over that before."""
    problem, batch = toy((5, 3), rows=20, loss="half_squared_error")
    rule = set_up(HessianFree(0.0, iterations, 0.0), problem)
    before = problem.linearize(batch).gradient.norm()
    rule.step(batch)
    return float(problem.linearize(batch).gradient.norm() / before)


def _solve_error(times: float, scaled: bool) -> float:
    """Return the relative error of the last iterate as a solution with `times` lambda."""
    problem, batch = toy((3, 4, 2))
    rule = set_up(HessianFree(0.1, 300, 0.0, scaled), problem)
    if not scaled:
        rule.start = torch.ones_like(rule.start)
    here = problem.linearize(batch)
    d = rule.solve(here, rule.scale(batch)).iterates[-1]
    wrong = here.ggn_vp(d) + times * rule.damping * d + here.gradient
    return float(wrong.norm() / here.gradient.norm())
