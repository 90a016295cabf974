"""Noises that act at one site each, for rules that compare a learner with the truth under every kind of noise."""

from __future__ import annotations

import torch
from torch import Tensor

from altprop.noise import MixingNoise, MultiplicativeNoise


class SiteNoise(MultiplicativeNoise):
    """Multiply by U(.5, 1.5) at one site.

    Args:
        site: where it acts.
    """

    def __init__(self, site: str) -> None:
        super().__init__()
        self.sites = frozenset({site})  # type: ignore[misc]

    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        return 0.5 + self.clock.uniform(shape, site, layer, 0, like)


class CarryNoise(MixingNoise):
    """Mix .5 to 1 of the next state with the rest of the present one; evaluation takes the expectation, .75."""

    def _mix(self, after: Tensor, before: Tensor, layer: int) -> Tensor:
        if not self.training:
            return before + 0.75 * (after - before)
        share = 0.5 + 0.5 * self.clock.uniform(after.shape, "carry", layer, 0, after)
        return before + share * (after - before)


def at(site: str) -> tuple[str, ...]:
    """Return the overrides that choose the noise of a site."""
    if site == "carry":
        return (f"dropout._target_={__name__}.CarryNoise",)
    return (f"dropout._target_={__name__}.SiteNoise", f"+dropout.site={site}")
