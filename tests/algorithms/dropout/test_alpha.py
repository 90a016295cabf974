"""Alpha dropout: exact expectations on a linear unit, and the moments that it is there for."""

import pytest
import torch
from linear_unit import TARGET, bernoulli, expectation, objective, outputs, quiet, unit_problem, weight_gradient

from altprop.algorithms.dropout.alpha import SATURATED, AlphaDropout
from altprop.models.parts import make_activation
from altprop.noise import NoiseClock
from altprop.randomness import generator_for


@pytest.mark.parametrize("p", [0.3])
@pytest.mark.parametrize("site", ["input", "unit"])
def test_all_masks_of_a_linear_unit(site, p):
    """A unit's mean is a q x and its variance a^2 q p (x - alpha')^2; the loss is quadratic in them. Seen: 2e-15."""
    problem, batch = unit_problem(site, AlphaDropout(p=p, p_input=p))
    if site == "unit":
        problem.model.noise.rates["input"] = 0.0
    x, w, loss, y = quiet(site)
    q = 1 - p
    a = (q + SATURATED**2 * q * p) ** -0.5
    bias = y[0, 0] - w @ x
    mean, variance = a * q * x, a**2 * q * p * (x - SATURATED) ** 2
    key = (site, 0, 0, 0, "uniform")
    assert abs(expectation(outputs, problem, batch, bernoulli(p), key) - (w @ mean + bias)).max() < 1e-13
    expected = 0.5 * (w @ mean + bias - TARGET) ** 2 + 0.5 * (w**2) @ variance
    assert abs(expectation(objective, problem, batch, bernoulli(p), key) - expected) < 1e-13
    assert abs(expected - loss) > 1e-2
    gradient = expectation(weight_gradient(site), problem, batch, bernoulli(p), key)
    assert (gradient - (w @ mean + bias - TARGET) * mean - w * variance).abs().max() < 1e-13


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_it_keeps_mean_0_and_variance_1(p):
    """Over 2e6 draws, of normal values and of what SELU makes of them; standard errors below 2e-3."""
    noise = AlphaDropout(p=p)
    noise.bind(NoiseClock(5))
    z = torch.randn(20_000, 100, generator=generator_for("z"), dtype=torch.float64)
    for x in (z, make_activation("selu").function(z)):
        y = noise(x, "unit", 0)
        assert abs(float(y.mean())) < 1e-2
        assert abs(float(y.var()) - 1) < 1e-2
        assert float((y != x).double().mean()) > 0.99


def test_it_sets_whole_units_of_single_rows():
    noise = AlphaDropout(p=0.4)
    y = noise(torch.zeros(500, 40), "unit", 0)
    low = y == y.min()
    assert y.unique().numel() == 2
    limit = float(make_activation("selu").function(torch.tensor(-50.0, dtype=torch.float64)))
    assert pytest.approx(limit, rel=1e-12) == SATURATED
    assert float(low.float().mean()) == pytest.approx(0.4, abs=0.02)
    assert low.float().mean(0).unique().numel() > 1
    assert low.float().mean(1).unique().numel() > 1
