"""Truncated Newton: conjugate gradients on the curvature, damped, with a line search."""

import math
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
from altprop.algorithms.second_order.conjugate_gradient import Solution, conjugate_gradient
from altprop.algorithms.second_order.line_search import Backtracking
from altprop.linearization import Linearization
from altprop.testing import toy

CURVATURES = ("gauss_newton", "hessian")
APPETITES = ("full", "mini")
LEAST_DAMPING, MOST_DAMPING = 1e-10, 1e10  # where the adaptive rule stops


class NewtonCG(Algorithm):
    """Solve (A + lambda I) d = -g by a few conjugate gradients, then search along d.

    g is the gradient, A the Hessian or the generalised Gauss-Newton matrix of the objective on the batch, seen only
    through its products with vectors. The solve ends where |g + (A + lambda I) d| <= tolerance |g|, with
    tolerance = min(.3, sqrt |g|) unless given (superlinear convergence), after `iterations` products, or at negative
    curvature. A backtracking line search decides how far to go; nothing changes where it finds no decrease. With rho
    the decrease of a full step over the one that the quadratic model predicts, lambda grows by `factor` where
    rho < 1/4 and shrinks by it where rho > 3/4 (Levenberg's rule).

    Everything inside a step is evaluated under one noise (`Problem.same_noise`), so with dropout the line search and
    all products see one function. By default a step takes the whole training set: curvature, search and ratio are then
    statements about the objective itself. On mini-batches (`batch_mode=mini`) they are statements about the batch,
    which lambda, ever shrinking, does not notice. Products of the Gauss-Newton matrix leave
    out a penalty of the noise; those of the Hessian hold it.

    Args:
        curvature: gauss_newton (never negative) or hessian.
        damping: lambda at the start, on the scale of the mean loss's curvature.
        factor: by which lambda moves with rho; 1 keeps it as it is.
        iterations: the largest number of products a step.
        tolerance: relative, or None for the rule above.
        line_search: whether to search; the full step is taken otherwise.
        batch_mode: full, or mini for the task's batches.

    Raises:
        AltpropError: for an unknown curvature or a number out of range.

    Paper: Dembo and Steihaug 1983; Martens 2010 (Hessian-free optimisation, without its preconditioner and warm
    start); Nocedal and Wright, 2nd edition, section 7.1.
    """

    not_stacked: ClassVar[str] = "conjugate gradients end, and trust is given, by the values that each seed meets"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT, Capability.CURVATURE})
    batch: BatchMode = BatchMode.FULL
    state: ClassVar[tuple[str, ...]] = ("damping",)

    def __init__(
        self,
        curvature: str = "gauss_newton",
        damping: float = 1.0,
        factor: float = 2.0,
        iterations: int = 10,
        tolerance: float | None = None,
        line_search: bool = True,
        batch_mode: str = "full",
    ) -> None:
        self.batch = BatchMode(check_name(batch_mode, "algorithm.batch_mode", APPETITES))
        self.curvature = check_name(curvature, "algorithm.curvature", CURVATURES)
        self.damping = check_number(damping, "algorithm.damping", 0.0)
        self.factor = check_number(factor, "algorithm.factor", 1.0)
        self.iterations = check_whole(iterations, "algorithm.iterations", 1)
        self.tolerance = None if tolerance is None else check_number(tolerance, "algorithm.tolerance", 0.0, below=1.0)
        self.search = Backtracking() if line_search else None

    def _setup(self, problem: Problem) -> None:
        pass

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        with problem.same_noise():
            here = problem.linearize(batch)
            solution = self.solve(here)
            direction, slope = solution.direction, float(here.gradient.dot(solution.direction))
            predicted = -(slope + 0.5 * (solution.bend - self.damping * float(direction.dot(direction))))
            used = {"damping": self.damping, "products": float(solution.iterations)}
            if not slope < 0:
                return StepResult(here.loss, {**used, "step": 0.0, "negative_curvature": 0.0})
            start = problem.flat()
            step, rho = self._move(start, direction, float(here.loss), slope, predicted, solution.negative, batch)
        if self.factor > 1:
            grown = self.factor if not rho >= 0.25 else 1 / self.factor if rho > 0.75 else 1.0
            self.damping = min(max(self.damping * grown, LEAST_DAMPING), MOST_DAMPING)
        scalars = {**used, "step": step, "rho": rho, "negative_curvature": float(solution.negative)}
        return StepResult(here.loss, scalars)

    def solve(self, here: Linearization) -> Solution:
        """Return the direction: (A + lambda I) d = -g, truncated."""
        gradient, damping = here.gradient, self.damping
        size = float(gradient.norm())
        tolerance = min(0.3, math.sqrt(size)) if self.tolerance is None else self.tolerance
        product = here.hvp if self.curvature == "hessian" else here.ggn_vp
        ledger = self.problem.ledger
        with ledger.charged():  # the inner products; the products with A count themselves
            solution = conjugate_gradient(lambda v: product(v) + damping * v, gradient, self.iterations, tolerance)
        ledger.charge("other", solution.flops)
        return solution

    def _move(
        self,
        start: Tensor,
        direction: Tensor,
        loss: float,
        slope: float,
        predicted: float,
        negative: bool,
        batch: Batch,
    ) -> tuple[float, float]:
        """Write the new parameters; return the factor on the direction and the reduction ratio of a full step."""
        problem = self.problem

        def phi(step: float) -> float:
            with torch.no_grad():
                return float(problem.functional_objective(problem.unflatten(start + step * direction), batch))

        if self.search is None:
            step, value = 1.0, phi(1.0) if self.factor > 1 else loss - predicted
        else:
            found = self.search.search(phi, loss, slope, growth=2.0 if negative else 1.0)
            step, value = found.step, found.first
        if step > 0:
            problem.assign(start + step * direction)
        return step, (loss - value) / predicted if predicted > 0 else -math.inf

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that on a quadratic D products solve exactly, and the products against the Hessian itself."""
        return (
            Oracle("a quadratic in one step of D products", lambda: _quadratic(1.0), 1e-12),
            Oracle("not with a fraction of D products", lambda: _quadratic(0.2), 1e-3, differs=True),
            Oracle("hvp is the Hessian times v", lambda: _product_error("hessian", "tanh"), 1e-12),
            Oracle(
                "Gauss-Newton is the Hessian of a linear net", lambda: _product_error("gauss_newton", "none"), 1e-12
            ),
            Oracle("not of a tanh net", lambda: _product_error("gauss_newton", "tanh"), 1e-3, differs=True),
        )


def _quadratic(share: float) -> float:
    """Return the gradient norm after one undamped step on a convex quadratic, over that before.

    The quadratic is the squared error of a linear net.
    """
    problem, batch = toy((5, 3), rows=20, loss="half_squared_error")
    count = max(1, round(share * problem.flat().numel()))
    rule = NewtonCG("hessian", damping=0.0, factor=1.0, iterations=count, tolerance=0.0, line_search=False)
    rule.setup(problem)
    before = problem.linearize(batch).gradient.norm()
    rule.step(batch)
    return float(problem.linearize(batch).gradient.norm() / before)


def _product_error(curvature: str, activation: str) -> float:
    """Return the largest difference of the products with the basis from the Hessian by torch.func, over its norm."""
    problem, batch = toy((3, 2) if activation == "none" else (3, 4, 2), activation="tanh")
    flat = problem.flat()

    def objective(v: Tensor) -> Tensor:
        return problem.functional_objective(problem.unflatten(v), batch)

    exact = torch.func.jacrev(torch.func.grad(objective))(flat)
    here = problem.linearize(batch)
    product = here.hvp if curvature == "hessian" else here.ggn_vp
    basis = torch.eye(flat.numel(), dtype=flat.dtype, device=flat.device)
    found = torch.stack([product(v) for v in basis])
    return float((found - exact).norm() / exact.norm())
