"""DropBlock: squares of feature maps are dropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from altprop import MultiplicativeNoise, Places, Refused, check_name, check_number, check_whole
from altprop.algorithms.dropout.rates import SCHEDULES, rate_at


class DropBlock(MultiplicativeNoise):
    r"""Blocks of b pixels in each dimension are dropped, where a seed falls.

    With n_i pixels in dimension i of a map,

        gamma = p prod_i n_i / (b (n_i - b + 1)),    s ~ Bernoulli(gamma) for each place at which a block fits,
        m_j = prod_(s's block covers j) (1 - s),     y_j = x_j m_j / (1 - gamma)^(c_j),

    with c_j the number of blocks that cover pixel j: (1 - gamma)^(c_j) is how often it is kept, so the mask has mean 1
    at every pixel.

    Args:
        p: share of a map that would be dropped if blocks never overlapped, 0 up to but not 1.
        block: b, pixels; no more than the map has.
        schedule: of p over the run: constant, annealed or curriculum (`rate_at`). The paper's rises.
        passes: noisy forward passes that a prediction averages; 0 predicts without noise.

    Raises:
        AltpropError: for a value outside these.
        Refused: for a model without feature maps.

    >>> covered(torch.tensor([[0.0, 1.0, 0.0]]), [2]).tolist()
    [[0.0, 1.0, 1.0, 0.0]]

    Ghiasi, Lin and Le 2018, arXiv:1810.12890. They divide by the share of pixels that a batch has left, which makes
    each example's mask depend on the others and its mean differ from 1; we divide by its expectation, pixel by pixel.
    """

    sites: ClassVar[frozenset[str]] = frozenset({"unit"})

    def __init__(self, p: float = 0.1, block: int = 3, schedule: str = "constant", passes: int = 0) -> None:
        super().__init__()
        self.p = check_number(p, "dropout.p", 0.0, 1 - 1e-6)
        self.block = check_whole(block, "dropout.block", 1)
        self.schedule = check_name(schedule, "dropout.schedule", SCHEDULES)
        self.passes = check_whole(passes, "dropout.passes", 0)

    def _setup(self, places: Places, train_size: int) -> None:
        if all(len(shape) < 2 for shape in places["unit"].values()):
            raise Refused(
                "dropblock drops parts of feature maps, and this model has none; use dropout=standard or model=cnn"
            )

    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor | None:
        p = rate_at(self.p, self.schedule, self.clock.progress)
        if p == 0.0 or len(shape) < 3:
            return None
        sizes = [min(self.block, pixels) for pixels in shape[2:]]
        places = torch.Size((*shape[:2], *(n - b + 1 for n, b in zip(shape[2:], sizes, strict=True))))
        gamma = min(p * math.prod(shape[2:]) / (math.prod(sizes) * math.prod(places[2:])), 1 - 1e-6)
        seeds = (self.clock.uniform(places, site, layer, 0, like) < gamma).to(like.dtype)
        kept = (covered(seeds, sizes) == 0).to(like.dtype)
        return kept / (1 - gamma) ** covered(torch.ones_like(seeds), sizes)


def covered(seeds: Tensor, block: Sequence[int]) -> Tensor:
    """Return how many blocks cover each pixel: (..., n_i - b_i + 1, ...) seeds of blocks -> (..., n_i, ...).

    Args:
        seeds: the number of blocks that begin at a place, in its last dimensions.
        block: b_i of each of these.
    """
    for dim, b in enumerate(block, start=seeds.dim() - len(block)):
        # A block that begins at i covers i to i + b - 1.
        border = [0] * (2 * (seeds.dim() - 1 - dim)) + [b - 1, b - 1]
        padded, pixels = functional.pad(seeds, border), seeds.shape[dim] + b - 1
        seeds = torch.stack([padded.narrow(dim, i, pixels) for i in range(b)]).sum(0)
    return seeds
