"""Spatial dropout and DropBlock: all masks of small feature maps, and what they refuse."""

import itertools
import math

import pytest
import torch
from linear_unit import DROP, KEEP, bernoulli, expectation, objective, outputs

from altprop.algorithms.dropout.dropblock import DropBlock, covered
from altprop.algorithms.dropout.spatial import SpatialDropout
from altprop.data import Batch, ModelSpec
from altprop.errors import Refused
from altprop.models.cnn import CNN
from altprop.noise import NoiseClock
from altprop.randomness import generator_for
from altprop.testing import make_problem, toy


def maps(noise, channels=3, length=5):
    """Return a linear convolution to `channels` maps of `length` pixels under the noise, then one linear output."""
    spec = ModelSpec((1, length), 1)
    model = CNN(spec, [channels], 3, 1, 1, activation="identity", noise=noise, generator=generator_for("maps")).double()
    x = torch.randn(1, 1, length, generator=generator_for("x"), dtype=torch.float64)
    return make_problem(model, "half_squared_error"), Batch(x, torch.tensor([[0.7]]).double(), torch.arange(1))


def contributions(channels=3, length=5):
    """Return w_cj x_cj, (C, n), what each pixel adds to the output, and the objective without noise."""
    problem, batch = maps(None, channels, length)
    x = problem.model.blocks[0](batch.inputs).detach()[0]
    return problem.model.blocks[1].weight.detach()[0].reshape(x.shape) * x, problem.objective(batch)


@pytest.mark.parametrize("p", [0.3])
def test_all_spatial_masks_of_a_linear_unit(p):
    """E[.5 (y - t)^2] gains p/(1-p)/2 sum_c (sum_j w_cj x_cj)^2: a ridge over maps, not over pixels. Seen: 2e-15."""
    problem, batch = maps(SpatialDropout(p=p))
    parts, loss = contributions()
    expected = loss + p / (1 - p) / 2 * parts.sum(1).square().sum()
    found = expectation(objective, problem, batch, bernoulli(p, (1, 3, 1)), ("unit", 0, 0, 0, "uniform"))
    assert abs(found - expected) < 1e-13
    assert abs(expected - loss - p / (1 - p) / 2 * parts.square().sum()) > 1e-4


def block_seeds(gamma, shape):
    """Return all draws of seeds, each with its probability: a draw of 0 is a seed."""
    for seeds in itertools.product((False, True), repeat=math.prod(shape)):
        draws = torch.tensor([DROP if seed else KEEP for seed in seeds]).double().reshape(shape)
        yield draws, gamma ** sum(seeds) * (1 - gamma) ** (len(seeds) - sum(seeds))


@pytest.mark.parametrize("p", [0.3])
def test_all_blocks_of_a_linear_unit(p):
    """The mask's mean is 1 at every pixel, borders too; the loss gains what the mask's covariance says. Seen: 4e-16."""
    problem, batch = maps(DropBlock(p=p, block=2), channels=1)
    noise, key = problem.model.noise, ("unit", 0, 0, 0, "uniform")
    gamma = p * 5 / (2 * 4)
    like = torch.ones(1, 1, 5, dtype=torch.float64)
    seeds = list(block_seeds(gamma, (1, 1, 4)))
    mean, second = torch.zeros(5).double(), torch.zeros(5, 5).double()
    for draws, probability in seeds:
        # The slow twin: a pixel is kept where no seed lies on it or on the one before.
        s = [bool(value < gamma) for value in draws.flatten()]
        kept = [not any(s[i] for i in (j - 1, j) if 0 <= i < 4) for j in range(5)]
        times = [sum(0 <= i < 4 for i in (j - 1, j)) for j in range(5)]
        twin = torch.tensor([k / (1 - gamma) ** c for k, c in zip(kept, times, strict=True)], dtype=torch.float64)
        with problem.clock.replay({key: draws}):
            mask = noise.mask(like, "unit", 0)[0, 0]
        assert (mask - twin).abs().max() < 1e-14
        mean, second = mean + probability * mask, second + probability * torch.outer(mask, mask)
    assert (mean - 1).abs().max() < 1e-14
    parts, loss = contributions(1)
    expected = loss + 0.5 * parts[0] @ (second - torch.outer(mean, mean)) @ parts[0]
    assert abs(expectation(objective, problem, batch, seeds, key) - expected) < 1e-13
    quiet, _ = maps(None, 1)
    assert abs(expectation(outputs, problem, batch, seeds, key) - quiet.outputs(batch).detach()).max() < 1e-13


def test_blocks_are_squares_and_drop_about_their_share():
    noise = DropBlock(p=0.1, block=3)
    noise.bind(NoiseClock(2))
    mask = noise(torch.ones(400, 4, 12, 12, dtype=torch.float64), "unit", 0)
    dropped = (mask == 0).double()
    # Overlaps of blocks take a little off the rate.
    assert 0.085 < float(dropped.mean()) < 0.1
    assert float(mask.mean()) == pytest.approx(1, abs=0.01)
    # Every dropped pixel lies in a dropped square: opening the image by the square leaves it as it is.
    whole = (torch.nn.functional.avg_pool2d(dropped, 3, 1) > 1 - 1e-9).double()
    assert torch.equal((covered(whole, (3, 3)) > 0).double(), dropped)


def test_maps_are_dropped_whole_and_apart():
    noise = SpatialDropout(p=0.4)
    mask = noise(torch.ones(500, 6, 3, 3, dtype=torch.float64), "unit", 0)
    assert mask.flatten(2).std(2).max() == 0
    each = mask[:, :, 0, 0]
    assert float(each.var()) == pytest.approx(0.4 / 0.6, rel=0.1)
    assert each.mean(0).unique().numel() > 1
    assert abs(float(torch.corrcoef(each.T)[0, 1])) < 0.2
    assert torch.equal(noise(torch.ones(5, 6), "unit", 0), torch.ones(5, 6))


@pytest.mark.parametrize("kind", [SpatialDropout, DropBlock])
def test_a_model_without_maps_is_refused(kind):
    with pytest.raises(Refused, match=r"this model has none; use dropout=standard or model=cnn"):
        toy(noise=kind())


def test_a_block_larger_than_the_map_drops_it_whole():
    noise = DropBlock(p=0.5, block=9)
    mask = noise(torch.ones(200, 2, 4, 4, dtype=torch.float64), "unit", 0)
    assert mask.unique().tolist() == [0.0, 2.0]
