"""The convolutional network: strided convolutions over signals or images, then a dense readout."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from altprop.checks import ACTIVATIONS, INITIALISATIONS, NORMALISATIONS, check_name, check_sizes, check_widths
from altprop.data import ModelSpec
from altprop.errors import AltpropError
from altprop.models.base import Block, Dense, LayeredModel
from altprop.noise import Noise

_FORWARD = {1: functional.conv1d, 2: functional.conv2d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d}


class Conv(Block):
    """A convolution over one or two dimensions and what follows; a stride stands where others pool.

    Args:
        input_shape: (C, L) or (C, H, W) of one example.
        channels: of the output.
        kernel, stride, padding: pixels, the same in both dimensions.
        activation, normalisation, initialisation: names.
        generator: CPU generator of the initialisation stream.
        view: whether inputs come in another shape (plain vectors) and are viewed as `input_shape`.
        skip: whether the input is added to the output, where both have one shape.

    Attributes:
        input_shape: as above.
        output_shape: (channels, L') or (channels, H', W'), with L' = (L + 2 padding - kernel) // stride + 1.

    Raises:
        AltpropError: where the kernel does not fit into the padded input.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        channels: int,
        *,
        kernel: int = 3,
        stride: int = 2,
        padding: int = 1,
        activation: str = "relu",
        normalisation: str = "none",
        initialisation: str = "torch",
        generator: torch.Generator,
        view: bool = False,
        skip: bool = False,
    ) -> None:
        dims = len(input_shape) - 1
        super().__init__(activation, normalisation, channels, dims)
        if min(input_shape[1:]) + 2 * padding < kernel:
            raise AltpropError(f"model.kernel={kernel} does not fit a layer whose input is {list(input_shape)}")
        self.dims, self.stride, self.padding, self.kernel = dims, stride, padding, kernel
        self.input_shape = input_shape
        self.view = input_shape if view else None
        self.output_shape = (channels, *((n + 2 * padding - kernel) // stride + 1 for n in input_shape[1:]))
        self.skip = skip and self.output_shape == input_shape
        taps = kernel**dims
        self.weight = nn.Parameter(torch.empty(channels, input_shape[0], *[kernel] * dims, device="cpu"))
        self.bias = nn.Parameter(torch.empty(channels, device="cpu"))
        self._draw(initialisation, input_shape[0] * taps, channels * taps, generator, activation)

    def transform(self, x: Tensor) -> Tensor:
        convolve = _FORWARD[self.dims]
        return convolve(self.perturbed(x), self.effective_weight(), self.bias, self.stride, self.padding)

    def transpose(self, delta: Tensor, weight: Tensor, input_shape: torch.Size) -> Tensor:
        # A stride forgets up to stride - 1 last pixels; they are named here, so that the shape comes back.
        sizes = zip(self.input_shape[1:], self.output_shape[1:], strict=True)
        rest = [n - ((m - 1) * self.stride - 2 * self.padding + self.kernel) for n, m in sizes]
        back = _TRANSPOSED[self.dims](delta, weight, None, self.stride, self.padding, rest)
        return back.reshape(input_shape)

    def population(self, x: Tensor, params: Mapping[str, Tensor], shared_input: bool) -> Tensor:
        weight, bias = params["weight"], params["bias"]
        if self.noise is not None:
            weight = self.noise(weight, "weight", self.index, 1)
        p, channels = weight.shape[:2]
        convolve = _FORWARD[self.dims]
        # One input under P sets of filters is one convolution with P times the channels; P inputs are P groups.
        if shared_input:
            seen, groups = self.perturbed(x), 1
        else:
            seen, groups = self.perturbed(x, 1).transpose(0, 1).flatten(1, 2), p
        z = convolve(seen, weight.flatten(0, 1), bias.flatten(), self.stride, self.padding, 1, groups)
        y = self.respond(z.reshape(-1, p, channels, *z.shape[2:]).transpose(0, 1), 1)
        return self.added(x, y, 1) if self.skip else y


class CNN(LayeredModel):
    """Convolutions with a stride, then one dense layer.

    The defaults fit digits (8x8 -> 4x4 -> 2x2) and MNIST. On MNIST-1D `channels=[25,25,25] kernel=[5,3,3]` is its
    authors' network (Greydanus and Kobak 2024). A single number for kernel, stride or padding holds for all layers.

    Args:
        spec: shapes on both sides; inputs are (C, L), (C, H, W), or vectors that are viewed as `image`.
        channels: of the convolutions, in order.
        kernel, stride, padding: of each, in pixels.
        image: (C, L) or (C, H, W) as which a vector is viewed; None takes one square image where the number of
            values is a square, else one signal.
        activation, initialisation, normalisation: names from `altprop.models.parts`.
        noise: the run's noise, or None.
        generator: CPU generator of the initialisation stream.

    Raises:
        AltpropError: for a value that is no size, an unknown name, or an image that does not fit the inputs.
    """

    def __init__(
        self,
        spec: ModelSpec,
        channels: Sequence[int] = (16, 32),
        kernel: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 2,
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
        super().__init__(spec, convolutions(spec, channels, kernel, stride, padding, image, names, generator), noise)


def convolutions(
    spec: ModelSpec,
    channels: Sequence[int],
    kernel: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    image: Sequence[int] | None,
    names: Mapping[str, str],
    generator: torch.Generator,
    skip: bool = False,
) -> list[Block]:
    """Return the blocks of a convolutional net.

    Args:
        spec, channels, kernel, stride, padding, image, generator: as `CNN` takes them.
        names: of activation, initialisation and normalisation.
        skip: whether each convolution but the first adds its input where that has the shape of its output.
    """
    widths = check_widths(channels, "model.channels")
    if not widths:
        raise AltpropError("model.channels needs at least one convolution; for none use model=mlp")
    depth = len(widths)
    shapes = zip(
        widths,
        _each(kernel, depth, "model.kernel", 1),
        _each(stride, depth, "model.stride", 1),
        _each(padding, depth, "model.padding", 0),
        strict=True,
    )
    shape = _image(spec.input_shape, image)
    blocks: list[Block] = []
    for width, taps, step, border in shapes:
        conv = Conv(
            shape,
            width,
            kernel=taps,
            stride=step,
            padding=border,
            **names,
            generator=generator,
            view=not blocks and shape != spec.input_shape,
            skip=skip and bool(blocks),
        )
        blocks.append(conv)
        shape = conv.output_shape
    initialisation = names["initialisation"]
    readout = Dense(math.prod(shape), spec.outputs, initialisation=initialisation, generator=generator, flatten=True)
    return [*blocks, readout]


def _each(value: int | Sequence[int], depth: int, option: str, least: int) -> list[int]:
    """Return one whole number a layer from one for all or a list."""
    sizes = check_sizes(value, option, least)
    if len(sizes) == 1 and not isinstance(value, (list, tuple)):
        return sizes * depth
    if len(sizes) != depth:
        raise AltpropError(f"{option} must be one number, or one for each of the {depth} layers; got {value}")
    return sizes


def _image(input_shape: tuple[int, ...], image: Sequence[int] | None) -> tuple[int, ...]:
    """Return the shape (C, L) or (C, H, W) in which the convolutions see one example."""
    if image is not None:
        shape = tuple(check_widths(image, "model.image"))
        if len(shape) not in (2, 3) or math.prod(shape) != math.prod(input_shape):
            raise AltpropError(
                f"model.image must be [C,L] or [C,H,W] with {math.prod(input_shape)} values; got {list(image)}"
            )
        return shape
    if len(input_shape) in (2, 3):
        return input_shape
    if len(input_shape) != 1:
        raise AltpropError(f"model=cnn reads vectors, signals or images; this task's inputs are {list(input_shape)}")
    side = math.isqrt(input_shape[0])
    return (1, side, side) if side * side == input_shape[0] else (1, input_shape[0])


__all__ = ["CNN", "Conv", "convolutions"]
