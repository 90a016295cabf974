"""Sign descent."""

import torch
from torch import Tensor

from altprop import Algorithm, Batch, Capability, OptimizerFactory, Problem


class SignDescent(Algorithm):
    """The gradient's signs, scaled to its mean size, as the direction.

    Args:
        optimizer: how the direction becomes an update.
        scale: factor on the direction.
    """

    requires = frozenset({Capability.GRADIENT})
    state = ("updater",)

    def __init__(self, optimizer: OptimizerFactory, scale: float = 1.0) -> None:
        self._optimizer, self._scale = optimizer, scale

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self._optimizer, direction="other")

    def _step(self, batch: Batch | None) -> Tensor:
        assert batch is not None
        loss, grads = self.problem.gradient(batch)
        self.updater.apply({name: self._scale * g.abs().mean() * torch.sign(g) for name, g in grads.items()})
        return loss
