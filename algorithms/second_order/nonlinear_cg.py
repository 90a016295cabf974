"""Nonlinear conjugate gradients: each search direction bends the gradient by the one before."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from altprop import Algorithm, Batch, BatchMode, Capability, Oracle, Problem, StepResult, check_name
from altprop.algorithms.second_order.bfgs import next_known
from altprop.algorithms.second_order.descent import Place, descend
from altprop.algorithms.second_order.line_search import StrongWolfe
from altprop.testing import set_up, toy

RULES = ("fletcher_reeves", "polak_ribiere", "hager_zhang")


class NonlinearCG(Algorithm):
    """Search along d <- -g + beta d, with g, (D,), the gradient over the whole training set.

    With g_0 the gradient before and y = g - g_0, `rule` gives beta:

        fletcher_reeves:  g . g / g_0 . g_0
        polak_ribiere:    max(0, g . y / g_0 . g_0)
        hager_zhang:      max(eta, (y - 2 d |y|^2 / (d . y)) . g / (d . y)),  eta = -1 / (|d| min(.01, |g_0|))

    The search is for the strong Wolfe conditions with a slope of at most a tenth, which these rules need to descend;
    the first trial is the step before, in units of its slope. A direction that does not descend, or one that is not
    finite, starts anew from -g; so does what follows a search that found no decrease, after which nothing moved.

    Args:
        rule: see above.

    Raises:
        AltpropError: for an unknown rule.

    Paper: Fletcher and Reeves 1964; Polak and Ribiere 1969, as Powell cut it off at 0; Hager and Zhang 2005,
    doi:10.1137/030601880, without their own line search. Nocedal and Wright, 2nd edition, section 5.2.
    """

    not_stacked: ClassVar[str] = "each seed's line search ends at the values that it meets"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT})
    batch: BatchMode = BatchMode.FULL
    state: ClassVar[tuple[str, ...]] = ("last", "descent", "known")

    def __init__(self, rule: str = "polak_ribiere") -> None:
        self.rule = check_name(rule, "algorithm.rule", RULES)
        self.search = StrongWolfe(flat=0.1)

    def _setup(self, problem: Problem) -> None:
        self.last: tuple[Tensor, Tensor] | None = None
        self.descent = 0.0
        self.known: Place | None = None

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        moved = descend(self.problem, batch, self.known, self.direction, self.search, self._first)
        self.last = (moved.gradient, moved.direction) if moved.step > 0 else None
        self.descent = moved.step * moved.slope
        self.known = next_known(self.problem, moved)
        return StepResult(moved.loss, moved.scalars)

    def _first(self, slope: float, size: float, restarted: bool) -> float:
        return self.descent / slope if self.descent < 0 else min(1.0, 1.0 / size)

    def direction(self, gradient: Tensor) -> Tensor:
        """Return -g + beta d, (D,)."""
        if self.last is None:
            return -gradient
        with self.problem.ledger.work("beta", per="call"):
            return self.beta(gradient, *self.last) * self.last[1] - gradient

    def beta(self, g: Tensor, before: Tensor, d: Tensor) -> Tensor:
        """Return how much of the direction d, (D,), is kept, a scalar, from the gradients now and before, (D,)."""
        if self.rule == "fletcher_reeves":
            return g.dot(g) / before.dot(before)
        y = g - before
        if self.rule == "polak_ribiere":
            return (g.dot(y) / before.dot(before)).clamp(min=0)
        along = d.dot(y)
        least = -1 / (d.norm() * before.norm().clamp(max=0.01))
        return torch.maximum((y - (2 * y.dot(y) / along) * d).dot(g) / along, least)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that with exact searches every rule solves a quadratic of D dimensions in D steps."""
        return (
            *(Oracle(f"{rule}: a quadratic in D exact searches", partial(_quadratic, rule), 1e-10) for rule in RULES),
            Oracle("not steepest descent", partial(_quadratic, None), 1e-3, differs=True),
            Oracle("on a net the rules differ", _rules_differ, 1e-3, differs=True),
        )


def _quadratic(rule: str | None) -> float:
    """Return |gradient| after D exact searches over that before, with a rule or with beta = 0."""
    problem, batch = toy((5, 1), rows=20, loss="half_squared_error")
    learner = set_up(NonlinearCG(rule or "fletcher_reeves"), problem)
    here = problem.linearize(batch)
    size = len(here.gradient)
    hessian = torch.stack([here.hvp(v) for v in torch.eye(size, dtype=problem.dtype, device="cpu")])
    gradient = here.gradient
    for _ in range(size):
        direction = learner.direction(gradient)
        learner.last = None if rule is None else (gradient, direction)
        length = -gradient.dot(direction) / direction.dot(hessian @ direction)
        gradient = gradient + length * (hessian @ direction)
    return float(gradient.norm() / here.gradient.norm())


def _rules_differ() -> float:
    """Return the smallest relative distance between the directions of two rules, on a net."""
    problem, batch = toy((4, 5, 3))
    learner = set_up(NonlinearCG(), problem)
    for _ in range(3):
        learner.step(batch)
    gradient, found = problem.flatten(problem.gradient(batch)[1]), []
    for rule in RULES:
        learner.rule = rule
        found.append(learner.direction(gradient))
    pairs = ((0, 1), (0, 2), (1, 2))
    return min(float((found[i] - found[j]).norm() / found[i].norm()) for i, j in pairs)
