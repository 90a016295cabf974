"""Recurrent dropout without loss of memory: what a gated cell adds to its state is dropped, never the state."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from altprop import MultiplicativeNoise, check_name, check_number, check_whole
from altprop.algorithms.dropout.rates import SCHEDULES, rate_at


class RecurrentDropout(MultiplicativeNoise):
    r"""Dropout of the candidate g of a gated cell, with `m ~ Bernoulli(1 - p)`.

        LSTM    c_t = f * c_(t-1) + i * (g * m / (1 - p)),
        GRU     h_t = z * h_(t-1) + (1 - z) * (g * m / (1 - p)).

    The memory itself is never multiplied by a mask, so that noise at each time does not wear it away.

    Args:
        p: probability that a value of the candidate is dropped, 0 up to but not 1.
        draws: "step" for a mask of its own at each time, "sequence" for one that stands still.
        schedule: of p over the run: constant, annealed or curriculum (`rate_at`).
        passes: noisy forward passes that a prediction averages; 0 predicts without noise.

    Raises:
        AltpropError: for a value outside these.
        Refused: at set-up, for a model without a gated cell.

    >>> RecurrentDropout(p=0.5)(torch.ones(1, 6), "update", 1).unique().tolist()
    [0.0, 2.0]

    Semeniuta, Severyn and Barth 2016, arXiv:1603.05118, who try both draws.
    """

    sites: ClassVar[frozenset[str]] = frozenset({"update"})

    def __init__(self, p: float = 0.2, draws: str = "step", schedule: str = "constant", passes: int = 0) -> None:
        super().__init__()
        self.p = check_number(p, "dropout.p", 0.0, 1 - 1e-6)
        self.draws = check_name(draws, "dropout.draws", ("step", "sequence"))
        self.schedule = check_name(schedule, "dropout.schedule", SCHEDULES)
        self.passes = check_whole(passes, "dropout.passes", 0)

    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor | None:
        p = rate_at(self.p, self.schedule, self.clock.progress)
        if p == 0.0:
            return None
        with self.clock.at(self.clock.moment if self.draws == "step" else 0):
            keep = self.clock.uniform(shape, site, layer, 0, like) >= p
        return keep.to(like.dtype) / (1 - p)
