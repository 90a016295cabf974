"""Standard dropout by enumeration of all masks, in expectation, and where it must be nothing at all."""

import itertools
import math

import pytest
import torch

from altprop.algorithms.backprop.backprop import Backprop
from altprop.algorithms.dropout.standard import StandardDropout
from altprop.data import Batch, ModelSpec
from altprop.errors import AltpropError, Refused
from altprop.models.cnn import CNN
from altprop.models.mlp import MLP
from altprop.noise import NoiseClock
from altprop.optim import OptimizerFactory
from altprop.randomness import generator_for
from altprop.resolve import build
from altprop.testing import make_problem, toy, toy_sequence

UNITS = 6
ALMOST_ONE = 1 - 2**-53


def unit_problem(site, noise):
    """Return a problem whose one linear output sees UNITS noisy values, and its batch of one row."""
    hidden = [] if site == "input" else [UNITS]
    spec = ModelSpec((UNITS,), 1)
    model = MLP(spec, hidden, "identity", noise=noise, generator=generator_for("unit")).double()
    problem = make_problem(model, "half_squared_error")
    x = torch.randn(1, UNITS, generator=generator_for("x"), dtype=torch.float64)
    return problem, Batch(x, torch.tensor([[0.7]], dtype=torch.float64), torch.arange(1))


def over_all_masks(site, p, value):
    """Return the expectation of `value(problem, batch)` over all 2^n masks, each with its probability."""
    noise = StandardDropout(p=p, p_input=p)
    noise.rates["unit" if site == "input" else "input"] = 0.0
    problem, batch = unit_problem(site, noise)
    total = 0.0
    for kept in itertools.product((False, True), repeat=UNITS):
        draws = torch.tensor([[ALMOST_ONE if keep else 0.0 for keep in kept]]).double()
        with problem.clock.replay({(site, 0, 0, 0, "uniform"): draws}):
            total = total + (1 - p) ** sum(kept) * p ** (UNITS - sum(kept)) * value(problem, batch)
    return total


def plain(site):
    """Return what the unit sees, its weights, and the objective and output without noise."""
    problem, batch = unit_problem(site, None)
    x = batch.inputs
    for block in list(problem.model.blocks)[:-1]:
        x = block(x).detach()
    return x[0], problem.model.blocks[-1].weight.detach()[0], problem.objective(batch), problem.outputs(batch).detach()


def the_loss_gains_a_ridge(p=0.3, site="unit"):
    x, w, loss, _ = plain(site)
    expected = loss + p / (1 - p) / 2 * (w**2 * x**2).sum()
    assert abs(over_all_masks(site, p, lambda problem, batch: problem.objective(batch)) - expected) < 2e-15
    assert expected - loss > 1e-3


def the_mean_output_is_the_quiet_one(p=0.3, site="unit"):
    found = over_all_masks(site, p, lambda problem, batch: problem.outputs(batch).detach())
    assert (found - plain(site)[3]).abs().max() < 2e-15


@pytest.mark.parametrize("site", ["input", "unit"])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_expected_loss_is_a_ridge(site, p):
    """E[.5 (y - t)^2] = .5 (y - t)^2 + p/(1-p)/2 sum w^2 x^2. Seen: 7e-16."""
    if p < 0.9:
        the_loss_gains_a_ridge(p, site)
        the_mean_output_is_the_quiet_one(p, site)
    else:  # The terms are 10 times as large, and so is their rounding; seen: 4e-15.
        x, w, loss, _ = plain(site)
        expected = loss + p / (1 - p) / 2 * (w**2 * x**2).sum()
        assert abs(over_all_masks(site, p, lambda a, b: a.objective(b)) / expected - 1) < 1e-14


@pytest.mark.parametrize("site", ["input", "unit"])
def test_the_expected_gradient_is_that_of_the_ridge(site):
    """On the noisy unit's weights: (y - t) x + p/(1-p) w x^2."""
    x, w, _, y = plain(site)
    name = "blocks.0.weight" if site == "input" else "blocks.1.weight"
    expected = (y[0, 0] - 0.7) * x + 0.25 / 0.75 * w * x**2
    found = over_all_masks(site, 0.25, lambda problem, batch: problem.gradient(batch)[1][name][0])
    assert (found - expected).abs().max() < 4e-15


