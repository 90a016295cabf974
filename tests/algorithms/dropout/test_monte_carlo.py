"""Monte Carlo prediction beside the exact moments over all masks of a small unit."""

import itertools
import math

import pytest
import torch
from linear_unit import bernoulli

from altprop.algorithms.backprop.backprop import Backprop
from altprop.algorithms.dropout.dropconnect import DropConnect
from altprop.algorithms.dropout.gaussian import GaussianDropout
from altprop.algorithms.dropout.spatial import SpatialDropout
from altprop.algorithms.dropout.standard import StandardDropout
from altprop.algorithms.dropout.stochastic_depth import StochasticDepth
from altprop.data import Batch, ModelSpec
from altprop.models.cnn import CNN
from altprop.models.mlp import MLP
from altprop.models.residual import ResidualMLP
from altprop.randomness import generator_for
from altprop.testing import make_problem, set_up, sgd

PASSES, P = 4000, 0.4


def dense(noise):
    return MLP(ModelSpec((4,), 2), [], noise=noise, generator=generator_for("mc"))


def hidden(noise):
    return MLP(ModelSpec((4,), 2), [6], "tanh", noise=noise, generator=generator_for("mc"))


def maps(noise):
    return CNN(ModelSpec((1, 4), 2), [5], 3, 1, 1, activation="tanh", noise=noise, generator=generator_for("mc"))


def residual(noise):
    return ResidualMLP(ModelSpec((4,), 2), [3, 3, 3], "tanh", noise=noise, generator=generator_for("mc"))


def branches(rate):
    """Return the draws that keep or drop two branches, the first of which falls at half the rate."""
    keys = [("branch", layer, 0, 0, "uniform") for layer in (1, 2)]
    for one, two in itertools.product(bernoulli(rate / 2, (1, 1)), bernoulli(rate, (1, 1))):
        yield dict(zip(keys, (one[0], two[0]), strict=True)), one[1] * two[1]


def alone(site, layer, shape):
    return lambda rate: (({(site, layer, 0, 0, "uniform"): d}, w) for d, w in bernoulli(rate, shape))


KINDS = {
    "input": (dense, lambda k: StandardDropout(0.0, P, passes=k), alone("input", 0, (1, 4))),
    "unit": (hidden, lambda k: StandardDropout(P, passes=k), alone("unit", 0, (1, 6))),
    "dropconnect": (dense, lambda k: DropConnect(P, passes=k), alone("weight", 0, (2, 4))),
    "spatial": (maps, lambda k: SpatialDropout(P, passes=k), alone("unit", 0, (1, 5, 1))),
    "depth": (residual, lambda k: StochasticDepth(P, passes=k), branches),
}


def of(model, noise, loss):
    problem = make_problem(model(noise).double(), loss)
    x = 2 * torch.randn(1, *problem.spec.input_shape, generator=generator_for("x"), dtype=torch.float64)
    return problem, Batch(x, torch.zeros(1, dtype=torch.int64), torch.arange(1))


@pytest.mark.parametrize("loss", ["cross_entropy", "half_squared_error"])
@pytest.mark.parametrize("kind", KINDS)
def test_mean_and_variance_are_those_over_all_masks(kind, loss):
    """|z| < 4 for both, with the standard errors of the exact second and fourth moments; they are small ones."""
    model, noise, masks = KINDS[kind]
    problem, batch = of(model, noise(0), loss)
    values, weights = [], []
    for draws, weight in masks(P):
        with problem.clock.replay(draws), torch.no_grad():
            values.append(problem.loss.prediction(problem.outputs(batch))[0])
        weights.append(weight)
    values, weights = torch.stack(values), torch.tensor(weights, dtype=torch.float64)[:, None]
    assert abs(float(weights.sum()) - 1) < 1e-12
    mean = (weights * values).sum(0)
    variance, fourth = ((weights * (values - mean) ** power).sum(0) for power in (2, 4))
    problem, batch = of(model, noise(PASSES), loss)
    with set_up(Backprop(sgd()), problem).predictor() as predict, torch.no_grad():
        found, spread = predict.moments(batch.inputs)
        quiet = problem.loss.prediction(problem.model(batch.inputs))[0]
    error = (variance / PASSES).sqrt()
    of_spread = ((fourth - variance**2 * (PASSES - 3) / (PASSES - 1)) / PASSES).sqrt()
    assert ((found[0] - mean).abs() < 4 * error).all()
    assert ((spread[0] - variance).abs() < 4 * of_spread).all()
    assert (of_spread < 0.05 * variance).all()
    # Of what is linear in its masks the mean is the quiet prediction; of probabilities it is not.
    linear = loss == "half_squared_error" and kind != "depth"
    assert ((mean - quiet).abs().max() < 1e-12) == linear
    assert (spread[0] - variance * (1 - P)).abs().max() > 4 * of_spread.max()


def test_the_variance_of_gaussian_masks_is_known():
    """Var y = p / (1 - p) sum_i w_i^2 x_i^2 for each linear output."""
    problem, batch = of(dense, GaussianDropout(0.0, P, passes=PASSES), "half_squared_error")
    expected = P / (1 - P) * (problem.model.blocks[0].weight.detach() * batch.inputs).square().sum(1)
    with set_up(Backprop(sgd()), problem).predictor() as predict, torch.no_grad():
        spread = predict.moments(batch.inputs)[1][0]
    assert ((spread / expected - 1).abs() < 4 * math.sqrt(2 / PASSES)).all()


def test_one_pass_has_no_variance():
    problem, batch = of(hidden, StandardDropout(P, passes=1), "cross_entropy")
    with set_up(Backprop(sgd()), problem).predictor() as predict, torch.no_grad():
        assert predict.moments(batch.inputs)[1] is None
