"""Layered models: a chain of blocks, each an affine map or convolution, normalisation, activation and noise."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from altprop.capabilities import Capability
from altprop.models.parts import Activation, initialise, make_activation, make_normalisation
from altprop.noise import Noise
from altprop.task import ModelSpec


class Block(nn.Module, ABC):
    """Abstract block: `forward(x) = respond(transform(x))`.

    `transform` is the linear part (with weight and bias), `respond` what follows: normalisation, activation, noise.
    That split serves local rules, feedback rules, curvature factors and batched populations.

    Args:
        activation: name of the activation.
        normalisation: name of the normalisation.
        channels: units (dense) or channels of the output.
        dims: spatial dimensions.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, activation: str, normalisation: str, channels: int, dims: int) -> None:
        super().__init__()
        self.activation: Activation = make_activation(activation)
        self.norm = make_normalisation(normalisation, channels, dims)
        self.index = 0
        self.is_output = False
        self._noise: tuple[Noise | None] = (None,)

    def attach(self, noise: Noise | None, index: int, is_output: bool) -> None:
        """Take the model's noise (held in a tuple, so that it is registered once, by the model) and the position."""
        self._noise = (noise,)
        self.index, self.is_output = index, is_output

    @property
    def noise(self) -> Noise | None:
        """The model's noise."""
        return self._noise[0]

    def forward(self, x: Tensor) -> Tensor:
        """Map the input of the block to its output."""
        return self.respond(self.transform(x))

    def perturbed(self, x: Tensor, shared: int = 0) -> Tensor:
        """Apply the noise that stands before the linear part."""
        noise = self.noise
        if noise is None or self.index != 0:
            return x
        return noise(x, "input", 0, shared)

    def effective_weight(self) -> Tensor:
        """Return the weight with weight noise, if any."""
        noise = self.noise
        return self.weight if noise is None else noise(self.weight, "weight", self.index)

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor:
        """Return the pre-activation: input noise, then the linear part."""

    def respond(self, z: Tensor, shared: int = 0) -> Tensor:
        """Return the block's output from its pre-activation: normalisation, activation, noise."""
        if self.norm is not None:
            z = self.norm(z)
        y = self.activation.function(z)
        noise = self.noise
        return y if noise is None or self.is_output else noise(y, "unit", self.index, shared)

    @abstractmethod
    def transpose(self, delta: Tensor, weight: Tensor, input_shape: torch.Size) -> Tensor:
        """Return the product of `delta` (shaped like the pre-activation) with the transpose of a given weight.

        Backpropagation passes the block's own weight, feedback alignment a fixed random one.
        """

    @abstractmethod
    def population(self, x: Tensor, params: Mapping[str, Tensor], shared_input: bool) -> Tensor:
        """Forward P individuals at once.

        Args:
            x: (B, ...) where `shared_input`, else (P, B, ...).
            params: parameter name within the block -> (P, ...).
            shared_input: whether all individuals see the same input.

        Returns:
            (P, B, ...).
        """

    @property
    def batched(self) -> bool:
        """Whether `population` works for this block as configured."""
        return self.norm is None


class Dense(Block):
    """An affine map `x W^T + b` and what follows.

    Args:
        inputs: units in; inputs with more dimensions are flattened where they do not fit.
        outputs: units out.
        activation, normalisation, initialisation: names.
        generator: CPU generator of the initialisation stream.
        flatten: whether to flatten all but the first dimension.
        bias: whether there is a bias.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        activation: str = "identity",
        normalisation: str = "none",
        initialisation: str = "torch",
        generator: torch.Generator,
        flatten: bool = False,
    ) -> None:
        super().__init__(activation, normalisation, outputs, 0)
        self.flatten = flatten
        self.weight = nn.Parameter(torch.empty(outputs, inputs, device="cpu"))
        self.bias = nn.Parameter(torch.empty(outputs, device="cpu"))
        initialise(self.weight, self.bias, initialisation, inputs, outputs, self.activation.gain, generator)

    def transform(self, x: Tensor) -> Tensor:
        if self.flatten:
            x = x.flatten(1)
        return nn.functional.linear(self.perturbed(x), self.effective_weight(), self.bias)

    def transpose(self, delta: Tensor, weight: Tensor, input_shape: torch.Size) -> Tensor:
        return (delta @ weight).reshape(input_shape)

    def population(self, x: Tensor, params: Mapping[str, Tensor], shared_input: bool) -> Tensor:
        weight, bias = params["weight"], params["bias"]
        if self.noise is not None:
            weight = self.noise(weight, "weight", self.index, 1)
        if shared_input:
            x = self.perturbed(x.flatten(1) if self.flatten else x)
            p, out, _ = weight.shape
            z = (x @ weight.reshape(p * out, -1).T).reshape(x.shape[0], p, out).transpose(0, 1) + bias[:, None, :]
        else:
            x = x.flatten(2) if self.flatten else x
            z = torch.baddbmm(bias[:, None, :], self.perturbed(x, 1), weight.transpose(1, 2))
        return self.respond(z, 1)


class LayeredModel(nn.Module):
    """A chain of blocks. Zoo models are built through it; they differ in which blocks they stack.

    Args:
        blocks: in order; the last one gives the outputs.
        noise: the run's noise, or None.
    """

    offers: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.GRADIENT, Capability.CURVATURE, Capability.LAYERED, Capability.CHAIN}
    )

    def __init__(self, spec: ModelSpec, blocks: list[Block], noise: Noise | None) -> None:
        super().__init__()
        self.spec = spec
        self.blocks = nn.ModuleList(blocks)
        self.noise = noise
        for index, block in enumerate(blocks):
            block.attach(noise, index, index == len(blocks) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (B, ...) to outputs (B, C)."""
        for block in self.blocks:
            x = block(x)
        return x

    @property
    def batched(self) -> bool:
        """Whether `population` works."""
        return all(getattr(block, "batched", False) for block in self.blocks)

    def population(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Forward P individuals on one batch.

        Args:
            x: (B, ...).
            params: parameter name -> (P, ...).

        Returns:
            (P, B, C).
        """
        shared = True
        for index, block in enumerate(self.blocks):
            prefix = f"blocks.{index}."
            own = {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
            population: Any = block.population
            x = population(x, own, shared)
            shared = False
        return x
