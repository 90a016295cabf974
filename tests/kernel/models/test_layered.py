"""Chains of blocks: what each piece promises, against loops, autograd and hand arithmetic."""

import math

import pytest
import torch
from torch.nn import functional

from altprop.capabilities import Capability
from altprop.data import Batch, ModelSpec
from altprop.errors import AltpropError, Refused
from altprop.models import base as layers
from altprop.models.cnn import CNN, Conv
from altprop.models.mlp import MLP
from altprop.models.parts import ACTIVATIONS
from altprop.models.shortcut import ShortcutMLP
from altprop.randomness import generator_for
from altprop.testing import make_problem


def population_of(model, size=4):
    """Return name -> (P, ...) random parameters."""
    generator = generator_for("population")
    shapes = {name: p.shape for name, p in model.named_parameters()}
    return {n: torch.randn(size, *s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}


def one_by_one(model, x, params):
    """Return the outputs of each individual from the model's own forward pass."""
    outputs = []
    for i in range(len(next(iter(params.values())))):
        own = {name: value[i] for name, value in params.items()}
        outputs.append(torch.func.functional_call(model, own, (x,)))
    return torch.stack(outputs)


@pytest.mark.parametrize("noise", [(), ("input", "unit"), ("weight",), ("input", "unit", "weight")])
def test_a_population_is_the_loop(zoo, everywhere, layered, noise):
    model, x = zoo(layered, noise=everywhere(*noise) if noise else None)
    params = population_of(model)
    assert model.batched
    expected = one_by_one(model, x, params)
    # Seen: 4e-15.
    assert (model.population(x, params) - expected).abs().max() < 1e-12
    if noise:
        quiet = one_by_one(model.eval(), x, params)
        assert (quiet - expected).abs().max() > 1e-2


@pytest.mark.parametrize("noise", [(), ("input", "unit", "weight")])
@pytest.mark.parametrize("kind", [MLP, ShortcutMLP])
def test_a_large_population_goes_by_individuals_and_is_the_loop(everywhere, noise, kind, monkeypatch):
    generator = generator_for("large")
    noise = everywhere(*noise) if noise else None
    model = kind(ModelSpec((5,), 3), hidden=[16, 4], noise=noise, generator=generator).double()
    x, params = torch.randn(7, 5, generator=generator, dtype=torch.float64), population_of(model)
    small = model.population(x, params)
    seen = []
    product = torch.baddbmm
    monkeypatch.setattr(torch, "baddbmm", lambda *args: (seen.append(args[2].shape), product(*args))[1])
    monkeypatch.setattr(layers, "LARGE", 4 * 7 * 16)
    assert (model.population(x, params) - small).abs().max() < 1e-12
    assert (small - one_by_one(model, x, params)).abs().max() < 1e-12
    assert seen[0] == (4, 5, 16)
    seen.clear()
    monkeypatch.setattr(layers, "LARGE", 4 * 7 * 16 + 1)
    assert torch.equal(model.population(x, params), small)
    assert seen[0][1:] != (5, 16)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_population_is_the_loop_for_every_activation(zoo, layered, activation):
    model, x = zoo(layered, activation=activation)
    params = population_of(model)
    assert (model.population(x, params) - one_by_one(model, x, params)).abs().max() < 1e-12


@pytest.mark.parametrize("normalisation", ["none", "layer", "batch", "group", "rms", "weight"])
@pytest.mark.parametrize("noisy", [False, True])
def test_the_population_objective_is_each_individuals(zoo, everywhere, layered, normalisation, noisy):
    noise = everywhere() if noisy else None
    model, x = zoo(layered, noise=noise, normalisation=normalisation)
    problem = make_problem(model, "half_squared_error")
    batch = Batch(x, torch.randn(7, 3, generator=generator_for("y"), dtype=torch.float64), torch.arange(7))
    flat = torch.randn(4, problem.flat().numel(), generator=generator_for("flat"), dtype=torch.float64)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    with problem.same_noise():
        together = problem.population_objective(flat, batch)
        assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
        alone = []
        for row in flat:
            problem.assign(row)
            alone.append(problem.objective(batch))
    assert model.batched == (normalisation == "none" or layered == "linear")
    assert (together - torch.stack(alone)).abs().max() / together.abs().max() < 1e-12


def test_transpose_is_autograds_way_back(zoo, layered):
    model, x = zoo(layered)
    for block in model.blocks:
        seen = x.clone().requires_grad_()
        z = block.transform(seen)
        delta = torch.randn(z.shape, generator=generator_for("delta"), dtype=torch.float64)
        (expected,) = torch.autograd.grad(z, seen, delta)
        found = block.transpose(delta, block.weight.detach(), seen.shape)
        assert found.shape == x.shape
        assert (found - expected).abs().max() < 1e-12
        # Feedback alignment passes another weight: then the answer is that weight's.
        other = torch.randn(block.weight.shape, generator=generator_for("B"), dtype=torch.float64)
        with torch.no_grad():
            difference = (block.transpose(delta, other, seen.shape) - expected).abs().max()
        assert difference > 0.1
        x = block(x).detach()


def test_a_block_responds_to_what_it_transforms(zoo, everywhere, layered):
    model, x = zoo(layered, noise=everywhere())
    for block in model.blocks:
        y = block.respond(block.transform(x))
        whole = block(x)
        if block.shortcut:
            assert torch.equal(whole, torch.cat([block.perturbed(x), y], -1))
        elif block.skip:
            assert torch.equal(whole, block.added(x, y))
            assert not torch.equal(whole, x + y)
        else:
            assert torch.equal(whole, y)
        x = whole
    assert torch.equal(model(zoo(layered)[1]), x)


def test_noise_acts_where_the_blocks_say(zoo, everywhere):
    """The net with masks, written out: W m_w (x m_x), tanh, m_u, and no unit noise on the output."""
    noise = everywhere()
    model, x = zoo("mlp", noise=noise)
    first, second, third = model.blocks

    def masked(block):
        return block.weight * noise.mask(block.weight, "weight", block.index)

    h = x * noise.mask(x, "input", 0)
    for block in (first, second):
        h = torch.tanh(functional.linear(h, masked(block), block.bias))
        h = h * noise.mask(h, "unit", block.index)
    expected = functional.linear(h, masked(third), third.bias)
    assert torch.equal(model(x), expected)
    # Two layers of one shape have masks of their own.
    one, two = noise.mask(h, "unit", 0), noise.mask(h, "unit", 1)
    assert (one - two).abs().max() > 0.1


def test_evaluation_draws_no_noise(zoo, everywhere, layered):
    noisy, x = zoo(layered, noise=everywhere())
    quiet, _ = zoo(layered)
    assert not torch.equal(noisy(x), quiet(x))
    assert torch.equal(noisy.eval()(x), quiet.eval()(x))


def test_learned_noise_leaves_no_batched_population(zoo, everywhere):
    noise = everywhere()
    noise.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    model, _ = zoo("mlp", noise=noise)
    assert not model.batched


def test_a_convolution_is_its_sum():
    """Against four loops, with a stride, a border and more than one channel."""
    conv = Conv((2, 5, 4), 3, kernel=3, stride=2, padding=1, activation="identity", generator=generator_for(0)).double()
    x = torch.randn(1, 2, 5, 4, generator=generator_for(1), dtype=torch.float64)
    padded = functional.pad(x, (1, 1, 1, 1))
    expected = torch.zeros(1, 3, 3, 2, dtype=torch.float64)
    for o in range(3):
        for i in range(3):
            for j in range(2):
                patch = padded[0, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
                expected[0, o, i, j] = (patch * conv.weight[o]).sum() + conv.bias[o]
    assert conv.output_shape == (3, 3, 2)
    assert (conv(x) - expected).abs().max() < 1e-14


@pytest.mark.parametrize(
    ("shape", "options", "seen", "parameters"),
    [
        # digits: 8x8 -> 4x4 -> 2x2; 16 (9 + 1) + 32 (16 * 9 + 1) + 10 (128 + 1).
        ((64,), {}, (1, 8, 8), 160 + 4640 + 1290),
        # MNIST-1D's own network: 40 -> 19 -> 10 -> 5 (Greydanus and Kobak 2024).
        ((40,), {"channels": [25, 25, 25], "kernel": [5, 3, 3]}, (1, 40), 150 + 2 * 1900 + 1260),
        ((1, 40), {"channels": [25, 25, 25], "kernel": [5, 3, 3]}, (1, 40), 150 + 2 * 1900 + 1260),
        # MNIST: 28 -> 14 -> 7.
        ((784,), {}, (1, 28, 28), 160 + 4640 + 10 * (32 * 49 + 1)),
        ((1, 28, 28), {}, (1, 28, 28), 160 + 4640 + 10 * (32 * 49 + 1)),
        ((64,), {"image": [1, 64]}, (1, 64), 16 * 4 + 32 * 49 + 10 * (32 * 16 + 1)),
        ((64,), {"image": [4, 4, 4]}, (4, 4, 4), 16 * 37 + 32 * 145 + 10 * 33),
    ],
)
def test_a_cnn_sees_vectors_as_signals_or_images(shape, options, seen, parameters):
    model = CNN(ModelSpec(shape, 10), generator=generator_for(0), **options)
    assert model.blocks[0].input_shape == seen
    assert sum(p.numel() for p in model.parameters()) == parameters
    x = torch.randn(3, *shape, generator=generator_for(1))
    assert model(x).shape == (3, 10)
    assert torch.equal(model(x), CNN(ModelSpec(seen, 10), generator=generator_for(0), **options)(x.reshape(3, *seen)))


def test_the_shortcut_net_is_what_lang_and_witbrock_wrote():
    model = ShortcutMLP(ModelSpec((2,), 1), [5, 5, 5], activation="tanh", generator=generator_for(0)).double()
    assert sum(p.numel() for p in model.parameters()) == 138
    assert Capability.CHAIN not in model.offers
    assert Capability.LAYERED in model.offers
    seen = x = torch.randn(4, 2, generator=generator_for(1), dtype=torch.float64)
    for block in list(model.blocks)[:-1]:
        seen = torch.cat([seen, torch.tanh(seen @ block.weight.T + block.bias)], 1)
    expected = seen @ model.blocks[-1].weight.T + model.blocks[-1].bias
    assert (model(x) - expected).abs().max() < 1e-15


def test_weights_come_from_the_given_generator_alone(layered, zoo):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, _ = zoo(layered)
    again, _ = zoo(layered)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters(), strict=True))


