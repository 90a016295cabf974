"""Activations, initialisations and normalisations by name."""

import math

import pytest
import torch

from altprop.checks import ACTIVATIONS as ACTIVATION_NAMES
from altprop.checks import INITIALISATIONS as INITIALISATION_NAMES
from altprop.data import ModelSpec
from altprop.errors import AltpropError
from altprop.models.mlp import MLP
from altprop.models.parts import (
    ACTIVATIONS,
    INITIALISATIONS,
    critical,
    initialise,
    make_activation,
    make_normalisation,
)
from altprop.randomness import generator_for

SMOOTH = [name for name, activation in ACTIVATIONS.items() if not activation.flat]


def filled(name: str, shape: tuple[int, ...] = (400, 300), gain: float = 1.0, seed: int = 0):
    """Return a weight and a bias as `initialise` leaves them."""
    weight, bias = torch.full(shape, math.nan, dtype=torch.float64), torch.full(shape[:1], math.nan).double()
    taps = math.prod(shape[2:])
    initialise(weight, bias, name, shape[1] * taps, shape[0] * taps, gain, generator_for(seed, "parts"))
    return weight, bias


def test_the_names_known_without_torch_are_these():
    assert tuple(ACTIVATIONS) == ACTIVATION_NAMES
    assert tuple(INITIALISATIONS) == INITIALISATION_NAMES


@pytest.mark.parametrize("name", SMOOTH)
def test_a_slope_is_the_derivative(name):
    activation = make_activation(name)
    # Away from 0, where relu and its kin have none.
    z = torch.cat([torch.linspace(-6, -1e-3, 101), torch.linspace(1e-3, 6, 101)]).double().requires_grad_()
    y = activation.function(z)
    (expected,) = torch.autograd.grad(y.sum(), z)
    # Seen: 2e-16 but for gelu (7e-16).
    assert (activation.slope(z, y) - expected).abs().max() < 4e-15


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_is_flat_says_so(name):
    activation, z = make_activation(name), torch.linspace(-6, 6, 100).double()
    assert activation.flat == (not activation.slope(z, activation.function(z)).any())


@pytest.mark.parametrize("name", [name for name, a in ACTIVATIONS.items() if a.bounds])
def test_bounds_are_bounds(name):
    activation = make_activation(name)
    low, high = activation.bounds
    y = activation.function(torch.linspace(-40, 40, 1001).double())
    assert y.min() >= low
    assert y.max() <= high
    assert math.isinf(low) or y.min() == pytest.approx(low, abs=1e-12)
    assert math.isinf(high) or y.max() == pytest.approx(high, abs=1e-12)


# Standard deviation times sqrt(fan_in = 300), for 400 outputs and a gain of 1.5.
DEVIATIONS = {
    "torch": 1 / math.sqrt(3),
    "he_normal": 1.5,
    "he_uniform": 1.5,
    "glorot_normal": 1.5 * math.sqrt(2 * 300 / 700),
    "glorot_uniform": 1.5 * math.sqrt(2 * 300 / 700),
    "lecun_normal": 1.0,
    "orthogonal": 1.5 * math.sqrt(300 / 400),
    "critical": 1.0,
    "lsuv": 1.5 * math.sqrt(300 / 400),
    "small_normal": 0.01 * math.sqrt(300),
    "unit_normal": math.sqrt(300),
    "zeros": 0.0,
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_an_initialisation_has_its_mean_and_deviation(name):
    weight, bias = filled(name, gain=1.5)
    deviation = DEVIATIONS[name] / math.sqrt(300)
    # 120,000 draws: the mean lies within 5 standard errors, the deviation within 5 / sqrt(2 n) of its own size.
    assert abs(weight.mean()) <= 5 * deviation / math.sqrt(weight.numel())
    assert float(weight.std()) == pytest.approx(deviation, rel=5 / math.sqrt(2 * weight.numel()), abs=1e-12)
    if name == "torch":
        assert bias.abs().max() <= 1 / math.sqrt(300)
        assert float(bias.std()) == pytest.approx(1 / math.sqrt(900), rel=0.1)
    else:
        assert not bias.any()


@pytest.mark.parametrize("name", ["torch", "he_uniform", "glorot_uniform"])
def test_a_uniform_one_fills_its_interval(name):
    weight, _ = filled(name)
    bound = math.sqrt(3) * DEVIATIONS[name] / math.sqrt(300) / (1 if name == "torch" else 1.5)
    assert 0.999 * bound < weight.abs().max() <= bound


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (16, 3, 3, 3), (3, 16, 3)])
def test_orthogonal_is_orthogonal(shape):
    weight = filled("orthogonal", shape, gain=2.0)[0].flatten(1)
    gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    assert (gram - 4 * torch.eye(len(gram)).double()).abs().max() < 1e-14


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "selu", "elu"])
def test_a_critical_net_keeps_its_signals(activation):
    """Through 24 layers of 500 units: the variance of z and the mean squared gradient stay, within sampling error."""
    width, depth, f = 500, 24, make_activation(activation)
    generator = generator_for("critical", activation)
    z, slopes, weights, variances = torch.randn(8, width, generator=generator).double(), [], [], []
    sigma_w, sigma_b = critical(activation)
    for _ in range(depth):
        weight, bias = torch.empty(width, width, dtype=torch.float64), torch.empty(width, dtype=torch.float64)
        initialise(weight, bias, "critical", width, width, 1.0, generator, activation)
        y = f.function(z)
        slopes.append(f.slope(z, y))
        weights.append(weight)
        z = y @ weight.T + bias
        variances.append(float(z.square().mean()))
    signal = torch.randn(8, width, generator=generator).double()
    sizes = []
    for weight, slope in zip(reversed(weights), reversed(slopes), strict=True):
        signal = (signal @ weight) * slope
        sizes.append(float(signal.square().mean()))
    # Some layers from the input on, whose variance is not that of a critical sigmoid.
    assert 0.5 < variances[-1] / variances[5] < 2
    assert 0.4 < sizes[-6] / sizes[0] < 2.5
    assert float(bias.std()) == pytest.approx(sigma_b, rel=0.15, abs=1e-12)
    assert float(weight.std()) == pytest.approx(sigma_w / math.sqrt(width), rel=0.02)


