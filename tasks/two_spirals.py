"""Two interlocked spirals: few points, and a border that winds three times around the origin."""

from functools import cache

import numpy as np

from altprop import ModelSpec, Source
from altprop.tasks.binary import BinaryTask
from altprop.tasks.common import Array, sha256_of, split_of


class TwoSpirals(BinaryTask):
    """194 points: angle i pi/16 and radius 6.5 (104 - i)/104 for i = 0 .. 96, and their mirror images.

    All points train, guide and test ("solved" means all right). The second test set, `between`, holds the 192 points
    half-way along the spirals, which nobody has trained on.

    Paper: Lang and Witbrock 1988, Learning to tell two spirals apart; Fahlman and Lebiere 1990.
    """

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((2,), 1)

    def _load(self) -> Source:
        return _source()


def spirals(steps: Array) -> tuple[Array, Array]:
    """Return (points (2 n, 2), targets (2 n, 1)) at the positions `steps` (n,) along both spirals."""
    angle, radius = steps * np.pi / 16, 6.5 * (104 - steps) / 104
    first = np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)
    targets = np.concatenate([np.ones((len(steps), 1)), np.zeros((len(steps), 1))])
    return np.concatenate([first, -first]), targets


@cache
def _source() -> Source:
    inputs, targets = spirals(np.arange(97.0))
    rows, between = split_of(inputs, targets), split_of(*spirals(np.arange(96) + 0.5))
    tests = {"test": rows, "between": between}
    # Hashed after rounding: the last bit of sin and cos is the platform's.
    return Source(rows, tests, "formula", sha256_of(inputs.round(9), targets), in_sample=True, files=())
