"""8x8 handwritten digits of scikit-learn, split in half and unshuffled, as in its own example."""

from functools import cache
from typing import ClassVar

import numpy as np

from altprop import Capability, ModelSpec, Source, Task
from altprop.tasks.common import sha256_of, split_of
from altprop.tasks.scikit_learn import read_table


class Digits(Task):
    """1,797 images of 64 pixels, grey values 0 .. 16 divided by 16; ten classes.

    The first 898 rows train and the last 899 test, unshuffled: other people wrote the second half. This is the split of
    scikit-learn's example "Recognizing hand-written digits", in which SVC(gamma=.001) reaches .969.

    Paper: Alpaydin and Kaynak 1998, Cascading classifiers (the UCI set "Optical recognition of handwritten digits").
    """

    losses: ClassVar[tuple[str, ...]] = ("cross_entropy", "one_hot_squared_error", "hinge")
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.CLASSES, Capability.VECTORS})

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((64,), 10)

    def _load(self) -> Source:
        return _source()


@cache
def _source() -> Source:
    pixels, labels = read_table("load_digits")
    inputs, targets = pixels / 16.0, labels.astype(np.int64)
    half = len(targets) // 2
    train = split_of(inputs[:half], targets[:half])
    test = split_of(inputs[half:], targets[half:])
    return Source(
        train,
        {"test": test},
        "scikit-learn load_digits",
        sha256_of(pixels, targets),
        stratify=train.targets,
        files=(),
    )
