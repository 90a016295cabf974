"""Saddle-free Newton: the Hessian's eigenvalues by their magnitude, so that a saddle repels."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from altprop import Algorithm, Batch, BatchMode, Capability, Oracle, Problem, StepResult, check_number
from altprop.algorithms.second_order import dense
from altprop.testing import toy


class SaddleFreeNewton(Algorithm):
    """Move by d = -(|H| + lambda I)^-1 g, with |H| the Hessian whose eigenvalues are replaced by their magnitudes.

    g, (D,), is the gradient over the whole training set, H = Q diag(h) Q^T, (D, D), the Hessian and |H| = Q diag(|h|)
    Q^T. Along directions of negative curvature Newton's step goes uphill to the saddle; this one goes away from it, as
    far as the curvature's magnitude says. A step is taken where the objective falls, and lambda follows how far the
    quadratic model with H itself is right (`dense.judged`). A Hessian that is not finite leaves the weights and raises
    lambda; `taken` is 0 then.

    Args:
        damping: lambda at the start, on the scale of the mean loss's curvature, above 0.
        largest: numbers that H may hold; a problem with more is refused.

    Raises:
        AltpropError: for a number out of range.

    Paper: Dauphin, Pascanu, Gulcehre, Cho, Ganguli and Bengio 2014, arXiv:1406.2572, with the whole spectrum where they
    take a Krylov space, and the damping of Nielsen 1999 in place of their search for one in every step.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT, Capability.CURVATURE})
    batch: BatchMode = BatchMode.FULL
    state: ClassVar[tuple[str, ...]] = ("trust",)

    def __init__(self, damping: float = 0.01, largest: float = 4e6) -> None:
        self.damping = check_number(damping, "algorithm.damping", above=0.0)
        self.largest = check_number(largest, "algorithm.largest", above=0.0)

    def _setup(self, problem: Problem) -> None:
        dense.refuse_large(
            problem, "saddle_free_newton", self.largest, "algorithm=newton_cg algorithm.curvature=hessian"
        )
        self.trust = dense.first_trust(problem, self.damping)

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        with problem.same_noise():
            loss, gradient, matrix = dense.hessian(problem, batch)
            with torch.no_grad(), problem.ledger.primitive("update", 0):
                direction, least = repelled(matrix, self.trust[0], gradient)
                promised = dense.predicted(gradient, direction, matrix)
            self.trust, told = dense.try_step(problem, batch, loss, direction, promised, self.trust)
        return StepResult(loss, {**told, "least_curvature": least})

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check it where Newton's step is known: the same on a convex quadratic, mirrored along negative curvature."""
        return (
            Oracle("convex: Newton's step", partial(_against_newton, 1.0), 1e-10),
            Oracle("negative curvature: minus Newton's step", partial(_against_newton, -1.0), 1e-10),
            Oracle("a saddle: not Newton's step", partial(_saddle, True), 0.5, differs=True),
            Oracle("a saddle: away from it along the negative curvature alone", partial(_saddle, False), 1e-10),
        )


def repelled(matrix: Tensor, damping: Tensor | float, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return -(|matrix| + damping I)^-1 gradient, (D,), and the least eigenvalue; 0 where the matrix is not finite."""
    good = torch.isfinite(matrix.sum() + gradient.sum())
    safe = torch.where(good, matrix, torch.zeros_like(matrix))
    values, q = torch.linalg.eigh(safe)
    d = -(q @ ((q.mT @ gradient) / (values.abs() + damping)))
    return torch.where(good & torch.isfinite(d.sum()), d, torch.zeros_like(d)), values[0]


def _matrix(sign: float) -> tuple[Tensor, Tensor]:
    """Return a definite Hessian times a sign, and a gradient."""
    problem, batch = toy((5, 1), rows=20, loss="half_squared_error")
    _, gradient, matrix = dense.hessian(problem, batch)
    return sign * matrix, gradient


def _against_newton(sign: float) -> float:
    matrix, gradient = _matrix(sign)
    newton = dense.solved(matrix, 0.0, gradient)
    return float((repelled(matrix, 1e-14, gradient)[0] - sign * newton).norm() / newton.norm())


def _saddle(newton: bool) -> float:
    """Return the relative distance from Newton's step, or from it mirrored along the negative curvatures."""
    matrix, gradient = _matrix(1.0)
    values, q = torch.linalg.eigh(matrix)
    signs = torch.where(torch.arange(len(values), device="cpu") % 2 == 0, -1.0, 1.0).to(values.dtype)
    saddle = q @ torch.diag(signs * values) @ q.T
    step = dense.solved(saddle, 0.0, gradient)
    expected = step if newton else q @ (signs * (q.T @ step))
    return float((repelled(saddle, 1e-14, gradient)[0] - expected).norm() / expected.norm())
