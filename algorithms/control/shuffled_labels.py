"""Backpropagation on shuffled labels: what a table shows of a learner that has nothing to learn."""

from collections.abc import Callable

import torch
from torch import Tensor

from altprop.algorithm import Algorithm
from altprop.capabilities import Capability
from altprop.optim import OptimizerFactory
from altprop.problem import Problem
from altprop.task import Batch
from altprop.testing import toy


class ShuffledLabels(Algorithm):
    """The exact gradient, on training rows that have each other's labels by a permutation of the run's own seed.

    Inputs, label frequencies, batch order and cost are those of backpropagation; what is gone is that the labels
    belong to the inputs. So validation and test must end at chance. Where they do not, labels leak: through the
    split, the metric or the harness (Zhang et al. 2017 use the same labels to show what a network can memorise).

    Args:
        optimizer: how the gradient becomes an update.
    """

    requires = frozenset({Capability.GRADIENT, Capability.SUPERVISED})
    shuffles = True
    state = ("updater",)

    def __init__(self, optimizer: OptimizerFactory) -> None:
        self._optimizer = optimizer

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self._optimizer, direction="other")

    def _step(self, batch: Batch | None) -> Tensor:
        assert batch is not None
        loss, gradient = self.problem.gradient(batch)
        self.updater.apply(gradient)
        return loss

    @classmethod
    def oracles(cls) -> dict[str, Callable[[], tuple[float, float]]]:
        return {
            "a step of SGD = minus lr times the gradient on the labels given": lambda: (_step_error(), 1e-16),
            "not the gradient on the rows' own labels": lambda: (_step_error(own=True), 1e-3),
        }


def _step_error(lr: float = 0.1, *, own: bool = False) -> float:
    """Worst absolute difference of a parameter from theta - lr dE/dtheta after a step on a batch of shifted labels."""
    problem, batch = toy()
    rule = ShuffledLabels(OptimizerFactory("torch.optim.SGD", lr=lr))
    rule.setup(problem)
    fed = Batch(batch.inputs, torch.roll(batch.targets, 1, 0), batch.index)
    expected = problem.flat() - lr * problem.flatten(problem.gradient(batch if own else fed)[1])
    rule.step(fed)
    return float((problem.flat() - expected).abs().max())
