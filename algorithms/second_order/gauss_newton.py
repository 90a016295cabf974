"""Gauss-Newton with the whole matrix: least squares, and any other convex loss of the outputs."""

from functools import partial
from typing import ClassVar

import torch

from altprop import Algorithm, Batch, BatchMode, Capability, Oracle, Problem, StepResult, check_number
from altprop.algorithms.second_order import dense
from altprop.testing import set_up, toy


class GaussNewton(Algorithm):
    """Solve (J^T H_L J + lambda I) d = -g and move by d where that lowers the objective.

    g, (D,), is the gradient over the whole training set, J, (rows C, D), the Jacobian of the outputs and H_L the
    Hessian of the loss in the outputs: for squared errors the identity, which is the method of Gauss, and for
    cross-entropy diag(p) - p p^T of each row. The matrix is never indefinite. lambda follows how far the quadratic
    model is right (`dense.judged`); a step that does not lower the objective, or that is not finite, leaves the weights
    and raises lambda, and `taken` is 0 then.

    `levenberg_marquardt` takes the same step for least squares, by the smaller of two systems, with further trials in
    the same step; `hessian_free` and `newton_cg` need no matrix.

    Args:
        damping: lambda at the start, on the scale of the mean loss's curvature, at least 0.
        largest: numbers that the matrix and J may each hold; a problem with more is refused.

    Raises:
        AltpropError: for a number out of range.

    Paper: Schraudolph 2002, doi:10.1162/08997660260028683, for the matrix; Nielsen 1999 for lambda.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT, Capability.CURVATURE})
    batch: BatchMode = BatchMode.FULL
    state: ClassVar[tuple[str, ...]] = ("trust",)

    def __init__(self, damping: float = 0.01, largest: float = 2e7) -> None:
        self.damping = check_number(damping, "algorithm.damping", 0.0)
        self.largest = check_number(largest, "algorithm.largest", above=0.0)

    def _setup(self, problem: Problem) -> None:
        problem.refuse_batch_norm("the Jacobians of gauss_newton")
        dense.refuse_large(problem, "gauss_newton", self.largest, "algorithm=newton_cg", problem.train_size)
        self.trust = dense.first_trust(problem, self.damping)

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        with problem.same_noise():
            loss, grads = problem.gradient(batch)
            gradient, matrix = problem.flatten(grads), dense.gauss_newton(problem, batch)
            with torch.no_grad(), problem.ledger.primitive("update", 0):
                direction = dense.solved(matrix, self.trust[0], gradient)
                promised = dense.predicted(gradient, direction, matrix)
            self.trust, told = dense.try_step(problem, batch, loss, direction, promised, self.trust)
        return StepResult(loss, told)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check the matrix against products and the step against least squares."""
        return (
            Oracle("linear net: one step is least squares", partial(_against_least_squares, 0.0), 1e-11),
            Oracle("not with lambda = 0.1", partial(_against_least_squares, 0.1), 1e-3, differs=True),
            *(Oracle(f"the matrix is that of the products: {e}", partial(_matrix_error, e), 1e-12) for e in LOSSES),
            Oracle("it is not the Hessian", _hessian_distance, 1e-3, differs=True),
        )


LOSSES = ("cross_entropy", "mse", "binary_cross_entropy")


def _against_least_squares(damping: float) -> float:
    problem, batch = toy((4, 3), rows=30, loss="mse")
    set_up(GaussNewton(damping), problem).step(batch)
    design = torch.cat([batch.inputs, torch.ones_like(batch.inputs[:, :1])], 1)
    exact = torch.linalg.lstsq(design, batch.targets).solution
    weight, bias = (p.detach() for p in problem.params.values())
    return float((torch.cat([weight.T, bias[None]]) - exact).norm() / exact.norm())


def _matrix_error(loss: str) -> float:
    problem, batch = toy((4, 5, 3), loss=loss)
    here = problem.linearize(batch)
    unit = torch.eye(len(here.gradient), dtype=problem.dtype, device="cpu")
    exact = torch.stack([here.ggn_vp(row) for row in unit])
    return float((dense.gauss_newton(problem, batch) - exact).norm() / exact.norm())


def _hessian_distance() -> float:
    problem, batch = toy((4, 5, 3))
    exact = dense.hessian(problem, batch)[2]
    return float((dense.gauss_newton(problem, batch) - exact).norm() / exact.norm())
