"""Standard dropout: units are dropped independently, the kept ones scaled up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from altprop import MultiplicativeNoise, Places, Refused, check_name, check_number, check_whole
from altprop.algorithms.dropout.rates import SCHEDULES, rate_at
from altprop.vectorized import mapped


class StandardDropout(MultiplicativeNoise):
    r"""Dropout with inverted scaling: `y = x * m / (1 - p)`, `m ~ Bernoulli(1 - p)` for each unit of each example.

    The mask m / (1 - p) has mean 1 and variance p / (1 - p), so evaluation is the identity. On a linear unit with the
    loss .5 (y - t)^2 its expectation adds p / (1 - p) / 2 sum_i w_i^2 x_i^2 (Wager, Wang and Liang 2013).

    Args:
        p: probability that a hidden unit is dropped, 0 up to but not 1.
        layers: that of each hidden layer, first to last, in place of p; None takes p for all.
        p_input: the same for the inputs.
        schedule: of both over the run: constant, annealed or curriculum (`rate_at`).
        passes: noisy forward passes that a prediction averages; 0 predicts without noise.

    Raises:
        AltpropError: for a value outside these.

    >>> noise = StandardDropout(p=0.5)
    >>> noise(torch.ones(1, 6), "unit", 0).unique().tolist()
    [0.0, 2.0]
    >>> noise.eval()(torch.ones(1, 2), "unit", 0)
    tensor([[1., 1.]])

    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, JMLR 15. They scale by 1 - p in evaluation; we
    scale by 1 / (1 - p) in training, which is the same function and leaves evaluation alone.
    """

    sites: ClassVar[frozenset[str]] = frozenset({"unit", "input"})

    def __init__(
        self,
        p: float = 0.2,
        p_input: float = 0.0,
        schedule: str = "constant",
        passes: int = 0,
        layers: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.rates = {
            "unit": check_number(p, "dropout.p", 0.0, 1 - 1e-6),
            "input": check_number(p_input, "dropout.p_input", 0.0, 1 - 1e-6),
        }
        self.layers = None if layers is None else [check_number(q, "dropout.layers", 0.0, 1 - 1e-6) for q in layers]
        self.by_layer: dict[int, float] = {}
        self.schedule = check_name(schedule, "dropout.schedule", SCHEDULES)
        self.passes = check_whole(passes, "dropout.passes", 0)

    def _setup(self, places: Places, train_size: int) -> None:
        if self.layers is not None:
            hidden = sorted(places.get("unit", {}))
            if len(self.layers) != len(hidden):
                raise Refused(f"dropout.layers has {len(self.layers)} rates, and {len(hidden)} layers drop units")
            self.by_layer = dict(zip(hidden, self.layers, strict=True))

    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor | None:
        rate = self.by_layer.get(layer, self.rates[site]) if site == "unit" else self.rates[site]
        p = rate_at(rate, self.schedule, self.clock.progress)
        if p == 0.0:
            return None
        draw = self.clock.uniform(shape, site, layer, 0, like)
        # Compared in place, on a copy of the draw: half the time of a comparison that is converted. vmap has no rule
        # for the one in place.
        keep = (draw >= p).to(draw.dtype) if mapped(draw) else draw.clone().ge_(p)
        return keep.div_(1 - p)
