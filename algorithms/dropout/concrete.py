"""Concrete dropout: each layer learns its rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from altprop import Noise, Places, check_number, check_whole


class ConcreteDropout(Noise):
    r"""Dropout at a learned rate p for each layer, with a mask that can be differentiated in it.

    With `u ~ U(0, 1)`,

        m = sigmoid(-(log p - log(1 - p) + log u - log(1 - u)) / t),    y = x m / (1 - p),

    and a penalty, the divergence of the posterior over weights from its prior, over the N training rows,

        sum over layers of  [ l^2 / 2 |W|^2 / (1 - p) + K (p log p + (1 - p) log(1 - p)) ] / N,

    with W the weights that the noisy values go into and K how many values a unit of theirs sees (channels, for a
    convolution). At t -> 0 m is a Bernoulli variable. The entropy draws p to .5, the loss and the weights draw it down.

    Args:
        p: every rate at the start, above 0 and below 1.
        length_scale: l, of the prior over weights: the larger, the more weights cost.
        temperature: t.
        passes: noisy forward passes that a prediction averages; 0 predicts without noise.

    Attributes:
        logits: site and layer -> log p - log(1 - p), the learned parameters.

    Raises:
        AltpropError: for a value outside these.

    >>> noise = ConcreteDropout(p=0.2)
    >>> noise._setup({"unit": {0: torch.Size([4])}}, 100)
    >>> round(noise.rate("unit", 0).item(), 4)
    0.2

    Gal, Hron and Kendall 2017, arXiv:1705.07832. Their code doubles the entropy for a mean squared error without 1/2,
    which is the same objective times 2; ours is for losses that are a negative log-likelihood, such as cross_entropy
    and half_squared_error. Their inputs have a rate too, as here.
    """

    sites: ClassVar[frozenset[str]] = frozenset({"unit", "input"})
    charges_weights: ClassVar[bool] = True

    def __init__(self, p: float = 0.1, length_scale: float = 0.01, temperature: float = 0.1, passes: int = 0) -> None:
        super().__init__()
        self.p = check_number(p, "dropout.p", above=0.0, below=1.0)
        self.length_scale = check_number(length_scale, "dropout.length_scale", 0.0)
        self.temperature = check_number(temperature, "dropout.temperature", above=0.0)
        self.passes = check_whole(passes, "dropout.passes", 0)
        self.logits = nn.ParameterDict()
        self.rows = 1

    def _setup(self, places: Places, train_size: int) -> None:
        self.rows = max(1, train_size)
        start = math.log(self.p / (1 - self.p))
        for site in sorted(places):
            for layer in places[site]:
                self.logits[f"{site}{layer}"] = nn.Parameter(torch.full((), start, device="cpu"))

    def rate(self, site: str, layer: int) -> Tensor:
        """Return the present rate, a scalar."""
        return torch.sigmoid(self.logits[f"{site}{layer}"])

    def _perturb(self, x: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        logit: Tensor = self.logits[f"{site}{layer}"]
        u = self.clock.uniform(shape, site, layer, 0, x)
        # A draw of 0 has no logarithm.
        tiny = torch.finfo(x.dtype).tiny
        noise = u.clamp(min=tiny).log() - torch.log1p(-u)
        return x * torch.sigmoid(-(logit + noise) / self.temperature) * (1 + logit.exp())

    def weight_penalty(self, params: Mapping[str, Tensor]) -> Tensor:
        terms: list[Tensor] = []
        for key in self.logits:
            weight, logit = params[self._read_by(key)], params[f"noise.logits.{key}"]
            p, log_p, log_q = torch.sigmoid(logit), functional.logsigmoid(logit), functional.logsigmoid(-logit)
            entropy = -(p * log_p + (1 - p) * log_q)
            squares = weight.square().sum() * (1 + logit.exp())
            terms.append(self.length_scale**2 / 2 * squares - weight.shape[1] * entropy)
        return torch.stack(terms).sum() / self.rows

    def _read_by(self, key: str) -> str:
        """Return the name of the weight that noisy values go into: of the layer itself for inputs, else of the next."""
        if key.startswith("input"):
            return self.weights[int(key.removeprefix("input"))]
        return self.weights[min(layer for layer in self.weights if layer > int(key.removeprefix("unit")))]
