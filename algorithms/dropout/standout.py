"""Standout: units are kept the more often, the more active they are."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from altprop import MultiplicativeNoise, check_number, check_whole


class Standout(MultiplicativeNoise):
    r"""Keep active units: `y' = y * m / pi` with `m ~ Bernoulli(pi)`, `pi = sigmoid(alpha y + beta)`.

    y is the activation of a hidden unit. The paper's standout network has weights of its own, or alpha W and beta in
    their place, so that it reads the pre-activation z = W x + b; we read y = f(z), which is the same for relu (where
    y = 0 nothing is left to drop) and a monotone function of z for others. As there, m and pi count as constants in a
    derivative: under one noise it is not that of the objective, whose masks change with the weights.

    Args:
        alpha: how much activity counts; 0 is dropout at the rate 1 - sigmoid(beta), negative keeps the weak.
        beta: how many are kept on the whole: at y = 0 sigmoid(beta), .5 at 0.
        passes: noisy forward passes that a prediction averages; 0 predicts without noise.

    Raises:
        AltpropError: for a value outside the limits.

    >>> noise = Standout(alpha=1.0, beta=0.0)
    >>> [round(value, 4) for value in noise(torch.full((1, 40), 2.0), "unit", 0).unique().tolist()]
    [0.0, 2.2707]

    Ba and Frey 2013, NeurIPS. They multiply by pi in evaluation, which makes the net another function; we divide by pi
    in training, so that the mask has mean 1 and evaluation is the identity.
    """

    sites: ClassVar[frozenset[str]] = frozenset({"unit"})

    def __init__(self, alpha: float = 1.0, beta: float = 1.0, passes: int = 0) -> None:
        super().__init__()
        self.alpha = check_number(alpha, "dropout.alpha", -1e3, 1e3)
        self.beta = check_number(beta, "dropout.beta", -10.0, 1e3)
        self.passes = check_whole(passes, "dropout.passes", 0)

    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        # No rarer than e^-10, so that a kept unit is not scaled without bound.
        pi = torch.sigmoid((self.alpha * like.detach() + self.beta).clamp(min=-10.0))
        return (self.clock.uniform(shape, site, layer, 0, like) < pi).to(like.dtype) / pi
