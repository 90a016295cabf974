"""The base of the small classification tables of scikit-learn."""

from abc import ABC
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, final

import numpy as np

from altprop import Capability, ModelSpec, Source, Task
from altprop.tasks.common import draw_test_rows, sha256_of, split_of, standardise
from altprop.tasks.scikit_learn import read_table


class TableTask(Task, ABC):
    """Abstract task on a table: 30 % of the rows, in proportion to the classes, are the test set.

    Inputs are standardised by the rows that may be trained on.

    Class attributes:
        loader: name of the function in `sklearn.datasets`.
        features: number of inputs.
        classes: number of classes.

    Args:
        test_seed: of the draw of the test rows; the baselines hold for 0 alone.
        baselines: see `Task`.
        common: see `Task`.
    """

    losses: ClassVar[tuple[str, ...]] = ("cross_entropy", "one_hot_squared_error", "hinge")
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.CLASSES, Capability.VECTORS})
    loader: ClassVar[str]
    features: ClassVar[int]
    classes: ClassVar[int]

    def __init__(self, *, test_seed: int = 0, baselines: Mapping[str, float] | None = None, **common: Any) -> None:
        super().__init__(baselines=None if test_seed else baselines, **common)
        self.test_seed = test_seed

    @property
    @final
    def spec(self) -> ModelSpec:
        return ModelSpec((self.features,), self.classes)

    @final
    def _load(self) -> Source:
        return _source(self.loader, self.test_seed)


@cache
def _source(loader: str, test_seed: int) -> Source:
    inputs, targets = read_table(loader)
    labels = targets.astype(np.int64)
    train, test = draw_test_rows(len(labels), round(0.3 * len(labels)), loader, test_seed, labels)
    x_train, x_test = standardise(inputs[train], inputs[test])
    rows = split_of(x_train, labels[train], train)
    return Source(
        rows,
        {"test": split_of(x_test, labels[test], test)},
        f"scikit-learn {loader}",
        sha256_of(inputs, labels),
        stratify=rows.targets,
        files=(),
    )
