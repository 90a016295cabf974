"""Alpha dropout: for SELU, whose zero mean and unit variance it keeps."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from altprop import Noise, check_name, check_number, check_whole
from altprop.algorithms.dropout.rates import SCHEDULES, rate_at

# What SELU tends to for large negative inputs: -lambda alpha.
SATURATED = -1.0507009873554805 * 1.6732632423543772


class AlphaDropout(Noise):
    r"""Units are set to SELU's negative limit, and all are rescaled.

    With q = 1 - p, m ~ Bernoulli(q) and alpha' = -lambda alpha,

        y = a (x m + alpha' (1 - m)) + b,    a = (q + alpha'^2 q p)^(-1/2),    b = -a p alpha',

    for each unit of each example. Values of mean 0 and variance 1, which SELU makes of such values, keep both. The mean
    of y is q a x, not x: evaluation, which is the identity, stands for the noisy net in its moments alone.

    Args:
        p: probability that a hidden unit is set, 0 up to but not 1.
        p_input: the same for the inputs, which should be standardised.
        schedule: of both over the run: constant, annealed or curriculum (`rate_at`).
        passes: noisy forward passes that a prediction averages; 0 predicts without noise.

    Raises:
        AltpropError: for a value outside these.

    >>> y = AlphaDropout(p=0.2)(torch.zeros(1, 50), "unit", 0)
    >>> [round(value, 4) for value in y.unique().tolist()]
    [-1.2362, 0.309]

    Klambauer, Unterthiner, Mayr and Hochreiter 2017, arXiv:1706.02515. It belongs to `model.activation=selu` with
    `model.initialisation=lecun_normal`. The dropped value is a constant, so that no mask of mean 1 gives it.
    """

    sites: ClassVar[frozenset[str]] = frozenset({"unit", "input"})

    def __init__(self, p: float = 0.1, p_input: float = 0.0, schedule: str = "constant", passes: int = 0) -> None:
        super().__init__()
        self.rates = {
            "unit": check_number(p, "dropout.p", 0.0, 1 - 1e-6),
            "input": check_number(p_input, "dropout.p_input", 0.0, 1 - 1e-6),
        }
        self.schedule = check_name(schedule, "dropout.schedule", SCHEDULES)
        self.passes = check_whole(passes, "dropout.passes", 0)

    def _perturb(self, x: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        p = rate_at(self.rates[site], self.schedule, self.clock.progress)
        if p == 0.0:
            return x
        keep = (self.clock.uniform(shape, site, layer, 0, x) >= p).to(x.dtype)
        a = 1 / math.sqrt((1 - p) * (1 + p * SATURATED**2))
        return a * (x * keep + SATURATED * (1 - keep)) - a * p * SATURATED
