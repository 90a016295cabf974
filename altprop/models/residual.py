"""Residual models: layers that add what they make of their input to it."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

from altprop.capabilities import Capability
from altprop.checks import ACTIVATIONS, INITIALISATIONS, NORMALISATIONS, check_name, check_widths
from altprop.data import ModelSpec
from altprop.errors import AltpropError
from altprop.models.base import Block, Dense, LayeredModel
from altprop.models.cnn import convolutions
from altprop.noise import Noise


class ResidualMLP(LayeredModel):
    """Dense layers with skip connections: a hidden layer as wide as the one below gives `x + f(x W^T + b)`.

    The first hidden layer, layers of another width, and the output are plain. One affine map is a branch here, where
    He, Zhang, Ren and Sun (2016, arXiv:1603.05027) have two with the activation before each: it is a step of Euler's
    method along f. A signal goes on beside every block, forth and back, so that the model offers no CHAIN.

    Args:
        spec: shapes on both sides; inputs are flattened.
        hidden: widths of the hidden layers; two neighbours at least are alike.
        activation, initialisation, normalisation: names from `altprop.models.parts`.
        noise: the run's noise, or None; at the site `branch` it acts on f(x W^T + b).
        generator: CPU generator of the initialisation stream.

    Raises:
        AltpropError: for a width below 1, an unknown name, or widths that leave no layer with a skip.

    >>> model = ResidualMLP(ModelSpec((2,), 1), [5, 5, 4], generator=torch.Generator().manual_seed(0))
    >>> [block.skip for block in model.blocks]
    [False, True, False, False]
    """

    offers: ClassVar[frozenset[Capability]] = LayeredModel.offers - {Capability.CHAIN}

    def __init__(
        self,
        spec: ModelSpec,
        hidden: Sequence[int] = (32, 32, 32),
        activation: str = "relu",
        initialisation: str = "torch",
        normalisation: str = "none",
        *,
        noise: Noise | None = None,
        generator: torch.Generator,
    ) -> None:
        check_name(activation, "model.activation", ACTIVATIONS)
        check_name(normalisation, "model.normalisation", NORMALISATIONS)
        check_name(initialisation, "model.initialisation", INITIALISATIONS)
        widths = [math.prod(spec.input_shape), *check_widths(hidden), spec.outputs]
        last = len(widths) - 2
        blocks: list[Block] = [
            Dense(
                widths[i],
                widths[i + 1],
                activation="identity" if i == last else activation,
                normalisation="none" if i == last else normalisation,
                initialisation=initialisation,
                generator=generator,
                flatten=i == 0 and len(spec.input_shape) > 1,
                skip=0 < i < last and widths[i] == widths[i + 1],
            )
            for i in range(last + 1)
        ]
        _refuse_without_skip(blocks, f"model.hidden={list(hidden)}")
        super().__init__(spec, blocks, noise)


class ResidualCNN(LayeredModel):
    """Convolutions with skip connections: one whose output has the shape of its input adds it; then a dense layer.

    That is a convolution of stride 1 with as many channels as the one below, a kernel of 2 p + 1 and the padding p; the
    others are plain.

    Args:
        spec, channels, kernel, stride, padding, image: as for `CNN`.
        activation, initialisation, normalisation: names from `altprop.models.parts`.
        noise: the run's noise, or None; at the site `branch` it acts on what a convolution adds.
        generator: CPU generator of the initialisation stream.

    Raises:
        AltpropError: as `CNN`, and for shapes that leave no convolution with a skip.

    >>> model = ResidualCNN(ModelSpec((64,), 10), generator=torch.Generator().manual_seed(0))
    >>> [block.skip for block in model.blocks]
    [False, True, False, True, False]
    """

    offers: ClassVar[frozenset[Capability]] = LayeredModel.offers - {Capability.CHAIN}

    def __init__(
        self,
        spec: ModelSpec,
        channels: Sequence[int] = (16, 16, 32, 32),
        kernel: int | Sequence[int] = 3,
        stride: int | Sequence[int] = (2, 1, 2, 1),
        padding: int | Sequence[int] = 1,
        image: Sequence[int] | None = None,
        activation: str = "relu",
        initialisation: str = "torch",
        normalisation: str = "none",
        *,
        noise: Noise | None = None,
        generator: torch.Generator,
    ) -> None:
        check_name(activation, "model.activation", ACTIVATIONS)
        check_name(normalisation, "model.normalisation", NORMALISATIONS)
        check_name(initialisation, "model.initialisation", INITIALISATIONS)
        names = {"activation": activation, "initialisation": initialisation, "normalisation": normalisation}
        blocks = convolutions(spec, channels, kernel, stride, padding, image, names, generator, skip=True)
        _refuse_without_skip(blocks, f"model.channels={list(channels)} model.stride={stride}")
        super().__init__(spec, blocks, noise)


def _refuse_without_skip(blocks: Sequence[Block], options: str) -> None:
    """Refuse a residual model that would be a plain one under another label."""
    if not any(block.skip for block in blocks):
        raise AltpropError(
            f"{options} leaves no layer whose input has the shape of its output; make two neighbours alike"
        )
