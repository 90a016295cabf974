"""A quadratic bowl: the sphere where its condition is 1, the ellipsoid of optimisation benchmarks where it is 1e6."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from altprop.checks import check_number, check_whole
from altprop.randomness import generator_for
from altprop.tasks.points import PointLoss, PointTask, start_of


class QuadraticFunction(PointLoss):
    """f(theta) = sum_i h_i (R theta)_i^2 with h_i = scale condition^(i / (D - 1)); the minimum is 0 at 0.

    Args:
        dimension: D.
        condition: ratio of the largest to the smallest curvature.
        rotation: (D, D) orthogonal, or None for the identity.
        scale: the smallest h_i.
    """

    name = "quadratic"

    def __init__(self, dimension: int, condition: float, rotation: Tensor | None = None, scale: float = 1.0) -> None:
        exponents = torch.linspace(0, 1, dimension, dtype=torch.float64, device="cpu")
        self.curvatures = scale * condition**exponents
        self.rotation = rotation

    def per_element(self, outputs: Tensor, targets: Tensor) -> Tensor:
        turned = outputs if self.rotation is None else outputs @ _like(self.rotation.T, outputs)
        return (_like(self.curvatures, outputs) * turned.square()).sum(-1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.curvature_product(outputs, outputs)

    def curvature_product(self, outputs: Tensor, vector: Tensor) -> Tensor:
        curvatures = 2 * _like(self.curvatures, vector)
        if self.rotation is None:
            return curvatures * vector
        rotation = _like(self.rotation, vector)
        return (vector @ rotation.T * curvatures) @ rotation


class Quadratic(PointTask):
    """f(theta) = sum_i h_i theta_i^2 from theta = 1, by default of condition 100 in 10 dimensions.

    Args:
        dimension: D, at least 1.
        condition: ratio of the largest to the smallest curvature, at least 1. 1 is the sphere, 1e6 the ellipsoid.
        rotated: turn the axes by a random rotation (of `data_seed`), so that no coordinate stands alone.
        start: a number for all coordinates, or D numbers.
        scale: factor on the function, above 0: 1 / condition makes the largest curvature that of the sphere.
        common: see `PointTask`.

    Raises:
        AltpropError: for values outside these.

    Paper: Hansen and Ostermeier 2001 for the sphere and the ellipsoid.
    """

    losses: ClassVar[tuple[str, ...]] = ("quadratic",)

    def __init__(
        self,
        *,
        dimension: int = 10,
        condition: float = 100.0,
        rotated: bool = False,
        start: Any = None,
        scale: float = 1.0,
        **common: Any,
    ) -> None:
        begin = start_of(start, dimension, (1.0,))
        self.dimension, self.rotated = check_whole(dimension, "task.dimension", 1), rotated
        self.condition = check_number(condition, "task.condition", 1.0)
        self.scale = check_number(scale, "task.scale", above=0.0)
        self._seed = int(common.get("data_seed", 0))
        turned = f", rotated by seed {self._seed}" if rotated else ""
        scaled = f", times {self.scale:g}" if self.scale != 1 else ""
        side = 1.5 * max(abs(value) for value in begin) or 1.5
        view = ((-side, side), (-side, side))
        super().__init__(begin, f"quadratic of condition {self.condition:g}{turned}{scaled}", view=view, **common)

    def _make_loss(self, name: str) -> QuadraticFunction:
        if not self.rotated:
            return QuadraticFunction(self.dimension, self.condition, None, self.scale)
        generator = generator_for(self._seed, "quadratic", "rotation")
        draw = torch.randn(self.dimension, self.dimension, generator=generator, dtype=torch.float64, device="cpu")
        return QuadraticFunction(self.dimension, self.condition, torch.linalg.qr(draw)[0], self.scale)


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    return tensor.to(device=other.device, dtype=other.dtype)
