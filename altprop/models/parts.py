"""Activations, initialisations and normalisations by name, so that they are configuration."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from altprop.capabilities import DERIVATIVES
from altprop.errors import AltpropError, Refused

T = TypeVar("T")


@dataclass(frozen=True)
class Activation:
    """An element-wise function.

    Attributes:
        name: as configuration spells it.
        function: z -> f(z).
        slope: (z, f(z)) -> f'(z), for rules without autograd.
        gain: the factor that keeps the variance of a layer's output, for initialisations.
        bounds: (low, high) of the range where it saturates, or None.
        keeps_z: whether the slope needs z, which then is kept for the way back beside f(z).
        flat: whether it is a step, flat wherever it has a slope: no gradient comes through it.
        fused: (delta, z, f(z)) -> delta f'(z) in one operation, where there is one.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    gain: float = 1.0
    bounds: tuple[float, float] | None = None
    keeps_z: bool = False
    flat: bool = False
    fused: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def back(self, delta: Tensor, z: Tensor, y: Tensor) -> Tensor:
        """Return dE/dz from dE/dy."""
        return delta * self.slope(z, y) if self.fused is None else self.fused(delta, z, y)


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))


def _gelu_slope(z: Tensor, _: Tensor) -> Tensor:
    return _normal_cdf(z) + z * torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def _silu_slope(z: Tensor, _: Tensor) -> Tensor:
    s = z.sigmoid()
    return s * (1 + z * (1 - s))


ACTIVATIONS: dict[str, Activation] = {
    a.name: a
    for a in (
        Activation("identity", lambda z: z, lambda z, y: torch.ones_like(z), fused=lambda delta, z, y: delta),
        Activation(
            "relu",
            torch.relu,
            lambda z, y: (y > 0).to(y.dtype),
            math.sqrt(2),
            (0.0, math.inf),
            fused=lambda delta, z, y: torch.ops.aten.threshold_backward(delta, y, 0),
        ),
        Activation("tanh", torch.tanh, lambda z, y: 1 - y * y, 5 / 3, (-1.0, 1.0)),
        Activation("sigmoid", torch.sigmoid, lambda z, y: y * (1 - y), 1.0, (0.0, 1.0)),
        Activation(
            "leaky_relu",
            lambda z: functional.leaky_relu(z, 0.01),
            # Not torch.where(y > 0, 1.0, 0.01): that rounds .01 to the default dtype.
            lambda z, y: (y > 0).to(y.dtype) * 0.99 + 0.01,
            math.sqrt(2 / (1 + 0.01**2)),
        ),
        Activation(
            "elu", functional.elu, lambda z, y: torch.where(y > 0, torch.ones_like(y), y + 1), 1.0, (-1.0, math.inf)
        ),
        # Klambauer et al. 2017; the slope below 0 is what is left to the limit, -1.758.
        Activation(
            "selu",
            functional.selu,
            lambda z, y: torch.where(y > 0, torch.full_like(y, _SELU_SCALE), y + _SELU_SCALE * _SELU_ALPHA),
            1.0,
            (-_SELU_SCALE * _SELU_ALPHA, math.inf),
        ),
        Activation("softplus", functional.softplus, lambda z, y: z.sigmoid(), keeps_z=True),
        Activation("gelu", functional.gelu, _gelu_slope, math.sqrt(2), keeps_z=True),
        Activation("silu", functional.silu, _silu_slope, math.sqrt(2), keeps_z=True),
        Activation("sign", torch.sign, lambda z, y: torch.zeros_like(z), 1.0, (-1.0, 1.0), flat=True),
    )
}


def make_activation(name: str) -> Activation:
    """Return the activation of that name.

    Raises:
        AltpropError: for an unknown name.
    """
    return _lookup(ACTIVATIONS, "model.activation", name)


def withhold_derivatives(model: nn.Module) -> None:
    """Let a model with flat activations offer no derivative, and name what would: `Problem.refuse_unless` says it."""
    vars(model)["offers"] = model.offers - DERIVATIVES  # type: ignore[operator]
    if not hasattr(model, "differentiable_with"):  # a class of thresholds alone names another model
        vars(model)["differentiable_with"] = "model.activation=tanh"


Initialiser = Callable[[Tensor, int, int, float, torch.Generator], None]


def _uniform(weight: Tensor, bound: float, generator: torch.Generator) -> None:
    draw = torch.rand(weight.shape, generator=generator, dtype=weight.dtype, device="cpu")
    weight.copy_(bound * (2 * draw - 1))


def _normal(weight: Tensor, deviation: float, generator: torch.Generator) -> None:
    draw = torch.randn(weight.shape, generator=generator, dtype=weight.dtype, device="cpu")
    weight.copy_(deviation * draw)


def _zero(weight: Tensor) -> None:
    weight.zero_()


