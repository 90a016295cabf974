"""Yearly sunspot numbers: predict the next year from the last twelve."""

from functools import cache
from typing import ClassVar

import numpy as np
from torch import Tensor

from altprop import Capability, ModelSpec, Source, Split, Task
from altprop.tasks.common import optional_import, sha256_of, split_of

FIRST, LAGS, TRAINED_TO = 1700, 12, 1920


class Sunspots(Task):
    """Years up to 1920 train (209 rows), 1921-1955 are the test set, 1956-1979 the second one, `late`.

    Inputs are the last 12 years, oldest first; inputs and target are standardised by the series up to 1920. The metric
    `nmse` is the squared error in units of the variance of 1700-1979 (1495.59), Weigend's average relative variance. A
    linear autoregression has .1319 on the training years, .1296 on the test years and .3679 on the late ones.

    The hold-out is the tail of the training years. Needs the extra `data` (statsmodels).

    Paper: Weigend, Huberman and Rumelhart 1990, Predicting the future: a connectionist approach.
    """

    losses: ClassVar[tuple[str, ...]] = ("half_squared_error", "mse", "huber")
    metric: ClassVar[str] = "nmse"
    higher_is_better: ClassVar[bool] = False
    packages: ClassVar[dict[str, str]] = {"statsmodels": "pip install 'altprop[data]'"}
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.VECTORS})

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((LAGS,), 1)

    def _load(self) -> Source:
        return _source()[0]

    def _metrics(self, outputs: Tensor, split: Split) -> dict[str, float]:
        return {"nmse": float((outputs - split.targets).double().square().mean()) * _source()[1]}


@cache
def _source() -> tuple[Source, float]:
    """Return the source and the factor from a squared error in standardised units to the metric."""
    module = optional_import("statsmodels.datasets.sunspots", "task sunspots", Sunspots.packages["statsmodels"])
    frame = module.load().data
    series = np.asarray(frame["SUNACTIVITY"], dtype=np.float64)
    known = series[: TRAINED_TO - FIRST + 1]
    scaled = (series - known.mean()) / known.std()
    windows = np.lib.stride_tricks.sliding_window_view(scaled, LAGS)[:-1]
    targets, years = scaled[LAGS:, None], FIRST + np.arange(LAGS, len(series))

    def between(first: int, last: int) -> Split:
        rows = np.flatnonzero((years >= first) & (years <= last))
        return split_of(windows[rows], targets[rows], years[rows])

    source = Source(
        between(FIRST, TRAINED_TO),
        {"test": between(1921, 1955), "late": between(1956, 1979)},
        "statsmodels sunspots (yearly, 1700-2008)",
        sha256_of(series),
        ordered=True,
        files=(),
    )
    return source, float(known.var() / series[: 1980 - FIRST].var())
