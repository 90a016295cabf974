"""The learner that learns nothing: what a task's figures read without any change of the weights."""

from torch import Tensor

from altprop import Algorithm, Batch, Oracle, PredictorKind, Problem
from altprop.testing import toy


class Null(Algorithm):
    """Evaluate the objective on every batch and change nothing: the floor under every other learner.

    >>> problem, batch = toy()
    >>> rule = Null()
    >>> rule.setup(problem)
    >>> bool(rule.step(batch).loss == rule.step(batch).loss)
    True
    """

    kind = PredictorKind.MODEL

    def _setup(self, problem: Problem) -> None:
        """Prepare nothing."""

    def _step(self, batch: Batch | None) -> Tensor:
        assert batch is not None
        return self.problem.objective(batch)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        return (
            Oracle("no weight changes", _change, 0.0),
            Oracle("its loss is the objective", _loss_error, 0.0),
            Oracle("not under a step of gradient descent", _descent_change, 0.01, differs=True),
        )


def _change(steps: int = 5) -> float:
    """Return the largest change of any weight over some steps."""
    problem, batch = toy()
    rule = Null()
    rule.setup(problem)
    before = problem.flat()
    for _ in range(steps):
        rule.step(batch)
    return float((problem.flat() - before).abs().max())


def _descent_change(rate: float = 0.1) -> float:
    """Return what `_change` would see if the weights moved: the largest change over one step along the gradient."""
    problem, batch = toy()
    before = problem.flat()
    problem.assign(before - rate * problem.flatten(problem.gradient(batch)[1]))
    return float((problem.flat() - before).abs().max())


def _loss_error() -> float:
    problem, batch = toy()
    rule = Null()
    rule.setup(problem)
    loss = rule.step(batch).loss
    assert loss is not None
    return float((loss - problem.gradient(batch)[0]).abs())
