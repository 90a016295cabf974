"""Exclusive or: the smallest task that no linear model can learn."""

from functools import cache

import numpy as np

from altprop import ModelSpec, Source
from altprop.tasks.binary import BinaryTask
from altprop.tasks.common import sha256_of, split_of


class Xor(BinaryTask):
    """Two inputs in {0, 1}, target 1 where they differ. Four rows train, guide and test: it asks for a fit.

    Paper: Rumelhart, Hinton and Williams 1986; Stanley and Miikkulainen 2002 for neuroevolution.
    """

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((2,), 1)

    def _load(self) -> Source:
        return _source()


@cache
def _source() -> Source:
    inputs = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    targets = np.array([[0.0], [1.0], [1.0], [0.0]])
    rows = split_of(inputs, targets)
    return Source(rows, {"test": rows}, "truth table", sha256_of(inputs, targets), in_sample=True, files=())
