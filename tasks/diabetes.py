"""Diabetes progression after a year, the regression set of the LARS paper."""

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from altprop import Capability, ModelSpec, Source, Split, Task
from altprop.tasks.common import draw_test_rows, sha256_of, split_of, standardise
from altprop.tasks.scikit_learn import read_table

TEST_ROWS = 111


class Diabetes(Task):
    """442 patients, 10 measurements, one target between 25 and 346.

    Inputs and targets are standardised by the rows that may be trained on. Metrics: `nmse`, the squared error in units
    of the variance of those rows' targets, and `mse`, in the target's own units.

    Args:
        in_sample: train and test on all 442 rows; least squares then has an MSE of 2859.696348.
        test_seed: of the draw of 111 test rows; the baselines hold for 0 alone.
        common: see `Task`.

    Paper: Efron, Hastie, Johnstone and Tibshirani 2004, Least angle regression.
    """

    losses: ClassVar[tuple[str, ...]] = ("half_squared_error", "mse", "huber")
    metric: ClassVar[str] = "nmse"
    higher_is_better: ClassVar[bool] = False
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.VECTORS})

    def __init__(
        self,
        *,
        in_sample: bool = False,
        test_seed: int = 0,
        baselines: Mapping[str, float] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(baselines=None if in_sample or test_seed else baselines, **common)
        self.in_sample, self.test_seed = in_sample, test_seed

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((10,), 1)

    def _load(self) -> Source:
        return _source(self.in_sample, self.test_seed)[0]

    def _metrics(self, outputs: Tensor, split: Split) -> dict[str, float]:
        nmse = float((outputs - split.targets).double().square().mean())
        return {"nmse": nmse, "mse": nmse * _source(self.in_sample, self.test_seed)[1]}


@cache
def _source(in_sample: bool, test_seed: int) -> tuple[Source, float]:
    """Return the source and the variance of the raw targets by which they were scaled."""
    raw, progression = read_table("load_diabetes")
    values = progression[:, None]
    everything = np.arange(len(raw))
    train, test = (everything, everything) if in_sample else draw_test_rows(len(raw), TEST_ROWS, "diabetes", test_seed)
    x_train, x_test = standardise(raw[train], raw[test])
    y_train, y_test = standardise(values[train], values[test])
    rows = split_of(x_train, y_train, train)
    source = Source(
        rows,
        {"test": rows if in_sample else split_of(x_test, y_test, test)},
        "scikit-learn load_diabetes",
        sha256_of(raw, values),
        in_sample=in_sample,
        files=(),
    )
    return source, float(values[train].var())
