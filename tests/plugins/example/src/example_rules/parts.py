"""An optimizer, a noise and a model."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from altprop import Capability, ModelSpec, MultiplicativeNoise, Noise


class Halving(torch.optim.Optimizer):
    """Gradient descent whose first rate is `lr`, and half of it from the second step on."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    p.sub_(group["lr"] / (2 if state else 1) * p.grad)
                    state["seen"] = True


class Jitter(MultiplicativeNoise):
    """Multiplies units by factors that are uniform around 1."""

    sites: ClassVar[frozenset[str]] = frozenset({"unit"})

    def __init__(self, width: float = 0.1) -> None:
        super().__init__()
        self.width = width

    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        return 1 + self.width * (2 * self.clock.uniform(shape, site, layer, 0, like) - 1)


class Squared(nn.Module):
    """Logistic regression on the inputs and their squares."""

    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT, Capability.CURVATURE})

    def __init__(self, spec: ModelSpec, *, noise: Noise | None, generator: torch.Generator) -> None:
        super().__init__()
        self.spec, self.noise = spec, noise
        self.weight = nn.Parameter(0.1 * torch.randn(spec.outputs, 2 * spec.input_shape[0], generator=generator))
        self.bias = nn.Parameter(torch.zeros(spec.outputs))

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        features = torch.cat([x, x * x], dim=-1)
        if self.noise is not None:
            features = self.noise(features, "unit", 0)
        return nn.functional.linear(features, self.weight, self.bias)
