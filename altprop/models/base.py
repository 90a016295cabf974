"""Layered models: a chain of blocks, each an affine map or convolution, normalisation, activation and noise."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from altprop.capabilities import Capability
from altprop.data import ModelSpec
from altprop.errors import AltpropError, Refused
from altprop.models.parts import (
    Activation,
    WeightNormalisation,
    initialise,
    make_activation,
    make_normalisation,
    withhold_derivatives,
)
from altprop.noise import MultiplicativeNoise, Noise

# Numbers that a layer hands on for a population, from which on a CPU multiplies individual by individual. One product
# of all weights makes the next layer walk over memory: (P, B, out, F) = (256, 512, 32, 64) then takes 54 ms in place of
# 20 ms. Smaller products stay together: a product of its own may differ in the last bit, and runs keep theirs.
LARGE = 2**19


class Block(nn.Module, ABC):
    """Abstract block: `forward(x) = respond(transform(x))`; a shortcut puts x before it, a skip adds x.

    `transform` is the linear part (with weight and bias), `respond` what follows: normalisation, activation, noise.
    That split serves local rules, feedback rules, curvature factors and batched populations.

    Args:
        activation: name of the activation.
        normalisation: name of the normalisation.
        channels: units (dense) or channels of the output.
        dims: spatial dimensions.

    Attributes:
        view: shape of one example as the linear part takes it, where the input has another; else None.
        shortcut: whether the output carries the input along, `[x, y]`.
        skip: whether the input is added, `x + y`; y is a residual branch then.
        index: place in the chain.
        is_output: whether this is the last block, whose output carries no noise.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, activation: str, normalisation: str, channels: int, dims: int) -> None:
        super().__init__()
        self.activation: Activation = make_activation(activation)
        self.norm = make_normalisation(normalisation, channels, dims)
        self.view: tuple[int, ...] | None = None
        self.shortcut = False
        self.skip = False
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
        y = self.respond(self.transform(x))
        if self.skip:
            return self.added(x, y)
        return torch.cat([self.perturbed(x), y], -1) if self.shortcut else y

    def added(self, x: Tensor, y: Tensor, shared: int = 0) -> Tensor:
        """Return x + y, the branch y under its noise."""
        return x + (y if self.noise is None else self.noise(y, "branch", self.index, shared))

    def perturbed(self, x: Tensor, shared: int = 0) -> Tensor:
        """Return what the linear part sees: x in the shape that it takes, under the input noise."""
        if self.view is not None:
            x = x.reshape(*x.shape[: 1 + shared], *self.view)
        if self.noise is not None and self.index == 0:
            x = self.noise(x, "input", 0, shared)
        return x

    def effective_weight(self) -> Tensor:
        """Return the weight that the linear part has: normalised where that is asked for, and with weight noise."""
        weight = self.norm.applied(self.weight) if isinstance(self.norm, WeightNormalisation) else self.weight
        noise = self.noise
        return weight if noise is None else noise(weight, "weight", self.index)

    def _draw(
        self, initialisation: str, fan_in: int, fan_out: int, generator: torch.Generator, activation: str
    ) -> None:
        """Fill weight and bias by the named scheme; normalised weights begin as they are drawn."""
        gain = self.activation.gain
        initialise(self.weight, self.bias, initialisation, fan_in, fan_out, gain, generator, activation)
        if isinstance(self.norm, WeightNormalisation):
            self.norm.begin(self.weight)

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
        inputs: units in.
        outputs: units out.
        activation, normalisation, initialisation: names.
        generator: CPU generator of the initialisation stream.
        flatten: whether to flatten all but the first dimension of the input.
        shortcut: whether the output carries the input (a vector) along, `[x, f(x W^T + b)]`: no plain chain.
        skip: whether the input is added, `x + f(x W^T + b)`, in a block of as many inputs as outputs: no plain chain.
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
        shortcut: bool = False,
        skip: bool = False,
    ) -> None:
        super().__init__(activation, normalisation, outputs, 0)
        self.view = (inputs,) if flatten else None
        self.shortcut, self.skip = shortcut, skip
        self.weight = nn.Parameter(torch.empty(outputs, inputs, device="cpu"))
        self.bias = nn.Parameter(torch.empty(outputs, device="cpu"))
        self._draw(initialisation, inputs, outputs, generator, activation)

    def transform(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.perturbed(x), self.effective_weight(), self.bias)

    def transpose(self, delta: Tensor, weight: Tensor, input_shape: torch.Size) -> Tensor:
        return (delta @ weight).reshape(input_shape)

    def population(self, x: Tensor, params: Mapping[str, Tensor], shared_input: bool) -> Tensor:
        weight, bias = params["weight"], params["bias"]
        if self.noise is not None:
            weight = self.noise(weight, "weight", self.index, 1)
        p, out, _ = weight.shape
        large = x.device.type == "cpu" and out >= 16 and p * x.shape[0] * out >= LARGE
        if shared_input and not large:
            seen = self.perturbed(x)
            z = (seen @ weight.reshape(p * out, -1).T).reshape(-1, p, out).transpose(0, 1) + bias[:, None, :]
        else:
            seen = self.perturbed(x).expand(p, -1, -1) if shared_input else self.perturbed(x, 1)
            z = torch.baddbmm(bias[:, None, :], seen, weight.transpose(1, 2))
        y = self.respond(z, 1)
        if self.skip:
            return self.added(x, y, 1)
        return torch.cat([seen.expand(p, *seen.shape[-2:]), y], -1) if self.shortcut else y


