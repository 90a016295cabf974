"""Newton's method with the exact Hessian, for problems small enough that it can be written down."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from altprop import Algorithm, Batch, BatchMode, Capability, Oracle, Problem, StepResult, check_name, check_number
from altprop.algorithms.second_order import dense
from altprop.testing import set_up, toy

STEPS = ("trust", "full")


class Newton(Algorithm):
    """Solve (H + lambda I) d = -g and move by d.

    g, (D,), is the gradient over the whole training set and H, (D, D), the Hessian, written down by D products. With
    `step=trust` a step is taken where the objective falls, and lambda follows how far the quadratic model is right
    (`dense.judged`); a step that is not taken leaves the weights and raises lambda. With `step=full` every step is
    taken and lambda stays: the method of the textbooks, which goes to the nearest stationary point, a saddle or a
    maximum as well as a minimum. A matrix that cannot be solved with, or a direction that is not finite, gives d = 0:
    nothing moves, and `taken` is 0.

    Args:
        damping: lambda at the start, on the scale of the mean loss's curvature.
        step: trust or full.
        largest: numbers that H may hold; a problem with more is refused.

    Raises:
        AltpropError: for an unknown name or a number out of range.

    Paper: Nocedal and Wright, 2nd edition, sections 3.3 and 6.3; the damping of Nielsen 1999, IMM-REP-1999-05.
    """

    not_stacked: ClassVar[str] = (
        "a Hessian that is almost singular magnifies the rounding in which stacked seeds differ"
    )
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT, Capability.CURVATURE})
    batch: BatchMode = BatchMode.FULL
    state: ClassVar[tuple[str, ...]] = ("trust",)

    def __init__(self, damping: float = 0.01, step: str = "trust", largest: float = 4e6) -> None:
        self.damping = check_number(damping, "algorithm.damping", 0.0)
        self.how = check_name(step, "algorithm.step", STEPS)
        self.largest = check_number(largest, "algorithm.largest", above=0.0)

    def _setup(self, problem: Problem) -> None:
        dense.refuse_large(
            problem, "newton", self.largest, "algorithm=newton_cg, which needs products with the Hessian alone"
        )
        self.trust = dense.first_trust(problem, self.damping)

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        with problem.same_noise():
            loss, gradient, matrix = dense.hessian(problem, batch)
            with torch.no_grad(), problem.ledger.primitive("update", 0):
                direction = dense.solved(matrix, self.trust[0], gradient)
                promised = dense.predicted(gradient, direction, matrix)
            if self.how == "full":
                problem.assign(problem.flat() + direction)
                return StepResult(loss, {"taken": (direction != 0).any().to(loss.dtype)})
            self.trust, told = dense.try_step(problem, batch, loss, direction, promised, self.trust)
        return StepResult(loss, told)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check the Hessian against torch.func, and that a quadratic takes one step."""
        return (
            Oracle("a quadratic in one step", partial(_quadratic, 0.0), 1e-12),
            Oracle("not with damping", partial(_quadratic, 0.1), 1e-3, differs=True),
            Oracle("H is the Hessian", _hessian_error, 1e-12),
        )


def _quadratic(damping: float) -> float:
    """Return |gradient| after one full step on a convex quadratic, over that before."""
    problem, batch = toy((5, 3), rows=20, loss="half_squared_error")
    rule = set_up(Newton(damping, "full"), problem)
    before = problem.flatten(problem.gradient(batch)[1]).norm()
    rule.step(batch)
    return float(problem.flatten(problem.gradient(batch)[1]).norm() / before)


def _hessian_error() -> float:
    problem, batch = toy((3, 4, 2))

    def objective(v: Tensor) -> Tensor:
        return problem.functional_objective(problem.unflatten(v), batch)

    exact = torch.func.jacrev(torch.func.grad(objective))(problem.flat())
    return float((dense.hessian(problem, batch)[2] - exact).norm() / exact.norm())
