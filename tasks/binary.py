"""The base of tasks with one output that says yes or no."""

from abc import ABC
from typing import ClassVar, final

from torch import Tensor

from altprop import Capability, Split, Task
from altprop.losses import BinaryCrossEntropy


class BinaryTask(Task, ABC):
    """Abstract task with one output and targets (N, 1) that are 0 or 1.

    Yes is an output above 0 where outputs are logits, above 1/2 where they are fitted to 0 and 1 by least squares.
    """

    losses: ClassVar[tuple[str, ...]] = ("binary_cross_entropy", "half_squared_error", "mse")
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.VECTORS})

    @final
    def _metrics(self, outputs: Tensor, split: Split) -> dict[str, float]:
        threshold = 0.0 if isinstance(self.loss, BinaryCrossEntropy) else 0.5
        right = (outputs > threshold) == (split.targets > 0.5)
        return {"accuracy": float(right.double().mean())}