def test_models_are_built_where_they_are_told(layered, zoo):
    with torch.device("meta"):
        model, _ = zoo(layered, normalisation="batch")
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert {b.device.type for b in model.buffers()} <= {"cpu"}


def make(kind, shape=(16,), sequence=False, **options):
    return kind(ModelSpec(shape, 3, sequence=sequence), generator=generator_for(0), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(MLP, hidden=[-3]), r"model.hidden .* at least 1; got \[-3\]"),
        (lambda: make(MLP, hidden=[2.5]), r"model.hidden .* at least 1"),
        (lambda: make(MLP, hidden=100), r"model.hidden must be a list .*; got 100"),
        (lambda: make(MLP, hidden=[True]), r"model.hidden"),
        (lambda: make(MLP, activation="tahn"), r"unknown model.activation=tahn"),
        (lambda: make(MLP, initialisation="he"), r"unknown model.initialisation=he"),
        (lambda: make(MLP, normalisation="instance"), r"unknown model.normalisation=instance"),
        (lambda: make(ShortcutMLP, hidden=[0]), r"model.hidden .* at least 1"),
        (lambda: make(ShortcutMLP, activation="no"), r"unknown model.activation=no"),
        (lambda: make(ShortcutMLP, initialisation="no"), r"unknown model.initialisation=no"),
        (lambda: make(CNN, channels=[-1]), r"model.channels .* at least 1; got \[-1\]"),
        (lambda: make(CNN, channels=[]), r"model.channels needs at least one convolution"),
        (lambda: make(CNN, kernel=0), r"model.kernel must hold whole numbers of at least 1; got 0"),
        (lambda: make(CNN, kernel="3"), r"model.kernel must hold whole numbers"),
        (lambda: make(CNN, kernel=[3, 3, 3]), r"model.kernel must be one number, or one for each of the 2 layers"),
        (lambda: make(CNN, stride=-1), r"model.stride must hold whole numbers of at least 1"),
        (lambda: make(CNN, padding=-1), r"model.padding must hold whole numbers of at least 0"),
        (lambda: make(CNN, kernel=9), r"model.kernel=9 does not fit a layer whose input is \[1, 4, 4\]"),
        (lambda: make(CNN, image=[1, 5, 5]), r"model.image must be .* with 16 values; got \[1, 5, 5\]"),
        (lambda: make(CNN, image=[16]), r"model.image must be"),
        (lambda: make(CNN, (2, 2, 2, 2)), r"model=cnn reads vectors, signals or images"),
        (lambda: make(CNN, activation="no"), r"unknown model.activation=no"),
        (lambda: make(CNN, normalisation="no"), r"unknown model.normalisation=no"),
        (lambda: make(CNN, initialisation="no"), r"unknown model.initialisation=no"),
    ],
)
def test_bad_values_are_told_in_a_line(call, message):
    with pytest.raises(AltpropError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [MLP, ShortcutMLP, CNN])
def test_sequences_are_refused(kind):
    with pytest.raises(Refused, match="inputs are sequences; try model=gru"):
        make(kind, sequence=True)


def test_the_first_layer_of_a_deep_net_keeps_the_variance():
    """He's scheme keeps the mean square of relu units over 20 layers; LeCun's halves it each time (He et al. 2015)."""
    found = {}
    for name in ("he_normal", "lecun_normal"):
        model = MLP(ModelSpec((200,), 1), [200] * 20, initialisation=name, generator=generator_for(name)).double()
        x = torch.randn(50, 200, generator=generator_for("x"), dtype=torch.float64)
        squares = []
        for block in list(model.blocks)[:-1]:
            x = block(x).detach()
            squares.append(math.log2(x.square().mean().item()))
        found[name] = (squares[-1] - squares[0]) / 19
    assert abs(found["he_normal"]) < 0.1
    assert found["lecun_normal"] == pytest.approx(-1, abs=0.1)
