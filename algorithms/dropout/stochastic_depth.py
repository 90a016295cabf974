"""Stochastic depth: whole residual branches are dropped, deep ones more often."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from altprop import MultiplicativeNoise, Places, check_name, check_number, check_whole
from altprop.algorithms.dropout.rates import SCHEDULES, rate_at


class StochasticDepth(MultiplicativeNoise):
    r"""Drop branches: `y_l = x_l + m_l / (1 - p_l) f_l(x_l)`, `m_l ~ Bernoulli(1 - p_l)`, `p_l = p l / L`.

    l = 1, ..., L counts the blocks that have a skip connection: the first ones are dropped rarely, the last at the
    rate p. A dropped block is the identity, so that the net of a step is shorter.

    Args:
        p: probability that the last branch is dropped, 0 up to but not 1.
        schedule: of it over the run: constant, annealed or curriculum (`rate_at`).
        passes: noisy forward passes that a prediction averages; 0 predicts without noise.

    Raises:
        AltpropError: for a value outside these.
        Refused: at set-up, for a model without residual branches.

    >>> noise = StochasticDepth(p=0.5)
    >>> noise._setup({"branch": {1: torch.Size([4]), 2: torch.Size([4])}}, 100)
    >>> noise.shares
    {1: 0.5, 2: 1.0}

    Huang, Sun, Liu, Sedra and Weinberger 2016, arXiv:1603.09382. They draw once for a mini-batch and scale by 1 - p_l
    in evaluation; we draw for each example, which is the same in expectation, and scale in training. Dropped branches
    are computed all the same here, so that a step is not shorter. Their gain on CIFAR-10 is of 110 layers after 500
    epochs. On 1,000 examples of mnist1d it was not seen (4 seeds, p = .5): nine convolutions under batch normalisation,
    600 steps of Adam at .003, ended at .834, and at .849 without, with equal test losses; a residual MLP of twelve
    layers, 1,000 steps at .001, at .460 and .459.
    """

    sites: ClassVar[frozenset[str]] = frozenset({"branch"})

    def __init__(self, p: float = 0.2, schedule: str = "constant", passes: int = 0) -> None:
        super().__init__()
        self.p = check_number(p, "dropout.p", 0.0, 1 - 1e-6)
        self.schedule = check_name(schedule, "dropout.schedule", SCHEDULES)
        self.passes = check_whole(passes, "dropout.passes", 0)
        self.shares: dict[int, float] = {}

    def _setup(self, places: Places, train_size: int) -> None:
        layers = sorted(places["branch"])
        self.shares = {layer: place / len(layers) for place, layer in enumerate(layers, start=1)}

    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor | None:
        p = rate_at(self.p, self.schedule, self.clock.progress) * self.shares[layer]
        if p == 0.0:
            return None
        one_a_row = torch.Size((shape[0], *[1] * (len(shape) - 1)))
        keep = self.clock.uniform(one_a_row, site, layer, 0, like) >= p
        return (keep.to(like.dtype) / (1 - p)).expand(shape)
