"""MNIST-1D: ten digit-like signals of 40 values, small enough for a CPU and hard for a linear model."""

from functools import cache
from typing import Any, ClassVar

import numpy as np

from altprop import Capability, ModelSpec, Random, Source, Task
from altprop.tasks.common import sha256_of, split_of

PUBLISHED_SEED = 42


class Mnist1d(Task):
    """4,000 training and 1,000 test signals, made by the authors' own generator and not downloaded.

    Args:
        shuffled: permute the 40 positions by one fixed permutation, which takes the spatial structure away.
        generator_seed: of the generator; 42 gives the published set. Baselines hold for that set alone.
        common: see `Task`.

    Paper: Greydanus and Kobak 2024, Scaling down deep learning with MNIST-1D. In float32 the values are those of the
    published file.
    """

    losses: ClassVar[tuple[str, ...]] = ("cross_entropy", "one_hot_squared_error", "hinge")
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.CLASSES, Capability.VECTORS})

    def __init__(self, *, shuffled: bool = False, generator_seed: int = PUBLISHED_SEED, **common: Any) -> None:
        if shuffled or generator_seed != PUBLISHED_SEED:
            common["baselines"] = {}
        super().__init__(**common)
        self.shuffled, self.generator_seed = shuffled, generator_seed

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((40,), 10)

    def _load(self) -> Source:
        return _source(self.shuffled, self.generator_seed)


@cache
def _source(shuffled: bool, generator_seed: int) -> Source:
    from mnist1d.data import get_dataset_args, make_dataset

    options = get_dataset_args()
    options.shuffle_seq, options.seed = shuffled, generator_seed
    # The generator seeds Python's and numpy's global state; `as_global` puts both back.
    with Random(generator_seed).as_global():
        made = make_dataset(options)
    train = split_of(made["x"], made["y"])
    test = split_of(made["x_test"], made["y_test"])
    # Hashed in float32, in which the generator and the published file agree.
    digest = sha256_of(
        *(np.asarray(made[name], dtype=np.float32) for name in ("x", "x_test")), made["y"], made["y_test"]
    )
    return Source(train, {"test": test}, "mnist1d make_dataset()", digest, stratify=train.targets, files=())
