"""A bare parameter point, for tasks that are functions and not data."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from altprop.capabilities import Capability
from altprop.data import ModelSpec
from altprop.errors import AltpropError
from altprop.noise import Noise


class Point(nn.Module):
    """theta (D,), whose output is itself, (B, D) for every batch.

    Args:
        spec: of a point task: `spec.start` is where theta begins.
        spread: standard deviation of a normal draw that is added to the start, so that seeds differ.
        noise: unused; a point has no forward pass to perturb.
        generator: CPU generator of the initialisation stream.

    Raises:
        AltpropError: for a task that is not a point task.
    """

    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT, Capability.CURVATURE, Capability.POINT})

    def __init__(
        self, spec: ModelSpec, spread: float = 0.0, *, noise: Noise | None = None, generator: torch.Generator
    ) -> None:
        super().__init__()
        if spec.start is None:
            raise AltpropError("model=point fits point tasks alone (quadratic, rosenbrock); choose another model")
        if noise is not None:
            raise AltpropError("model=point has no forward pass that noise could act in; use dropout=none")
        self.spec = spec
        start = torch.tensor(spec.start, dtype=torch.float64, device="cpu")
        start += spread * torch.randn(start.shape, generator=generator, dtype=torch.float64, device="cpu")
        self.theta = nn.Parameter(start)

    def forward(self, x: Tensor) -> Tensor:
        """Return theta for each of the B rows of `x`."""
        return self.theta.expand(x.shape[0], -1)
