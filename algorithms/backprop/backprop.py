"""Backpropagation by automatic differentiation: the reference learner."""

from altprop.algorithm import Algorithm
from altprop.capabilities import Capability
from altprop.optim import OptimizerFactory
from altprop.problem import Problem
from altprop.task import Batch
from torch import Tensor


class Backprop(Algorithm):
    """The exact gradient of the objective on a batch, handed to the optimizer axis.

    Args:
        optimizer: how the gradient becomes an update.
    """

    requires = frozenset({Capability.GRADIENT})
    state = ("updater",)

    def __init__(self, optimizer: OptimizerFactory) -> None:
        self._optimizer = optimizer

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self._optimizer)

    def _step(self, batch: Batch | None) -> Tensor:
        assert batch is not None
        loss, grads = self.problem.gradient(batch)
        self.updater.apply(grads)
        return loss
