"""An honest task, and others that differ from it by one fault each."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from altprop.capabilities import Capability
from altprop.data import ModelSpec, Source, Split
from altprop.losses import CrossEntropy
from altprop.randomness import generator_for
from altprop.task import Task


class _Base(Task):
    """Which side of a plane a point in three dimensions lies on."""

    offers = frozenset({Capability.SUPERVISED, Capability.CLASSES, Capability.VECTORS})

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((3,), 2)

    def _load(self) -> Source:
        x = torch.randn(60, 3, generator=self._generator(), dtype=torch.float64, device="cpu")
        rows = torch.arange(60, device="cpu")
        whole = Split(x, (x.sum(1) > 0).long(), rows)
        train, test = (
            Split(*(t[part] for t in (whole.inputs, whole.targets, rows))) for part in (rows < 40, rows >= 40)
        )
        return Source(train, {"test": test}, "drawn", whole.digest())

    def _generator(self) -> torch.Generator | None:
        return generator_for(self.data_seed, "plane")


class HonestTask(_Base):
    """No fault."""


class DrawsItsData(_Base):
    calls: ClassVar[list[int]] = []

    def _generator(self) -> torch.Generator:
        self.calls.append(1)
        return generator_for(len(self.calls))


class MovesAGenerator(_Base):
    def _load(self) -> Source:
        np.random.rand()  # noqa: NPY002
        return super()._load()


class TestsOnItsTrainingRows(_Base):
    __test__ = False

    def _load(self) -> Source:
        source = super()._load()
        return replace(source, tests={"test": source.train})


class NeedsOtherOutputs(_Base):
    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((3,), 1)


class HasAnotherLoss(_Base):
    losses = ("one_hot_squared_error", "cross_entropy")

    def __init__(self, **options: object) -> None:
        super().__init__(**{**options, "loss": "one_hot_squared_error"})  # type: ignore[arg-type]


class Doubled(CrossEntropy):
    """Cross-entropy with twice its gradient."""

    name = "doubled"

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 2 * super().gradient(outputs, targets)


class Bent(CrossEntropy):
    """Cross-entropy with another curvature."""

    name = "bent"

    def curvature_product(self, outputs: Tensor, vector: Tensor) -> Tensor:
        return vector


class DoublesTheGradientOfItsLoss(_Base):
    losses = (Doubled, "cross_entropy")

    def __init__(self, **options: object) -> None:
        super().__init__(**{**options, "loss": "doubled"})  # type: ignore[arg-type]


class BendsItsLoss(_Base):
    losses = (Bent, "cross_entropy")

    def __init__(self, **options: object) -> None:
        super().__init__(**{**options, "loss": "bent"})  # type: ignore[arg-type]


class AimsBelowChance(_Base):
    """The fault is in its yaml."""
