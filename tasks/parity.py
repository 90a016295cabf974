"""Parity of n bits: every bit matters, so any smaller set of inputs says nothing."""

from functools import cache
from itertools import product
from typing import Any

import numpy as np

from altprop import ModelSpec, Source
from altprop.checks import check_whole
from altprop.tasks.binary import BinaryTask
from altprop.tasks.common import sha256_of, split_of


class Parity(BinaryTask):
    """All 2^n rows of n inputs in {-1, 1}; target 1 where the number of positive inputs is odd. It asks for a fit.

    Args:
        bits: number of inputs n, 2 to 12.
        common: see `Task`.

    Raises:
        AltpropError: for another number of bits.

    Paper: Minsky and Papert 1969; Rumelhart, Hinton and Williams 1986.
    """

    def __init__(self, *, bits: int = 4, **common: Any) -> None:
        super().__init__(**common)
        self.bits = check_whole(bits, "task.bits", 2, 12)

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((self.bits,), 1)

    def _load(self) -> Source:
        return _source(self.bits)


@cache
def _source(bits: int) -> Source:
    inputs = np.array(list(product([-1.0, 1.0], repeat=bits)))
    targets = (inputs > 0).sum(1, keepdims=True) % 2.0
    rows = split_of(inputs, targets)
    return Source(rows, {"test": rows}, "truth table", sha256_of(inputs, targets), in_sample=True, files=())
