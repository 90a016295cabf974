"""Levenberg-Marquardt: damped Gauss-Newton steps on a sum of squares, with the Jacobian at hand."""

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    Batch,
    BatchMode,
    Capability,
    Oracle,
    Problem,
    Refused,
    StepResult,
    check_name,
    check_number,
    check_whole,
)
from altprop.testing import toy

FORMS = ("auto", "primal", "dual")
RULES = ("nielsen", "marquardt")
LEAST_DAMPING, MOST_DAMPING = 1e-15, 1e10


class System(NamedTuple):
    """The objective on a batch as 1/2 |r|^2 around the present parameters.

    Attributes:
        residuals: r, (M,), M = rows x outputs.
        jacobian: J = dr/dtheta, (M, D).
        gradient: J^T r, (D,).
        gram: J^T J, (D, D), in the primal form, else J J^T, (M, M).
        primal: which of the two.
    """

    residuals: Tensor
    jacobian: Tensor
    gradient: Tensor
    gram: Tensor
    primal: bool


class LevenbergMarquardt(Algorithm):
    """Solve (J^T J + lambda I) d = -J^T r and move by d where that lowers the loss; else raise lambda and try again.

    r, (M,), are the residuals, scaled so that the objective is 1/2 |r|^2, and J, (M, D), their Jacobian; one of M =
    rows x outputs and D parameters is often much smaller, so the system is solved in its primal form (D x D) or in its
    dual form d = -J^T (J J^T + lambda I)^-1 r (M x M), by Cholesky factors. With rho the decrease of the loss over the
    one that the quadratic model predicts, `rule` moves lambda:

        nielsen:    rho > 0: lambda *= max(1/3, 1 - (2 rho - 1)^3), nu = 2;  else: lambda *= nu, nu *= 2
        marquardt:  rho > 0: lambda /= 10;                                   else: lambda *= 10

    A step that does not lower the loss is never taken. All trials of a step are under one noise
    (`Problem.same_noise`). It learns from the whole training set (FULL), on which the loss never rises without noise.

    Args:
        damping: lambda at the start, on the scale of the mean loss's curvature.
        rule: nielsen or marquardt.
        form: primal, dual, or auto for the smaller of the two.
        tries: of a step, each with a greater lambda.
        largest: numbers that J may hold; a problem with more is refused.

    Raises:
        AltpropError: for an unknown name or a number out of range.

    Paper: Levenberg 1944; Marquardt 1963; Nielsen 1999, Damping parameter in Marquardt's method, IMM-REP-1999-05.
    Marquardt scales the damping by the diagonal of J^T J; here it is the identity, as in Levenberg and Nielsen.
    """

    not_stacked: ClassVar[str] = "each seed raises its damping as often as its own trials fail"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT, Capability.LEAST_SQUARES})
    batch: BatchMode = BatchMode.FULL
    state: ClassVar[tuple[str, ...]] = ("damping", "nu")

    def __init__(
        self,
        damping: float = 0.01,
        rule: str = "nielsen",
        form: str = "auto",
        tries: int = 10,
        largest: float = 5e7,
    ) -> None:
        self.damping, self.nu = check_number(damping, "algorithm.damping", above=0.0), 2.0
        self.rule = check_name(rule, "algorithm.rule", RULES)
        self.form = check_name(form, "algorithm.form", FORMS)
        self.tries = check_whole(tries, "algorithm.tries", 1)
        self.largest = check_number(largest, "algorithm.largest", above=0.0)

    def _setup(self, problem: Problem) -> None:
        if problem.spec.sequence:
            raise Refused("levenberg_marquardt needs one output a row, and this task's rows are sequences")
        problem.refuse_batch_norm("the residuals' Jacobians of levenberg_marquardt")
        if problem.penalty() is not None:
            raise Refused(
                "levenberg_marquardt minimises a sum of squares, and the task or dropout adds a penalty to it"
            )
        numbers = problem.train_size * problem.spec.outputs * problem.flat().numel()
        if numbers > self.largest:
            raise Refused(
                f"levenberg_marquardt needs a Jacobian of {numbers:,} numbers, above algorithm.largest="
                f"{self.largest:,.0f}; try a smaller model or algorithm=newton_cg, which needs products alone"
            )

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        with problem.same_noise():
            system = self.system(batch)
            loss = 0.5 * system.residuals.dot(system.residuals)
            start, before = problem.flat(), float(loss)
            trials, taken, used, rho = 0, False, self.damping, -math.inf
            while not taken and trials < self.tries and bool(system.gradient.any()):
                trials, used = trials + 1, self.damping
                direction, predicted = self.solve(system, used)
                with torch.no_grad():
                    after = float(problem.functional_objective(problem.unflatten(start + direction), batch))
                rho = (before - after) / predicted if predicted > 0 and math.isfinite(after) else -math.inf
                taken = after < before and rho > 0
                self._adapt(taken, rho)
            if taken:
                problem.assign(start + direction)
        return StepResult(loss, {"damping": used, "trials": float(trials), "taken": float(taken), "rho": rho})

    def system(self, batch: Batch) -> System:
        """Return residuals, Jacobian and Gram matrix; elements whose target may not be used have r = 0."""
        problem = self.problem
        outputs, jacobian = problem.jacobian(batch)
        error = problem.output_gradient(outputs, batch)
        scale = problem.output_curvature(outputs, torch.ones_like(outputs), batch).sqrt()
        r = torch.where(scale > 0, error / scale, torch.zeros_like(error)).flatten()
        j = (scale[..., None] * jacobian).flatten(0, 1)
        primal = self.form == "primal" or (self.form == "auto" and j.shape[1] <= j.shape[0])
        return System(r, j, r @ j, j.T @ j if primal else j @ j.T, primal)

    def solve(self, system: System, damping: float) -> tuple[Tensor, float]:
        """Return d, (D,), and the decrease that the model predicts; d = 0 where there is no Cholesky factor."""
        gram, gradient = system.gram, system.gradient
        with self.problem.ledger.primitive("update", 0):
            factor, info = torch.linalg.cholesky_ex(
                gram + damping * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            )
            right = gradient if system.primal else system.residuals
            solved = torch.cholesky_solve(right[:, None], factor)[:, 0]
            direction = -solved if system.primal else -(solved @ system.jacobian)
            predicted = 0.5 * float(direction.dot(damping * direction - gradient))
        return (direction, predicted) if int(info) == 0 else (torch.zeros_like(gradient), 0.0)

    def _adapt(self, taken: bool, rho: float) -> None:
        if self.rule == "nielsen":
            self.damping *= max(1 / 3, 1 - (2 * rho - 1) ** 3) if taken else self.nu
            self.nu = 2.0 if taken else min(2 * self.nu, MOST_DAMPING)
        else:
            self.damping *= 0.1 if taken else 10.0
        self.damping = min(max(self.damping, LEAST_DAMPING), MOST_DAMPING)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that on a linear net it is least squares; both forms of the system have one solution."""
        return (
            Oracle("linear net, lambda -> 0 is least squares", lambda: _against_least_squares(1e-15), 1e-11),
            Oracle("not with lambda = 0.1", lambda: _against_least_squares(0.1), 1e-3, differs=True),
            Oracle("J^T r is the gradient", lambda: _gradient_error("mse"), 1e-14),
            Oracle("primal is dual", lambda: _forms_differ(0.0), 1e-10),
            Oracle("not with another lambda", lambda: _forms_differ(0.01), 1e-3, differs=True),
        )


def _ready(sizes: tuple[int, ...], rows: int, loss: str, **options: Any) -> tuple[LevenbergMarquardt, Batch]:
    problem, batch = toy(sizes, rows=rows, loss=loss)
    rule = LevenbergMarquardt(**options)
    rule.setup(problem)
    return rule, batch


def _against_least_squares(damping: float) -> float:
    """Return the relative distance of the weights from those of least squares, after one step on a linear net."""
    rule, batch = _ready((4, 3), 30, "mse", damping=damping)
    rule.step(batch)
    design = torch.cat([batch.inputs, torch.ones_like(batch.inputs[:, :1])], 1)
    exact = torch.linalg.lstsq(design, batch.targets).solution
    weight, bias = (p.detach() for p in rule.problem.params.values())
    found = torch.cat([weight.T, bias[None]])
    return float((found - exact).norm() / exact.norm())


def _gradient_error(loss: str) -> float:
    rule, batch = _ready((4, 6, 3), 10, loss)
    exact = rule.problem.linearize(batch).gradient
    return float((rule.system(batch).gradient - exact).norm() / exact.norm())


def _forms_differ(further: float) -> float:
    """Return the distance between the primal solution and the dual one with a damping that is `further` greater."""
    rule, batch = _ready((4, 6, 3), 10, "half_squared_error", form="primal")
    primal, _ = rule.solve(rule.system(batch), 0.01)
    rule.form = "dual"
    dual, _ = rule.solve(rule.system(batch), 0.01 + further)
    return float((primal - dual).norm() / primal.norm())
