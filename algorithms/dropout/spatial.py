"""Spatial dropout: whole feature maps are dropped."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from altprop import MultiplicativeNoise, Places, Refused, check_name, check_number, check_whole
from altprop.algorithms.dropout.rates import SCHEDULES, rate_at


class SpatialDropout(MultiplicativeNoise):
    r"""One draw a channel: `y = x * m / (1 - p)`, `m ~ Bernoulli(1 - p)` for each feature map of each example.

    Neighbouring pixels of a map say nearly the same, so that a dropped one is told by the next; a whole map is not.

    Args:
        p: probability that a feature map (C, ...) of a hidden layer is dropped, 0 up to but not 1.
        p_input: the same for the channels of the inputs.
        schedule: of both over the run: constant, annealed or curriculum (`rate_at`).
        passes: noisy forward passes that a prediction averages; 0 predicts without noise.

    Raises:
        AltpropError: for a value outside these.
        Refused: for a model without feature maps, where it would be dropout=standard under another label.

    >>> y = SpatialDropout(p=0.5)(torch.ones(3, 4, 5, 5), "unit", 0)
    >>> y.flatten(2).std(2).max().item(), y.unique().tolist()
    (0.0, [0.0, 2.0])

    Tompson, Goroshin, Jain, LeCun and Bregler 2015, arXiv:1411.4280. Dense layers are left alone.
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

    def _setup(self, places: Places, train_size: int) -> None:
        if all(len(shape) < 2 for shape in places.get("unit", {}).values()):
            raise Refused(
                "spatial dropout drops feature maps, and this model has none; use dropout=standard or model=cnn"
            )

    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor | None:
        p = rate_at(self.rates[site], self.schedule, self.clock.progress)
        if p == 0.0 or len(shape) < 3:
            return None
        one_a_map = torch.Size((*shape[:2], *[1] * (len(shape) - 2)))
        keep = self.clock.uniform(one_a_map, site, layer, 0, like) >= p
        return (keep.to(like.dtype) / (1 - p)).expand(shape)
