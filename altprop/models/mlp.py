"""The multilayer perceptron, and the linear model as its special case."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

from altprop.capabilities import Capability
from altprop.checks import ACTIVATIONS, INITIALISATIONS, NORMALISATIONS, check_name, check_widths
from altprop.data import ModelSpec
from altprop.models.base import Dense, LayeredModel
from altprop.noise import Noise


class MLP(LayeredModel):
    """Dense blocks; no hidden width gives the linear model.

    Args:
        spec: shapes on both sides; inputs are flattened.
        hidden: widths of the hidden layers.
        activation, initialisation, normalisation: names from `altprop.models.parts`.
        noise: the run's noise, or None.
        generator: CPU generator of the initialisation stream.

    Raises:
        AltpropError: for a width below 1 or an unknown name.
    """

    offers: ClassVar[frozenset[Capability]] = LayeredModel.offers | {Capability.DENSE}

    def __init__(
        self,
        spec: ModelSpec,
        hidden: Sequence[int] = (100,),
        activation: str = "relu",
        initialisation: str = "torch",
        normalisation: str = "none",
        *,
        noise: Noise | None = None,
        generator: torch.Generator,
    ) -> None:
        check_widths(hidden)
        check_name(activation, "model.activation", ACTIVATIONS)
        check_name(normalisation, "model.normalisation", NORMALISATIONS)
        check_name(initialisation, "model.initialisation", INITIALISATIONS)
        widths = [math.prod(spec.input_shape), *hidden, spec.outputs]
        last = len(widths) - 2
        super().__init__(
            spec,
            [
                Dense(
                    widths[i],
                    widths[i + 1],
                    activation="identity" if i == last else activation,
                    normalisation="none" if i == last else normalisation,
                    initialisation=initialisation,
                    generator=generator,
                    flatten=i == 0 and len(spec.input_shape) > 1,
                )
                for i in range(last + 1)
            ],
            noise,
        )
