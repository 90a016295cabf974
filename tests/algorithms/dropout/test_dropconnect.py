"""DropConnect: all masks of the weights of a linear unit, and what shares a mask."""

import pytest
import torch
from linear_unit import TARGET, bernoulli, expectation, objective, outputs, quiet, unit_problem, weight_gradient

from altprop.algorithms.dropout.dropconnect import DropConnect
from altprop.noise import NoiseClock


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_the_expected_loss_is_that_of_dropped_inputs(p):
    """E[.5 (y - t)^2] = .5 (y - t)^2 + p/(1-p)/2 sum w^2 x^2, and so for its gradient. Seen: 1e-15."""
    problem, batch = unit_problem("input", DropConnect(p=p))
    x, w, loss, y = quiet("input")
    key, variance = ("weight", 0, 0, 0, "uniform"), p / (1 - p)
    ridge = variance / 2 * (w**2 * x**2).sum()
    assert ridge > 1e-3
    assert abs(expectation(objective, problem, batch, bernoulli(p), key) - loss - ridge) < 1e-14
    assert (expectation(outputs, problem, batch, bernoulli(p), key) - y).abs().max() < 1e-14
    gradient = expectation(weight_gradient("input"), problem, batch, bernoulli(p), key)
    assert (gradient - (y[0, 0] - TARGET) * x - variance * w * x**2).abs().max() < 1e-14


def test_weights_are_dropped_one_by_one_and_layer_by_layer():
    noise = DropConnect(p=0.3)
    noise.bind(NoiseClock(4))
    one, two = (noise(torch.ones(300, 200, dtype=torch.float64), "weight", layer) for layer in (0, 1))
    assert float(one.mean()) == pytest.approx(1, abs=0.01)
    assert float(one.var()) == pytest.approx(0.3 / 0.7, rel=0.02)
    assert abs(float(torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1])) < 0.02
    assert one.mean(0).unique().numel() > 1
    assert one.mean(1).unique().numel() > 1
    x = torch.ones(3, 4)
    assert noise(x, "unit", 0) is x


def test_a_population_shares_its_masks():
    noise = DropConnect(p=0.5)
    y = noise(torch.ones(6, 5, 4), "weight", 1, 1)
    assert all(torch.equal(y[0], other) for other in y)
