"""Planted models and a task: what a person writes who knows nothing of noise, generators and offers."""

import torch
from torch import Tensor, nn

from altprop import ModelSpec
from altprop.tasks.iris import Iris


class Bare(nn.Module):
    """One affine map, and no argument but the shapes."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.map = nn.Linear(spec.input_shape[0], spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.map(x)
        return y


class Empty(nn.Module):
    """It has no parameters."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.outputs = spec.outputs

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), self.outputs)


class MyFlowers(Iris):
    """The same data under a name of its own."""
