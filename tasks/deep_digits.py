"""The digits through a deep and narrow net: how a gradient fares over many layers."""

from typing import Any, ClassVar

from altprop import Capability, ModelSpec, Source, Task, check_whole
from altprop.tasks.digits import Digits


class DeepDigits(Task):
    """The data and the split of `Digits`, with a net of a stated depth and width as the workload's own.

    Args:
        depth: hidden layers of the default model, which the yaml makes of it.
        width: units of each.
        common: see `Task`.
    """

    losses: ClassVar[tuple[str, ...]] = ("cross_entropy", "one_hot_squared_error", "hinge")
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.CLASSES, Capability.VECTORS})

    def __init__(self, *, depth: int = 10, width: int = 32, **common: Any) -> None:
        super().__init__(**common)
        self.depth = check_whole(depth, "task.depth", 1)
        self.width = check_whole(width, "task.width", 1)

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((64,), 10)

    def _load(self) -> Source:
        return Digits()._load()
