"""Zoneout: parts of a recurrent state stay what they were."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from altprop import MixingNoise, check_name, check_number, check_whole
from altprop.algorithms.dropout.rates import SCHEDULES, rate_at


class Zoneout(MixingNoise):
    r"""Keep values of the state: `h_t = d * h_(t-1) + (1 - d) * cell(x_t, h_(t-1))`, `d ~ Bernoulli(p)`.

    d is drawn at each time for each value of the state of each example; evaluation puts p in the place of d.
    What stays passes the gradient on unchanged, so that noise does not shorten the memory as dropped units would. An
    LSTM's state is [h, c]: p is the rate of h and p_cell that of the memory c, and h is made of the memory before it
    is mixed.

    Args:
        p: probability that a unit keeps its value, 0 up to but not 1.
        p_cell: the same for the memory of an LSTM; others have none.
        schedule: of both over the run: constant, annealed or curriculum (`rate_at`).
        passes: noisy forward passes that a prediction averages; 0 takes the expectation at each time.

    Raises:
        AltpropError: for a value outside these.
        Refused: at set-up, for a model without a state.

    >>> noise = Zoneout(p=0.25)
    >>> noise._setup({"state": {1: torch.Size([4])}, "carry": {1: torch.Size([4])}}, 100)
    >>> noise.eval().mix(torch.ones(1, 4), torch.zeros(1, 4), 1, 0)
    tensor([[0.7500, 0.7500, 0.7500, 0.7500]])

    Krueger, Maharaj, Kramar, Pezeshki, Ballas, Ke, Goyal, Bengio, Courville and Pal 2017, arXiv:1606.01305.
    """

    sites: ClassVar[frozenset[str]] = frozenset({"carry", "state"})

    def __init__(self, p: float = 0.1, p_cell: float = 0.1, schedule: str = "constant", passes: int = 0) -> None:
        super().__init__()
        self.p = check_number(p, "dropout.p", 0.0, 1 - 1e-6)
        self.p_cell = check_number(p_cell, "dropout.p_cell", 0.0, 1 - 1e-6)
        self.schedule = check_name(schedule, "dropout.schedule", SCHEDULES)
        self.passes = check_whole(passes, "dropout.passes", 0)

    def _mix(self, after: Tensor, before: Tensor, layer: int) -> Tensor:
        p, p_cell = (rate_at(rate, self.schedule, self.clock.progress) for rate in (self.p, self.p_cell))
        # The recurrent product sees the units, the first part of the state; what is left is memory.
        width = self.places["state"][layer][0] if self.places else after.shape[-1]
        is_unit = torch.arange(after.shape[-1], device=after.device) < width
        rates = torch.full_like(after, p_cell).masked_fill(is_unit, p)
        if not self.training:
            return rates * before + (1 - rates) * after
        return torch.where(self.clock.uniform(after.shape, "carry", layer, 0, after) < rates, before, after)
