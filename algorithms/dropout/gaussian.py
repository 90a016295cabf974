"""Gaussian dropout: units are multiplied by normal noise of mean 1."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from altprop import MultiplicativeNoise, check_name, check_number, check_whole
from altprop.algorithms.dropout.rates import SCHEDULES, rate_at


class GaussianDropout(MultiplicativeNoise):
    r"""Multiplicative normal noise: `y = x * m`, `m ~ N(1, p / (1 - p))` for each unit of each example.

    Mean and variance of the mask are those of standard dropout at the rate p; so is, on a linear unit with a squared
    error, the whole expected loss. Of all masks with these two it has the highest entropy.

    Args:
        p: rate of the standard dropout whose variance hidden units get, 0 up to but not 1.
        p_input: the same for the inputs.
        schedule: of both over the run: constant, annealed or curriculum (`rate_at`).
        passes: noisy forward passes that a prediction averages; 0 predicts without noise.

    Raises:
        AltpropError: for a value outside these.

    >>> mask = GaussianDropout(p=0.2)(torch.ones(1000, 100), "unit", 0)
    >>> round(float(mask.mean()), 2), round(float(mask.std()), 2)
    (1.0, 0.5)

    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, JMLR 15, section 10.
    """

    sites: ClassVar[frozenset[str]] = frozenset({"unit", "input"})

    def __init__(self, p: float = 0.2, p_input: float = 0.0, schedule: str = "constant", passes: int = 0) -> None:
        super().__init__()
        self.rates = {
            "unit": check_number(p, "dropout.p", 0.0, 1 - 1e-6),
            "input": check_number(p_input, "dropout.p_input", 0.0, 1 - 1e-6),
        }
        self.schedule = check_name(schedule, "dropout.schedule", SCHEDULES)
        self.passes = check_whole(passes, "dropout.passes", 0)

    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor | None:
        p = rate_at(self.rates[site], self.schedule, self.clock.progress)
        if p == 0.0:
            return None
        return 1 + math.sqrt(p / (1 - p)) * self.clock.normal(shape, site, layer, 0, like)
