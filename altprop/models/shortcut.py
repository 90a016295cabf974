"""The multilayer perceptron with shortcuts: each layer sees the input and all earlier layers."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

from altprop.capabilities import Capability
from altprop.checks import ACTIVATIONS, INITIALISATIONS, NORMALISATIONS, check_name, check_widths
from altprop.data import ModelSpec
from altprop.models.base import Block, Dense, LayeredModel
from altprop.noise import Noise


class ShortcutMLP(LayeredModel):
    """Dense layers, each connected to the input and to all layers before it.

    A hidden block hands on what it saw beside what it made of it, [x, f(x W^T + b)]: so the blocks still follow one
    another, but their outputs are no plain function of a pre-activation, and the model offers no CHAIN.
    A 2-5-5-5-1 net has 138 weights: the one that Lang and Witbrock (1988) taught two spirals.

    Args:
        spec: shapes on both sides; inputs are flattened.
        hidden: widths of the hidden layers.
        activation, initialisation, normalisation: names from `altprop.models.parts`.
        noise: the run's noise, or None.
        generator: CPU generator of the initialisation stream.

    Raises:
        AltpropError: for a width below 1 or an unknown name.

    >>> model = ShortcutMLP(ModelSpec((2,), 1), [5, 5, 5], generator=torch.Generator("cpu").manual_seed(0))
    >>> sum(p.numel() for p in model.parameters())
    138
    """

    offers: ClassVar[frozenset[Capability]] = LayeredModel.offers - {Capability.CHAIN}

    def __init__(
        self,
        spec: ModelSpec,
        hidden: Sequence[int] = (5, 5, 5),
        activation: str = "tanh",
        initialisation: str = "torch",
        normalisation: str = "none",
        *,
        noise: Noise | None = None,
        generator: torch.Generator,
    ) -> None:
        widths = check_widths(hidden)
        check_name(activation, "model.activation", ACTIVATIONS)
        check_name(normalisation, "model.normalisation", NORMALISATIONS)
        check_name(initialisation, "model.initialisation", INITIALISATIONS)
        seen, blocks = math.prod(spec.input_shape), list[Block]()
        for index, width in enumerate([*widths, spec.outputs]):
            last = index == len(widths)
            blocks.append(
                Dense(
                    seen,
                    width,
                    activation="identity" if last else activation,
                    normalisation="none" if last else normalisation,
                    initialisation=initialisation,
                    generator=generator,
                    flatten=index == 0 and len(spec.input_shape) > 1,
                    shortcut=not last,
                )
            )
            seen += width
        super().__init__(spec, blocks, noise)
