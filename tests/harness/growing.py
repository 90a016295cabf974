"""A net that grows: backprop on one hidden layer that gains units every few steps."""

import numpy as np
from torch import Tensor

from altprop import Algorithm, Batch, Capability, OptimizerFactory, Problem, StepResult


class Grows(Algorithm):
    """Backprop; every `every` steps the first layer gains `by` units."""

    requires = frozenset({Capability.GRADIENT, Capability.DENSE})
    state = ("updater", "widths")

    def __init__(self, optimizer: OptimizerFactory, every: int = 4, by: int = 3) -> None:
        self.optimizer, self.every, self.by = optimizer, every, by

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self.optimizer)
        self.widths = np.array([problem.layered.blocks[0].bias.numel()])

    def _step(self, batch: Batch | None) -> Tensor | StepResult:
        assert batch is not None
        loss, grads = self.problem.gradient(batch)
        self.updater.apply(grads)
        if self.problem.ledger.steps % self.every == self.every - 1:
            self._resize(int(self.widths[-1]) + self.by)
            self.widths = np.append(self.widths, self.widths[-1] + self.by)
        return loss

    def _resize(self, units: int) -> None:
        self.problem.layered.resize(0, units, self.problem.random.generator)
        self.updater.rebind()

    def _structure(self, saved: dict[str, np.ndarray]) -> None:  # type: ignore[override]
        self._resize(int(saved["widths"][-1]))