def _resized(old: nn.Parameter, shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> nn.Parameter:
    """Return a parameter of another shape: the old values where there were any, uniform draws elsewhere."""
    draw = torch.rand(shape, generator=generator, dtype=old.dtype, device="cpu")
    new = ((2 * draw - 1) / math.sqrt(fan_in)).to(old.device)
    kept = tuple(slice(min(a, b)) for a, b in zip(shape, old.shape, strict=True))
    new[kept] = old.detach()[kept]
    return nn.Parameter(new)


class LayeredModel(nn.Module):
    """A chain of blocks. Zoo models are built through it; they differ in which blocks they stack.

    Args:
        blocks: in order; the last one gives the outputs.
        noise: the run's noise, or None.

    Raises:
        Refused: for a task whose inputs are sequences.
    """

    offers: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.GRADIENT, Capability.CURVATURE, Capability.LAYERED, Capability.CHAIN}
    )

    def __init__(self, spec: ModelSpec, blocks: list[Block], noise: Noise | None) -> None:
        super().__init__()
        if spec.sequence:
            raise Refused("this model reads one example at a time, and the task's inputs are sequences; try model=gru")
        self.spec = spec
        self.blocks = nn.ModuleList()  # before the noise, whose parameters come last in flat vectors
        self.noise = noise
        self._chain(blocks)

    def _chain(self, blocks: list[Block]) -> None:
        """Take blocks in this order, each with its place and the noise."""
        self.blocks = nn.ModuleList(blocks)
        for index, block in enumerate(blocks):
            block.attach(self.noise, index, index == len(blocks) - 1)
        if any(block.activation.flat for block in blocks):
            withhold_derivatives(self)
        if any(isinstance(getattr(block, "norm", None), WeightNormalisation) for block in blocks):
            # Rules for plain chains speak of a layer's weight, which is no parameter here.
            vars(self)["offers"] = self.offers - {Capability.CHAIN}

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (B, ...) to outputs (B, C)."""
        for block in self.blocks:
            x = block(x)
        return x

    def scale_outputs(self, x: Tensor) -> None:
        """Divide the weight of each layer by the deviation of its pre-activations, so that it becomes 1: LSUV.

        The layers follow one another, each seeing what those below now give; biases are 0 then, so that one division
        is exact. A layer that gives nothing stays as it is.

        Args:
            x: (B, ...) inputs of the training set.

        Mishkin and Matas 2016, arXiv:1511.06422, who begin with orthogonal weights, as `initialisation=lsuv` does.
        """
        training = self.training
        self.eval()
        with torch.no_grad():
            for block in self._listed():
                deviation = block.transform(x).std(correction=0)
                scaled = block.norm.weight if isinstance(block.norm, WeightNormalisation) else block.weight
                scaled.div_(torch.where(deviation > 0, deviation, torch.ones_like(deviation)))
                x = block(x)
        self.train(training)

    # Structure that grows or shrinks: `Updater.rebind` or `Problem.structure_changed` follows, and takes note.

    def insert_block(self, index: int, block: Block) -> None:
        """Put a block before the one at `index`; with `index` as many as there are, it gives the outputs.

        Raises:
            AltpropError: where its widths do not fit its neighbours; nothing has changed then.
        """
        first = next(self.parameters())
        blocks = self._listed()
        blocks.insert(index, block.to(device=first.device, dtype=first.dtype).train(self.training))
        self._replace(blocks)

    def remove_block(self, index: int) -> Block:
        """Take a block out and return it.

        Raises:
            AltpropError: where its neighbours' widths do not fit each other; nothing has changed then.
        """
        blocks = self._listed()
        block = blocks.pop(index)
        self._replace(blocks)
        return block

    def resize(self, index: int, units: int, generator: torch.Generator) -> None:
        """Give a hidden block of a dense chain another number of units, the last of which come or go.

        What stays keeps its weights; new ones, in and out, are drawn as torch draws those of a layer.

        Args:
            index: of the block.
            units: that it has afterwards, at least 1.
            generator: on the CPU.

        Raises:
            AltpropError: for the last block, and for one that is no plain dense block before another.
        """
        pair = self._listed()[index : index + 2]
        plain = [isinstance(b, Dense) and b.norm is None and not b.shortcut and not b.skip for b in pair]
        if index < 0 or units < 1 or plain != [True, True]:
            raise AltpropError(
                f"block {index} cannot have {units} units: only a dense block before another, without normalisation, "
                "shortcut and skip, is resized, to at least 1"
            )
        self._refuse_learned_noise()
        block, after = pair
        fan_in = block.weight.shape[1]
        block.weight = _resized(block.weight, (units, fan_in), fan_in, generator)
        block.bias = _resized(block.bias, (units,), fan_in, generator)
        after.weight = _resized(after.weight, (after.weight.shape[0], units), units, generator)

    @property
    def plain(self) -> bool:
        """Whether it is a chain of affine maps and activations and nothing else but masks, as its class has it."""
        return (
            (self.noise is None or (isinstance(self.noise, MultiplicativeNoise) and self.noise.explicit))
            and type(self).forward is LayeredModel.forward
            and all(type(b) is Dense and b.norm is None and not b.shortcut and not b.skip for b in self._listed())
        )

    @property
    def hooked(self) -> bool:
        """Whether somebody watches, by a hook, passes of model, block or noise, or the gradient of a parameter."""
        return any(
            one._forward_hooks
            or one._forward_pre_hooks
            or one._backward_hooks
            or one._backward_pre_hooks
            or any(p is not None and p._backward_hooks for p in one._parameters.values())
            for one in (self, *self._listed(), *(() if self.noise is None else (self.noise,)))
        )

    def _listed(self) -> list[Block]:
        blocks: list[Any] = list(self.blocks)
        return blocks

    def _replace(self, blocks: list[Block]) -> None:
        self._refuse_learned_noise()
        dense = [block for block in blocks if isinstance(block, Dense) and not block.shortcut]
        widths = [(b.weight.shape[1], b.weight.shape[0]) for b in dense]
        if len(dense) == len(blocks):
            fits = all(a[1] == b[0] for a, b in pairwise(widths))
            if not (blocks and fits and widths[-1][1] == self.spec.outputs):
                raise AltpropError(f"dense blocks of the widths {widths} are no chain to {self.spec.outputs} outputs")
        self._chain(blocks)

    def _refuse_learned_noise(self) -> None:
        if self.noise is not None and next(self.noise.parameters(), None) is not None:
            raise Refused("this dropout has parameters for the model as it was built; a net that grows needs another")

    @property
    def batched(self) -> bool:
        """Whether `population` works: no block normalises, and no noise has parameters that would differ too."""
        learned_noise = self.noise is not None and next(self.noise.parameters(), None) is not None
        return not learned_noise and all(getattr(block, "batched", False) for block in self.blocks)

    def population(self, x: Tensor, params: Mapping[str, Tensor], shared_input: bool = True) -> Tensor:
        """Forward P individuals, on one batch or each on its own.

        Args:
            x: (B, ...) where `shared_input`, else (P, B, ...).
            params: parameter name -> (P, ...).
            shared_input: whether all individuals see the same input.

        Returns:
            (P, B, C).
        """
        for index, block in enumerate(self.blocks):
            prefix = f"blocks.{index}."
            own = {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
            population: Any = block.population
            x = population(x, own, shared_input)
            shared_input = False
        return x
