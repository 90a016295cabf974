"""Models and noises that differ from honest ones by one fault each."""

import numpy as np
import torch

from altprop.models.mlp import MLP
from altprop.models.recurrent import RecurrentModel
from altprop.noise import MultiplicativeNoise, Noise


class HonestNoise(MultiplicativeNoise):
    """No fault: multiplies the units by U(.5, 1.5)."""

    sites = frozenset({"unit"})

    def _mask(self, like, shape, site, layer):
        return 0.5 + self.clock.uniform(shape, site, layer, 0, like)


class ActsNowhere(HonestNoise):
    sites = frozenset({"nowhere"})


class HasAnotherMean(HonestNoise):
    def _mask(self, like, shape, site, layer):
        return 0.6 + self.clock.uniform(shape, site, layer, 0, like)


class DrawsFromTorch(Noise):
    sites = frozenset({"unit"})

    def _perturb(self, x, shape, site, layer):
        return x * (0.5 + torch.rand(shape, dtype=x.dtype))


class DrawsOneMask(HonestNoise):
    def _mask(self, like, shape, site, layer):
        self.clock.phase, phase = 0, self.clock.phase
        mask = super()._mask(like, shape, site, layer)
        self.clock.phase = phase
        return mask


class ForgetsTheStep(HonestNoise):
    def _mask(self, like, shape, site, layer):
        self.clock.step, step = 0, self.clock.step
        mask = super()._mask(like, shape, site, layer)
        self.clock.step = step
        return mask


class DrawsForAnotherLayer(HonestNoise):
    """Its draws are keyed by a layer that there is not."""

    def _mask(self, like, shape, site, layer):
        return super()._mask(like, shape, site, layer + 100)


class ActsInEvaluation(HonestNoise):
    def forward(self, x, site, layer, shared=0):
        return 1.1 * super().forward(x, site, layer, shared)


class DrawsItsWeightsFromNumpy(MLP):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        scale = float(np.random.rand())  # noqa: NPY002 - the fault
        self.blocks[0].weight.data *= scale


class GivesOneColumnMore(MLP):
    def forward(self, x):
        y = super().forward(x)
        return torch.cat([y, y[:, :1]], 1)


class KeepsNoNoise(MLP):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.hidden_noise, self.noise = self.noise, None


class ReadsWhatWasAbove(MLP):
    """Its output is that of the chain times 2."""

    def forward(self, x):
        return 2 * super().forward(x)


class LooksAhead(RecurrentModel):
    """A window of it depends on where the window ends."""

    def unroll(self, x, h, mask=None, reset=None, start=0):
        return super().unroll(x - x.mean(0), h, mask, reset, start)