@pytest.mark.parametrize("activation", ["sign", "softplus"])
def test_an_activation_without_a_critical_point_is_told(activation):
    with pytest.raises(AltpropError, match=f"critical has no point for {activation}"):
        critical(activation)


@pytest.mark.parametrize("name", [n for n in INITIALISATIONS if n not in ("zeros", "identity")])
def test_draws_come_from_the_given_generator_alone(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = filled(name), filled(name), filled(name, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_normalisations_normalise():
    x = 3 + 2 * torch.randn(50, 6, 5, 5, generator=generator_for("norm"))
    dense, signal, image = x[:, :, 0, 0], x[:, :, 0], x
    assert make_normalisation("none", 6, 0) is None
    for dims, value in enumerate((dense, signal, image)):
        rows = make_normalisation("layer", 6, dims)(value)
        assert rows.flatten(1).mean(1).abs().max() < 1e-5
        assert (rows.flatten(1).var(1, unbiased=False) - 1).abs().max() < 1e-3
        channels = make_normalisation("batch", 6, dims)(value).transpose(0, 1).flatten(1)
        assert channels.mean(1).abs().max() < 1e-5
        assert (channels.var(1, unbiased=False) - 1).abs().max() < 1e-3
        # Six channels are three groups of two, and each group of each row has mean 0 and variance 1.
        groups = make_normalisation("group", 6, dims)(value).reshape(50, 3, -1)
        assert groups.mean(2).abs().max() < 1e-5
        if dims:
            assert (groups.var(2, unbiased=False) - 1).abs().max() < 1e-3
        scaled = make_normalisation("rms", 6, dims)(value)
        assert (scaled.flatten(1).square().mean(1) - 1).abs().max() < 1e-3
        ratio = (scaled / value).flatten(1)
        assert (ratio - ratio[:, :1]).abs().max() < 1e-5


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (2, 1), (4, 2), (7, 1), (16, 8), (25, 5), (100, 5)])
def test_groups_hold_two_units_and_more(channels, groups):
    assert make_normalisation("group", channels, 0).num_groups == groups


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_activation("rellu"), r"unknown model.activation=rellu; .*relu"),
        (lambda: make_normalisation("wieght", 3, 0), r"unknown model.normalisation=wieght; .*layer"),
    ],
)
def test_an_unknown_name_is_told_the_known_ones(call, message):
    with pytest.raises(AltpropError, match=message):
        call()


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_lsuv_gives_each_layer_unit_variance(activation):
    spec, generator = ModelSpec((20,), 5), generator_for(0, "parts")
    model = MLP(spec, [30] * 4, activation=activation, initialisation="lsuv", generator=generator).double()
    x = torch.randn(64, 20, generator=generator).double()
    model.scale_outputs(x)
    assert model.training
    for block in model.blocks:
        assert float(block.transform(x).detach().std(correction=0)) == pytest.approx(1.0, abs=1e-12)
        x = block(x)


def test_lsuv_leaves_a_layer_that_gives_nothing_alone():
    model = MLP(ModelSpec((3,), 2), [4], initialisation="zeros", generator=generator_for(0, "parts"))
    model.scale_outputs(torch.ones(5, 3))
    assert all(not parameter.any() for parameter in model.parameters())


def test_identity_hands_inputs_on():
    weight, bias = filled("identity", (4, 3))
    assert weight.equal(torch.eye(4, 3, dtype=torch.float64))
    assert not bias.any()
    kernel, _ = filled("identity", (3, 2, 5))
    x = torch.randn(1, 2, 9, generator=generator_for(0, "parts")).double()
    assert torch.nn.functional.conv1d(x, kernel, padding=2)[:, :2].equal(x)
