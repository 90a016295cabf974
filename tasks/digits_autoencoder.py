"""The digits as their own targets: a net with a narrow middle must keep what it can."""

from functools import cache
from typing import ClassVar

import numpy as np
from torch import Tensor

from altprop import Capability, ModelSpec, Source, Split, Task
from altprop.tasks.common import sha256_of, split_of
from altprop.tasks.scikit_learn import read_table


class DigitsAutoencoder(Task):
    """The images of `task=digits`, 64 pixels between 0 and 1, in and out; the rows are split as there.

    The metric `unexplained` is the squared error over the variance of the training half around its mean image: 1 for
    the mean image. On the rows that train, a linear net with k units in the middle cannot come below what k principal
    components leave (Baldi and Hornik 1989, doi:10.1016/0893-6080(89)90014-2); a net with curved units may. The
    baseline `pca` is what eight components of the training rows leave of the test rows.

    Paper: Hinton and Salakhutdinov 2006, doi:10.1126/science.1127647, whose deep autoencoders became the test bed of
    second-order learners with Martens 2010; here at a size that a CPU trains in seconds.
    """

    losses: ClassVar[tuple[str, ...]] = ("half_squared_error", "mse")
    metric: ClassVar[str] = "unexplained"
    higher_is_better: ClassVar[bool] = False
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.VECTORS})

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((64,), 64)

    def _load(self) -> Source:
        return _source()[0]

    def _metrics(self, outputs: Tensor, split: Split) -> dict[str, float]:
        return {"unexplained": float((outputs - split.targets).double().square().mean()) / _source()[1]}


@cache
def _source() -> tuple[Source, float]:
    """Return the source, and the mean variance of a pixel over the first half."""
    pixels, _ = read_table("load_digits")
    inputs = pixels / 16.0
    half = len(inputs) // 2
    source = Source(
        split_of(inputs[:half], inputs[:half]),
        {"test": split_of(inputs[half:], inputs[half:])},
        "scikit-learn load_digits",
        sha256_of(pixels, np.array(64)),
        files=(),
    )
    return source, float(inputs[:half].var(0).mean())
