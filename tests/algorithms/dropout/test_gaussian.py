"""Gaussian dropout: exact expectations on a linear unit, and the mask's moments."""

import math

import pytest
import torch
from linear_unit import expectation, objective, outputs, quiet, signs, unit_problem, weight_gradient

from altprop.algorithms.dropout.gaussian import GaussianDropout
from altprop.errors import AltpropError
from altprop.noise import NoiseClock


@pytest.mark.parametrize("site", ["input", "unit"])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_the_expected_loss_is_the_ridge_of_dropout(site, p):
    """E[.5 (y - t)^2] = .5 (y - t)^2 + p/(1-p)/2 sum w^2 x^2, and so for its gradient. Seen: 9e-16."""
    noise = GaussianDropout(**{"p" if site == "unit" else "p_input": p, "p" if site == "input" else "p_input": 0.0})
    problem, batch = unit_problem(site, noise)
    x, w, loss, y = quiet(site)
    variance, key = p / (1 - p), (site, 0, 0, 0, "normal")
    ridge = variance / 2 * (w**2 * x**2).sum()
    assert ridge > 1e-3
    assert abs(expectation(objective, problem, batch, signs(), key) - loss - ridge) < 1e-14
    assert (expectation(outputs, problem, batch, signs(), key) - y).abs().max() < 1e-14
    gradient = expectation(weight_gradient(site), problem, batch, signs(), key)
    assert (gradient - (y[0, 0] - 0.7) * x - variance * w * x**2).abs().max() < 1e-14


@pytest.mark.parametrize(("site", "p"), [("unit", 0.3), ("input", 0.6)])
def test_a_mask_has_mean_1_and_variance_p_over_1_minus_p(site, p):
    noise = GaussianDropout(p=0.3, p_input=0.6)
    noise.bind(NoiseClock(5))
    mask = noise(torch.ones(4000, 100, dtype=torch.float64), site, 0)
    n, variance = mask.numel(), p / (1 - p)
    assert abs(mask.mean() - 1) < 4 * math.sqrt(variance / n)
    assert abs(mask.var() - variance) < 4 * variance * math.sqrt(2 / n)
    centred = mask - mask.mean()
    for a, b in ((centred[:, 1:], centred[:, :-1]), (centred[1:], centred[:-1])):
        assert abs((a * b).mean()) < 4 * variance / math.sqrt(n)


def test_a_population_shares_its_masks():
    noise = GaussianDropout(p=0.5)
    y = noise(torch.ones(6, 5, 4), "unit", 1, 1)
    assert all(torch.equal(y[0], other) for other in y)
    assert not torch.equal(y[0], noise(torch.ones(5, 4), "unit", 0))


@pytest.mark.parametrize("option", ["p", "p_input"])
@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan, "half"])
def test_bad_rates_are_told(option, value):
    with pytest.raises(AltpropError, match=rf"dropout.{option} must be a number from 0 to "):
        GaussianDropout(**{option: value})
