"""DropConnect: single weights are dropped."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from altprop import MultiplicativeNoise, check_name, check_number, check_whole
from altprop.algorithms.dropout.rates import SCHEDULES, rate_at


class DropConnect(MultiplicativeNoise):
    r"""Dropout of weights: `z = (W * M / (1 - p)) x + b`, `M_ij ~ Bernoulli(1 - p)` for each weight of each layer.

    On a linear unit with the loss .5 (y - t)^2 its expectation is that of standard dropout of its inputs: it adds
    p / (1 - p) / 2 sum_i w_i^2 x_i^2. Of several units, each has a mask of its own.

    Args:
        p: probability that a weight is dropped, 0 up to but not 1.
        schedule: of it over the run: constant, annealed or curriculum (`rate_at`).
        passes: noisy forward passes that a prediction averages; 0 predicts without noise.

    Raises:
        AltpropError: for a value outside these.

    >>> DropConnect(p=0.5)(torch.ones(4, 6), "weight", 0).unique().tolist()
    [0.0, 2.0]

    Wan, Zeiler, Zhang, LeCun and Fergus 2013, ICML. They draw a mask for each example, drop biases too, and in
    evaluation sample a normal approximation of the pre-activations. Here the examples of a batch share one mask, as in
    the weight-dropped LSTM of Merity, Keskar and Socher 2018 (arXiv:1708.02182), biases stay, and evaluation takes the
    mean weights; `passes` averages predictions over masks. A recurrent net holds the mask over a sequence.
    """

    sites: ClassVar[frozenset[str]] = frozenset({"weight"})

    def __init__(self, p: float = 0.2, schedule: str = "constant", passes: int = 0) -> None:
        super().__init__()
        self.p = check_number(p, "dropout.p", 0.0, 1 - 1e-6)
        self.schedule = check_name(schedule, "dropout.schedule", SCHEDULES)
        self.passes = check_whole(passes, "dropout.passes", 0)

    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor | None:
        p = rate_at(self.p, self.schedule, self.clock.progress)
        if p == 0.0:
            return None
        keep = self.clock.uniform(shape, site, layer, 0, like) >= p
        return keep.to(like.dtype) / (1 - p)
