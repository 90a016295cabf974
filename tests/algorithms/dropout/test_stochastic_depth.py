"""Stochastic depth: all 2^L nets of a deep linear one, and the rates that rise with depth."""

import itertools
import math

import pytest
import torch
from linear_unit import DROP, KEEP

from altprop.algorithms.dropout.stochastic_depth import StochasticDepth
from altprop.data import Batch, ModelSpec
from altprop.errors import Refused
from altprop.models.residual import ResidualCNN, ResidualMLP
from altprop.randomness import generator_for
from altprop.testing import make_problem, toy


def deep(noise, activation="identity"):
    spec = ModelSpec((4,), 2)
    model = ResidualMLP(spec, [4, 4, 4, 4], activation, noise=noise, generator=generator_for("deep")).double()
    x = torch.randn(1, 4, generator=generator_for("x"), dtype=torch.float64)
    return make_problem(model, "half_squared_error"), Batch(x, torch.ones(1, 2).double(), torch.arange(1))


@pytest.mark.parametrize("p", [0.3])
def test_all_depths_of_a_linear_net(p):
    """The mean output is the quiet one, and the mean loss and gradient those of the 2^L shorter nets, written out."""
    problem, batch = deep(StochasticDepth(p=p))
    quiet, _ = deep(None)
    first, *branches, last = [(b.weight.detach(), b.bias.detach()) for b in quiet.model.blocks]
    rates = [p / 3, 2 * p / 3, p]
    mean = objective = twin = gradient = 0.0
    for kept in itertools.product((False, True), repeat=3):
        probability = math.prod(1 - r if k else r for r, k in zip(rates, kept, strict=True))
        draws = {
            ("branch", layer, 0, 0, "uniform"): torch.full((1, 1), KEEP if k else DROP).double()
            for layer, k in enumerate(kept, start=1)
        }
        h = batch.inputs @ first[0].T + first[1]
        for (w, b), k, r in zip(branches, kept, rates, strict=True):
            h = h + (h @ w.T + b) / (1 - r) if k else h
        y = h @ last[0].T + last[1]
        twin = twin + probability * 0.5 * (y - batch.targets).square().sum()
        with problem.clock.replay(draws):
            mean = mean + probability * problem.outputs(batch).detach()
            loss, grads = problem.gradient(batch)
        objective = objective + probability * loss
        gradient = gradient + probability * grads["blocks.4.bias"]
    assert (mean - quiet.outputs(batch).detach()).abs().max() < 1e-14
    assert abs(objective - twin) < 1e-13
    assert (gradient - (mean - batch.targets)[0]).abs().max() < 1e-13
    assert abs(objective - quiet.objective(batch)) > 1e-3


def test_a_branch_is_dropped_whole_and_row_by_row():
    model = ResidualCNN(ModelSpec((16,), 2), noise=(noise := StochasticDepth(p=0.6)), generator=generator_for("cnn"))
    problem = make_problem(model, "half_squared_error")
    assert noise.shares == {1: 0.5, 3: 1.0}
    mask = noise.mask(torch.ones(2000, 16, 2, 2), "branch", 3)
    assert mask.flatten(1).std(1).max() == 0
    assert float((mask[:, 0, 0, 0] == 0).float().mean()) == pytest.approx(0.6, abs=0.04)
    assert float((noise.mask(torch.ones(2000, 4), "branch", 1) == 0).float().mean()) == pytest.approx(0.3, abs=0.04)
    # A dropped branch leaves its input alone, to the bit.
    block, x = model.blocks[1], torch.randn(50, 16, 2, 2, generator=generator_for("x"))
    dropped = noise.mask(x, "branch", 1)[:, 0, 0, 0] == 0
    y = block(x)
    assert 0 < int(dropped.sum()) < 50
    assert torch.equal(y[dropped], x[dropped])
    assert (y[~dropped] - x[~dropped]).abs().max() > 0.1
    assert problem.clock.phase == 0


def test_a_model_without_branches_is_refused():
    with pytest.raises(Refused, match="StochasticDepth acts at branch, and model=mlp has other sites of noise"):
        toy(noise=StochasticDepth())
