"""A task: is a point in the upper right corner?"""

import torch

from altprop import Capability, ModelSpec, Source, Split, Task
from altprop.randomness import generator_for


class Corner(Task):
    """Uniform points of a square; one quarter of it is the class."""

    offers = frozenset({Capability.SUPERVISED, Capability.CLASSES, Capability.VECTORS})

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((2,), 2)

    def _load(self) -> Source:
        generator = generator_for(self.data_seed, "corner")
        points = torch.rand(300, 2, generator=generator, dtype=torch.float64, device="cpu") * 2 - 1
        whole = Split(points, (points > 0).all(1).long(), torch.arange(300, device="cpu"))
        train, test = (
            Split(points[part], whole.targets[part], whole.rows[part]) for part in (slice(200), slice(200, None))
        )
        return Source(train, {"test": test}, "drawn", whole.digest(), stratify=train.targets)
