"""Concrete dropout and standout: rates that are learned, and rates that follow the activity."""

import math

import pytest
import torch
from linear_unit import DROP, KEEP, UNITS, bernoulli, expectation, objective, outputs, quiet, unit_problem

from altprop.algorithms.backprop.backprop import Backprop
from altprop.algorithms.dropout.concrete import ConcreteDropout
from altprop.algorithms.dropout.standout import Standout
from altprop.data import ModelSpec
from altprop.models.cnn import CNN
from altprop.noise import NoiseClock
from altprop.optim import OptimizerFactory
from altprop.randomness import generator_for
from altprop.testing import make_problem, set_up, toy, toy_sequence


def divergence(weight, p, length, rows):
    """l^2/2 |W|^2/(1-p) - K H(p), over the rows."""
    entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    return (length**2 / 2 * float(weight.detach().square().sum()) / (1 - p) - weight.shape[1] * entropy) / rows


def test_the_penalty_is_the_divergence_written_out():
    noise = ConcreteDropout(p=0.3, length_scale=0.5)
    problem, _ = toy((5, 7, 6, 3), noise=noise)
    with torch.no_grad():
        noise.logits["unit1"].fill_(math.log(0.6 / 0.4))
    weights = [block.weight for block in problem.model.blocks]
    rates = [float(noise.rate(*place).detach()) for place in (("input", 0), ("unit", 0), ("unit", 1))]
    assert rates == pytest.approx([0.3, 0.3, 0.6], abs=1e-7)
    expected = sum(divergence(w, p, 0.5, 8) for w, p in zip(weights, rates, strict=True))
    value, grads = problem.penalty()
    assert float(value.detach()) == pytest.approx(expected, rel=1e-12)
    # W / (1 - p) l^2 / N, on the weights themselves.
    assert (grads["blocks.2.weight"] - 0.25 * weights[2] / (1 - rates[2]) / 8).abs().max() < 1e-15
    assert not grads["blocks.2.bias"].any()


def test_each_value_goes_into_the_next_weight():
    noise = ConcreteDropout()
    toy_sequence("gru", noise=noise)
    assert (noise._read_by("input0"), noise._read_by("unit1")) == ("cell.weight_input", "readout.weight")
    noise = ConcreteDropout()
    model = CNN(ModelSpec((36,), 3), [3, 4], noise=noise, generator=generator_for("cnn"))
    make_problem(model, "cross_entropy")
    assert [noise._read_by(key) for key in noise.logits] == [f"blocks.{i}.weight" for i in range(3)]


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_a_cold_mask_is_a_bernoulli_one(p):
    """At t = 1e-3 the relaxed mask is 0 or 1 / (1 - p) but for a thousandth of the draws; warm ones are between."""
    shares = []
    for temperature in (1e-3, 0.1):
        noise = ConcreteDropout(p=p, temperature=temperature)
        toy(noise=noise)
        noise.bind(NoiseClock(5))
        y = noise(torch.ones(2000, 7, dtype=torch.float64), "unit", 0).detach()
        n, variance = y.numel(), p / (1 - p)
        ends = (y < 1e-3) | (y > 1 / (1 - p) - 1e-3)
        shares.append(float(ends.double().mean()))
        if temperature < 0.01:
            assert abs(y.mean() - 1) < 4 * math.sqrt(variance / n)
            assert float(y.var()) == pytest.approx(variance, rel=0.1)
            assert float((y < 1e-3).double().mean()) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n) + 2e-3)
    assert shares[0] > 0.995 > shares[1]


def test_a_rate_is_learned_both_ways():
    """The entropy alone draws a rate up to .5; weights that cost much draw it down."""
    for length, low, high in ((0.0, 0.25, 0.55), (30.0, 0.0, 0.05)):
        problem, batch = toy(noise=(noise := ConcreteDropout(p=0.2, length_scale=length)), rows=4)
        start = [problem.params[f"blocks.{i}.weight"].detach().clone() for i in range(3)]
        rule = set_up(Backprop(OptimizerFactory("torch.optim.Adam", lr=0.05)), problem)
        for _ in range(60):
            rule.step(batch)
            for i, weight in enumerate(start):
                problem.params[f"blocks.{i}.weight"].data.copy_(weight)
        assert low < float(noise.rate("unit", 1).detach()) < high


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.4), (1.5, -0.3)])
def test_all_masks_of_standout(alpha, beta):
    """The mean output is the quiet one; the loss gains sum w^2 x^2 (1 - pi) / pi / 2, with each unit's own pi."""
    noise = Standout(alpha=alpha, beta=beta)
    problem, batch = unit_problem("unit", noise)
    x, w, loss, y = quiet("unit")
    pi = torch.sigmoid(alpha * x + beta)
    ridge = 0.5 * ((1 - pi) / pi * w**2 * x**2).sum()

    def draws():
        for drawn, _ in bernoulli(0.5):
            # A draw of 0 keeps here, one of almost 1 drops.
            kept = drawn[0] == DROP
            yield drawn, float(torch.where(kept, pi, 1 - pi).prod())

    key = ("unit", 0, 0, 0, "uniform")
    assert len(list(draws())) == 2**UNITS
    assert KEEP < 1
    assert abs(expectation(objective, problem, batch, draws(), key) - loss - ridge) < 1e-13
    assert (expectation(outputs, problem, batch, draws(), key) - y).abs().max() < 1e-13
    assert ridge > 1e-3


def test_active_units_stand_out():
    noise = Standout(alpha=2.0, beta=0.0)
    noise.bind(NoiseClock(1))
    x = torch.linspace(-2, 2, 5, dtype=torch.float64).expand(4000, 5)
    kept = (noise.mask(x, "unit", 0) > 0).double().mean(0)
    assert (kept - torch.sigmoid(2 * x[0])).abs().max() < 0.04
    # Each individual of a population has its own activity, under one draw.
    y = noise(torch.stack([x, 2 * x]), "unit", 0, 1)
    assert not torch.equal(y[0] != 0, y[1] != 0)