def moments(p=0.3, site="unit", dtype=torch.float32):
    noise = StandardDropout(p=p, p_input=0.7)
    noise.bind(NoiseClock(5))
    n = 400_000
    mask = noise(torch.ones(n // 100, 100, dtype=dtype), site, 0).double()
    p = 0.7 if site == "input" else p
    dropped, kept = mask.unique().tolist()
    assert (dropped, kept) == (0.0, pytest.approx(1 / (1 - p), rel=1e-6))
    variance = p / (1 - p)
    assert abs(mask.mean() - 1) < 4 * math.sqrt(variance / n)
    kurtosis = (1 - 3 * p * (1 - p)) / (p * (1 - p))
    # The second term is that of the mean's own error, which at p = .5 is all there is.
    assert abs(mask.var() - variance) < 4 * variance * math.sqrt((kurtosis - 1) / n) + 16 * variance / n
    # Rows, units and their neighbours are independent.
    centred = mask - mask.mean()
    for a, b in ((centred[:, 1:], centred[:, :-1]), (centred[1:], centred[:-1])):
        assert abs((a * b).mean()) < 4 * variance / math.sqrt(n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("site", "p"), [("unit", 0.003), ("unit", 0.2), ("unit", 0.5), ("unit", 0.97), ("input", 0.1)])
def test_a_mask_has_mean_1_and_variance_p_over_1_minus_p(site, p, dtype):
    moments(p, site, dtype)


def test_normal_values_come_out_with_variance_1_over_1_minus_p():
    noise = StandardDropout(p=0.4)
    noise.bind(NoiseClock(5))
    x = torch.randn(4000, 100, generator=generator_for("normal"), dtype=torch.float64)
    assert float(noise(x, "unit", 0).var()) == pytest.approx(1 / 0.6, rel=0.02)


def evaluation_is_the_identity():
    noise = StandardDropout(p=0.5, p_input=0.5)
    x = torch.randn(5, 4)
    assert noise.eval()(x, "unit", 0) is x
    assert noise(x, "input", 0) is x
    assert noise.mask(x, "unit", 0) is None
    problem, batch = toy(noise=StandardDropout(0.5, 0.5))
    quiet, _ = toy()
    with problem.evaluating():
        assert torch.equal(problem.model(batch.inputs), quiet.model(batch.inputs))


def test_evaluation_is_the_identity():
    evaluation_is_the_identity()


def test_it_acts_on_inputs_and_hidden_units_alone():
    noise = StandardDropout(p=0.5, p_input=0.5)
    x = torch.ones(5, 4)
    for site in ("weight", "state", "branch"):
        assert noise(x, site, 0) is x
    mask = noise.mask(x, "unit", 2)
    assert torch.equal(noise(x, "unit", 2), x * mask)


@pytest.mark.parametrize("what", ["mlp", "cnn", "gru"])
def test_nothing_dropped_is_no_dropout_to_the_bit(what):
    ends = []
    for noise in (None, StandardDropout(p=0.0, p_input=0.0), StandardDropout(p=0.4)):
        if what == "mlp":
            problem, batch = toy(noise=noise, dtype=torch.float32)
            # A chain without noise is differentiated in closed form; one that is watched, as the noisy one is.
            problem.model.blocks[0].register_forward_hook(lambda *_: None)
        elif what == "gru":
            problem, batch = toy_sequence("gru", noise=noise, per_step=True, dtype=torch.float32)
        else:
            model = CNN(ModelSpec((16,), 3), noise=noise, generator=generator_for("cnn"))
            problem = make_problem(model, "cross_entropy")
            x = torch.randn(5, 16, generator=generator_for("x"))
            batch = Batch(x, torch.arange(5) % 3, torch.arange(5))
        rule = Backprop(OptimizerFactory("torch.optim.Adam", lr=0.01))
        rule.setup(problem)
        for _ in range(5):
            rule.step(batch)
        ends.append(problem.flat())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_a_population_shares_its_masks():
    noise = StandardDropout(p=0.5)
    noise.bind(NoiseClock(3))
    x = torch.ones(6, 5, 4)
    y = noise(x, "unit", 1, 1)
    assert all(torch.equal(y[0], other) for other in y)
    assert torch.equal(y[0], noise(x[0], "unit", 1))


def test_masks_name_their_device():
    with torch.device("meta"):
        noise = StandardDropout(p=0.5, p_input=0.0)
        x = torch.ones(3, 4, device="cpu")
        assert noise(x, "unit", 0).device.type == "cpu"
        assert noise(x, "input", 0).device.type == "cpu"


@pytest.mark.parametrize("option", ["p", "p_input"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, math.nan, "half", None, True])
def test_bad_probabilities_are_told(option, value):
    with pytest.raises(AltpropError, match=rf"dropout.{option} must be a number from 0 to "):
        StandardDropout(**{option: value})


def test_the_yaml_builds_it():
    from pathlib import Path

    import yaml

    import altprop
    from altprop.noise import Noise

    folder = Path(altprop.__file__).parent / "conf" / "dropout"
    values = yaml.safe_load((folder / "standard.yaml").read_text())
    noise = build(values, Noise, "dropout")
    assert noise.rates == {"unit": values["p"], "input": values["p_input"]}
    assert yaml.safe_load((folder / "none.yaml").read_text()) == {"name": "none", "_target_": None}


def independent_masks():
    """Layers, steps, phases and rows draw apart; the same place draws the same."""
    noise = StandardDropout(p=0.5, p_input=0.5)
    noise.bind(NoiseClock(3))
    x, seen = torch.ones(40, 40), []
    for step, phase, site, layer in (
        (0, 0, "unit", 0),
        (1, 0, "unit", 0),
        (0, 1, "unit", 0),
        (0, 0, "unit", 1),
        (0, 0, "input", 0),
    ):
        noise.clock.step, noise.clock.phase = step, phase
        seen.append(noise(x, site, layer))
        assert torch.equal(seen[-1], noise(x, site, layer))
    for a, b in itertools.combinations(seen, 2):
        # Independent masks of 1 600 units: a correlation beyond .1 is 4 standard errors off.
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.1
    for mask in seen:
        assert mask.mean(0).unique().numel() > 1
        assert mask.mean(1).unique().numel() > 1


def test_masks_are_keyed_by_their_place():
    independent_masks()


def test_each_layer_may_have_a_rate_of_its_own():
    noise = StandardDropout(p=0.9, p_input=0.1, layers=[0.0, 0.5])
    toy((40, 60, 50, 3), rows=200, noise=noise)
    found = {place: noise.mask(torch.ones(200, 60), *place) for place in (("unit", 0), ("unit", 1), ("input", 0))}
    assert found["unit", 0] is None
    assert found["unit", 1].unique().tolist() == [0.0, 2.0]
    assert float((found["input", 0] == 0).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_as_many_rates_as_layers_are_needed():
    with pytest.raises(Refused, match=r"dropout\.layers has 1 rates, and 2 layers drop units"):
        toy((5, 7, 6, 3), noise=StandardDropout(layers=[0.2]))