def _orthogonal(weight: Tensor, fan_in: int, fan_out: int, gain: float, generator: torch.Generator) -> None:
    rows, columns = weight.shape[0], weight[0].numel()
    draw = torch.randn(max(rows, columns), min(rows, columns), generator=generator, dtype=weight.dtype, device="cpu")
    q, r = torch.linalg.qr(draw)
    q = q * r.diagonal().sign()
    weight.copy_(gain * (q if rows >= columns else q.T).reshape(weight.shape))


def _identity(weight: Tensor) -> None:
    """Hand each input on to the unit of its number, at the middle of a convolution's kernel."""
    middle = tuple(size // 2 for size in weight.shape[2:])
    weight.zero_()
    for place in range(min(weight.shape[:2])):
        weight[(place, place, *middle)] = 1.0


INITIALISATIONS: dict[str, Initialiser] = {
    # torch's own default for Linear and Conv.
    "torch": lambda w, i, o, g, r: _uniform(w, 1 / math.sqrt(i), r),
    # He et al. 2015.
    "he_normal": lambda w, i, o, g, r: _normal(w, g / math.sqrt(i), r),
    "he_uniform": lambda w, i, o, g, r: _uniform(w, g * math.sqrt(3 / i), r),
    # Glorot and Bengio 2010.
    "glorot_normal": lambda w, i, o, g, r: _normal(w, g * math.sqrt(2 / (i + o)), r),
    "glorot_uniform": lambda w, i, o, g, r: _uniform(w, g * math.sqrt(6 / (i + o)), r),
    # LeCun et al. 1998.
    "lecun_normal": lambda w, i, o, g, r: _normal(w, 1 / math.sqrt(i), r),
    # Saxe et al. 2014.
    "orthogonal": _orthogonal,
    # Poole et al. 2016, Schoenholz et al. 2017: the gain is that of `critical`, and biases are drawn too.
    "critical": lambda w, i, o, g, r: _normal(w, g / math.sqrt(i), r),
    # Mishkin and Matas 2016: orthogonal here, and scaled by `LayeredModel.scale_outputs` once there are data.
    "lsuv": _orthogonal,
    # Le et al. 2015.
    "identity": lambda w, i, o, g, r: _identity(w),
    "small_normal": lambda w, i, o, g, r: _normal(w, 0.01, r),
    "unit_normal": lambda w, i, o, g, r: _normal(w, 1.0, r),
    "zeros": lambda w, i, o, g, r: _zero(w),
}


@cache
def critical(activation: str) -> tuple[float, float]:
    """Return the deviations (sigma_w, sigma_b) at which wide nets neither shrink nor blow up a gradient.

    Weights are N(0, sigma_w^2 / fan_in), biases N(0, sigma_b^2), and z is N(0, 1). With q the variance of
    pre-activations that a layer hands on unchanged,

        sigma_w^2 E[f'(sqrt(q) z)^2] = 1,    sigma_w^2 E[f(sqrt(q) z)^2] + sigma_b^2 = q.

    The first is chi = 1, so that the squared gradient keeps its mean from layer to layer (mean-field theory; Poole et
    al. 2016, arXiv:1606.05340; Schoenholz et al. 2017, arXiv:1611.01232). q is 1 where sigma_b^2 is not negative there,
    else the next larger one at which it is 0. For gelu and silu q drifts: their point hardly holds it, and a net of 500
    units and 24 layers was seen to multiply the squared gradient by 2 and 6.

    Raises:
        AltpropError: for an activation without such a point.

    >>> [round(value, 3) for value in critical("relu")], [round(value, 3) for value in critical("tanh")]
    ([1.414, 0.0], [1.467, 0.389])
    """
    f = make_activation(activation)

    def at(q: float) -> tuple[float, float]:
        """Return (sigma_w^2, sigma_b^2), by the midpoint rule: no point lies on the kink of a relu."""
        z = (torch.arange(-4000, 4000, dtype=torch.float64, device="cpu") + 0.5) / 500
        density = torch.exp(-0.5 * z * z) / (500 * math.sqrt(2 * math.pi))
        y = f.function(math.sqrt(q) * z)
        slope = float((f.slope(math.sqrt(q) * z, y).square() * density).sum())
        if slope == 0:
            return math.inf, -math.inf
        return 1 / slope, q - float((y.square() * density).sum()) / slope

    low, high = 1.0, 1.0e4
    # What is 0 in theory, as for relu, is 0 within the rule's error.
    if at(low)[1] < -1e-6:
        if at(high)[1] < 0:
            raise AltpropError(
                f"model.initialisation=critical has no point for {activation}; choose another of the two"
            )
        for _ in range(60):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if at(middle)[1] > 0 else (middle, high)
        low = high
    of_weights, of_biases = at(low)
    return math.sqrt(of_weights), math.sqrt(of_biases) if of_biases > 1e-6 else 0.0


def initialise(
    weight: Tensor,
    bias: Tensor | None,
    name: str,
    fan_in: int,
    fan_out: int,
    gain: float,
    generator: torch.Generator,
    activation: str = "identity",
) -> None:
    """Fill a weight (out, in, ...) and its bias in place.

    Args:
        weight: filled by the named scheme.
        bias: zero, but for "torch", which draws U(-1/sqrt(fan_in), 1/sqrt(fan_in)), and for "critical".
        name: of `INITIALISATIONS`.
        fan_in, fan_out: number of inputs and outputs of a unit.
        gain: of the activation that follows.
        generator: CPU generator of the initialisation stream.
        activation: that follows, for "critical".

    Raises:
        Refused: for a unit without inputs, where the task has none.
    """
    if fan_in < 1:
        raise Refused("this model reads inputs, and the task has none; use model=point")
    deviation = 0.0
    if name == "critical":
        gain, deviation = critical(activation)
    with torch.no_grad():
        INITIALISATIONS[name](weight, fan_in, fan_out, gain, generator)
        if bias is not None:
            if name == "torch":
                _uniform(bias, 1 / math.sqrt(fan_in), generator)
            elif deviation > 0:
                _normal(bias, deviation, generator)
            else:
                bias.zero_()


class RootMeanSquare(nn.Module):
    """Divide by the root mean square over all values of an example: `z / sqrt(mean(z^2) + 1e-5) * weight`.

    Args:
        channels: units, or channels of a convolution, each with a weight.

    Zhang and Sennrich 2019, arXiv:1910.07467: layer normalisation without the mean, and so without a bias.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, device="cpu"))

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, channels, ...) to the same shape."""
        scale = torch.rsqrt((z * z).mean(list(range(1, z.dim())), keepdim=True) + 1e-5)
        return z * scale * self.weight.reshape(-1, *[1] * (z.dim() - 2))


class WeightNormalisation(nn.Module):
    """Part a unit's weights into their length and their direction: `W = g V / |V|`, V the block's own weight.

    The block asks for W (`applied`); what stands after its linear part is left as it is. g begins as |V|, so that the
    net begins as the one without. V is told by its direction alone: its gradient stands at right angles to it, so
    that V grows with each step and the steps of its direction shrink; a penalty on V changes no function.

    Args:
        channels: units, or channels of a convolution, each with a length g, `weight`.

    Salimans and Kingma 2016, arXiv:1602.07868, equations 2 and 3. They begin with g and biases that give each unit the
    variance 1 on one batch; `initialisation=lsuv` does so for a layer as a whole.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, device="cpu"))

    def begin(self, direction: Tensor) -> None:
        """Take the lengths of weights V, (channels, ...), as the lengths g."""
        with torch.no_grad():
            self.weight.copy_(direction.flatten(1).square().sum(1).sqrt())

    def applied(self, direction: Tensor) -> Tensor:
        """Return W, (channels, ...), from V; 0 where V is."""
        squares = direction.square().sum(list(range(1, direction.dim())), keepdim=True)
        lengths = torch.where(squares > 0, squares, torch.ones_like(squares)).sqrt()
        return self.weight.reshape(-1, *[1] * (direction.dim() - 1)) * direction / lengths

    def forward(self, z: Tensor) -> Tensor:
        """Return pre-activations as they are."""
        return z


def _groups(channels: int) -> int:
    """Return the most groups, 8 at most, of equally many units each, two at least: one alone would become 0."""
    return max((g for g in range(1, 9) if channels % g == 0 and channels // g > 1), default=1)


def make_normalisation(name: str, channels: int, dims: int) -> nn.Module | None:
    """Return a normalisation of `channels` units, or None for "none".

    Args:
        name: none, batch, layer, group (Wu and He 2018; up to 8 groups of two and more units), rms or weight.
        channels: units, or channels of a convolution.
        dims: spatial dimensions: 0 dense, 1 or 2 for convolutions.

    Raises:
        AltpropError: for an unknown name.
    """
    batch = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[dims]
    kinds: dict[str, Callable[[], nn.Module | None]] = {
        "none": lambda: None,
        "batch": lambda: batch(channels, device="cpu"),
        "layer": lambda: nn.LayerNorm(channels, device="cpu") if dims == 0 else nn.GroupNorm(1, channels, device="cpu"),
        "group": lambda: nn.GroupNorm(_groups(channels), channels, device="cpu"),
        "rms": lambda: RootMeanSquare(channels),
        "weight": lambda: WeightNormalisation(channels),
    }
    return _lookup(kinds, "model.normalisation", name)()


def _lookup(table: Mapping[str, T], option: str, name: str) -> T:
    if name not in table:
        raise AltpropError(f"unknown {option}={name}; known are: {', '.join(table)}")
    return table[name]
