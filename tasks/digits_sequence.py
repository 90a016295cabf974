"""The digits of scikit-learn pixel by pixel: sequences of 64 grey values, in reading order or permuted."""

from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import torch

from altprop import Capability, ModelSpec, Source, Split, Task
from altprop.checks import check_name
from altprop.randomness import generator_for
from altprop.tasks.digits import Digits

ORDERS = ("rows", "permuted")


class DigitsSequence(Task):
    """The images of `digits`, one pixel a time step: (64, B, 1), classified at the end, with the split of that task.

    Row by row, what belongs together stands 8 times apart; under one permutation for all images, which no seed changes,
    anywhere. It is sequential MNIST at a size that one core can train on.

    Args:
        order: "rows" or "permuted".
        common: see `Task`.

    Raises:
        AltpropError: for an unknown order.

    Paper: Le, Jaitly and Hinton, A simple way to initialize recurrent networks of rectified linear units, 2015, on the
    784 pixels of MNIST.
    """

    losses: ClassVar[tuple[str, ...]] = ("cross_entropy", "one_hot_squared_error", "hinge")
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.CLASSES})

    def __init__(self, *, order: str = "rows", **common: Any) -> None:
        super().__init__(**common)
        self.order = check_name(order, "task.order", ORDERS)

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((1,), 10, sequence=True)

    def _load(self) -> Source:
        return _source(self.order)


@cache
def _source(order: str) -> Source:
    whole = Digits()._load()
    places = torch.arange(64, device="cpu")
    if order == "permuted":
        places = torch.randperm(64, generator=generator_for(0, "digits_sequence", "order"), device="cpu")

    def sequences(split: Split) -> Split:
        return replace(split, inputs=split.inputs[:, places].T[:, :, None].contiguous(), sequence=True)

    tests = {name: sequences(split) for name, split in whole.tests.items()}
    words = f"{whole.description}, pixel by pixel, {order}"
    return replace(whole, train=sequences(whole.train), tests=tests, description=words)
