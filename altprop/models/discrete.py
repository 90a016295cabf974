"""Multilayer perceptrons through which no gradient comes: hard thresholds, and weights of two or three levels."""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from altprop.capabilities import DERIVATIVES, Capability
from altprop.checks import ACTIVATIONS, INITIALISATIONS, check_name, check_widths
from altprop.data import ModelSpec
from altprop.models.base import Block, Dense, LayeredModel
from altprop.noise import Noise

WEIGHTS = ("binary", "ternary")


def quantised(weight: Tensor, levels: str) -> Tensor:
    """Return the matrix of two or three levels nearest to a matrix W, each matrix with a scale of its own.

        binary:   a sign(W),               a = mean |W|                                (0 counts as positive)
        ternary:  a sign(W) [|W| > d],     d = .7 mean |W|,  a = mean of |W| above d   (all 0 where W is)

    Binary is the nearest in squares; ternary is so nearly, for d is a rule of thumb.

    Args:
        weight: (..., out, in).
        levels: binary or ternary.

    Paper: Rastegari et al. 2016, arXiv:1603.05279, equations 2 to 6; Li, Zhang and Liu 2016, arXiv:1605.04711,
    equations 3 and 6. Both hand a gradient through as if W were not rounded (a straight-through estimator); here
    none is handed on.

    >>> quantised(torch.tensor([[0.9, 0.1], [0.2, -0.8]]), "ternary")
    tensor([[ 0.8500,  0.0000],
            [ 0.0000, -0.8500]])
    """
    size = weight.abs()
    mean = size.mean((-2, -1), keepdim=True)
    if levels == "binary":
        return torch.where(weight < 0, -mean, mean)
    kept = (size > 0.7 * mean).to(weight.dtype)
    scale = (size * kept).sum((-2, -1), keepdim=True) / kept.sum((-2, -1), keepdim=True).clamp(min=1)
    return scale * weight.sign() * kept


class QuantisedDense(Block):
    """An affine map whose weight is rounded to a few levels, `x q(W)^T + b`, and its activation.

    Args:
        inputs: units in.
        outputs: units out.
        levels: binary or ternary.
        activation, initialisation: names.
        generator: CPU generator of the initialisation stream.
        flatten: whether to flatten all but the first dimension of the input.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        levels: str,
        activation: str,
        initialisation: str,
        generator: torch.Generator,
        flatten: bool,
    ) -> None:
        super().__init__(activation, "none", outputs, 0)
        self.view = (inputs,) if flatten else None
        self.levels = levels
        self.weight = nn.Parameter(torch.empty(outputs, inputs, device="cpu"))
        self.bias = nn.Parameter(torch.empty(outputs, device="cpu"))
        self._draw(initialisation, inputs, outputs, generator, activation)

    def transform(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.perturbed(x), quantised(self.effective_weight(), self.levels), self.bias)

    def transpose(self, delta: Tensor, weight: Tensor, input_shape: torch.Size) -> Tensor:
        return (delta @ weight).reshape(input_shape)

    def population(self, x: Tensor, params: Mapping[str, Tensor], shared_input: bool) -> Tensor:
        weight = params["weight"]
        if self.noise is not None:
            weight = self.noise(weight, "weight", self.index, 1)
        seen = self.perturbed(x, 0 if shared_input else 1)
        return self.respond(seen @ quantised(weight, self.levels).mT + params["bias"][:, None, :], 1)


class ThresholdMLP(LayeredModel):
    """Dense blocks whose hidden units are hard thresholds, sign(z): -1 or 1. The outputs are linear.

    Who takes derivatives is refused; `model=mlp model.activation=sign` is the same net.

    Args:
        spec: shapes on both sides; inputs are flattened.
        hidden: widths of the hidden layers.
        initialisation: a name from `altprop.models.parts`.
        noise: the run's noise, or None.
        generator: CPU generator of the initialisation stream.

    Raises:
        AltpropError: for a width below 1 or an unknown name.
    """

    offers: ClassVar[frozenset[Capability]] = LayeredModel.offers - DERIVATIVES | {Capability.DENSE}
    differentiable_with: ClassVar[str] = "model=mlp"

    def __init__(
        self,
        spec: ModelSpec,
        hidden: Sequence[int] = (100,),
        initialisation: str = "torch",
        *,
        noise: Noise | None = None,
        generator: torch.Generator,
    ) -> None:
        check_name(initialisation, "model.initialisation", INITIALISATIONS)
        widths = [math.prod(spec.input_shape), *check_widths(hidden), spec.outputs]
        blocks: list[Block] = [
            Dense(
                widths[i],
                widths[i + 1],
                activation="sign" if i < len(hidden) else "identity",
                initialisation=initialisation,
                generator=generator,
                flatten=i == 0 and len(spec.input_shape) > 1,
            )
            for i in range(len(hidden) + 1)
        ]
        super().__init__(spec, blocks, noise)


class QuantisedMLP(LayeredModel):
    """Dense blocks whose weights have two or three levels in every forward pass; biases are as they are.

    What is learned are the real weights W behind them, `quantised`: most small changes change nothing. There is no
    straight-through estimator, so that who takes derivatives is refused. Rules for plain chains speak of a layer's
    weight, which is no parameter here: it offers no CHAIN.

    Args:
        spec: shapes on both sides; inputs are flattened.
        hidden: widths of the hidden layers.
        weights: binary or ternary.
        activation, initialisation: names from `altprop.models.parts`.
        noise: the run's noise, or None.
        generator: CPU generator of the initialisation stream.

    Raises:
        AltpropError: for a width below 1 or an unknown name.

    >>> model = QuantisedMLP(ModelSpec((2,), 1), [5], generator=torch.Generator().manual_seed(0))
    >>> [len(quantised(block.weight, "ternary").unique()) for block in model.blocks]
    [3, 3]
    """

    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.LAYERED})
    differentiable_with: ClassVar[str] = "model=mlp"

    def __init__(
        self,
        spec: ModelSpec,
        hidden: Sequence[int] = (100,),
        weights: str = "ternary",
        activation: str = "relu",
        initialisation: str = "torch",
        *,
        noise: Noise | None = None,
        generator: torch.Generator,
    ) -> None:
        check_name(weights, "model.weights", WEIGHTS)
        check_name(activation, "model.activation", ACTIVATIONS)
        check_name(initialisation, "model.initialisation", INITIALISATIONS)
        widths = [math.prod(spec.input_shape), *check_widths(hidden), spec.outputs]
        blocks: list[Block] = [
            QuantisedDense(
                widths[i],
                widths[i + 1],
                levels=weights,
                activation=activation if i < len(hidden) else "identity",
                initialisation=initialisation,
                generator=generator,
                flatten=i == 0 and len(spec.input_shape) > 1,
            )
            for i in range(len(hidden) + 1)
        ]
        super().__init__(spec, blocks, noise)
