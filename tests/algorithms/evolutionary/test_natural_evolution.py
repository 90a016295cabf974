"""Natural evolution strategies and PGPE: what their oracles leave open."""

import math
import statistics

import pytest
import torch

from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.natural_evolution import ExponentialNES, SeparableNES
from altprop.algorithms.evolutionary.pgpe import PGPE
from altprop.errors import AltpropError, Refused
from altprop.testing import set_up, sgd, toy, toy_point


def test_snes_takes_the_papers_step():
    problem, batch = toy()
    learner = set_up(SeparableNES(6, sigma=0.2), problem)
    before, mean, size = problem.random.state_dict(), problem.flat(), problem.flat().numel()
    learner.step(batch)
    problem.random.load_state_dict(before)
    draws = problem.random.normal(6, size)
    order = problem.population_objective(mean + 0.2 * draws, batch).argsort()
    raw = [max(0.0, math.log(4) - math.log(k)) for k in range(1, 7)]
    move, spread = torch.zeros_like(mean), torch.zeros_like(mean)
    for k, u in enumerate(raw):
        s = draws[order[k]]
        move += (u / sum(raw) - 1 / 6) * s
        spread += (u / sum(raw) - 1 / 6) * (s * s - 1)
    rate = (3 + math.log(size)) / (5 * math.sqrt(size))
    assert torch.allclose(problem.flat(), mean + 0.2 * move, rtol=0, atol=1e-14)
    assert torch.allclose(learner.sigma, 0.2 * (rate / 2 * spread).exp(), rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("make", "function", "low", "high"),
    [(SeparableNES, checks.sphere, 1600, 1950), (SeparableNES, checks.ellipsoid, 2300, 2850)],
    ids=["sphere", "ellipsoid"],
)
def test_evaluations_to_the_minimum(make, function, low, high):
    """10 dimensions, lambda 10, sigma .5: 1740 to 1880 and 2460 to 2670 in five seeds."""
    found = [checks.evaluations(lambda: make(10, 0.5), function, seed) for seed in range(3)]
    assert low < statistics.median(found) < high


def test_the_rate_of_xnes_is_the_papers():
    problem, _ = toy_point([0.0] * 10, [1.0] * 10)
    learner = set_up(ExponentialNES(), problem)
    assert learner.eta == pytest.approx(0.6 * (3 + math.log(10)) / (10 * math.sqrt(10)), rel=1e-12)
    assert len(learner.utilities) == 10


def test_a_large_net_is_refused_with_bytes_and_seconds():
    problem, _ = toy()
    with pytest.raises(Refused, match=r"of 111 parameters takes .* GB and about 0 s .* use algorithm=snes"):
        set_up(ExponentialNES(most_parameters=100), problem)


@pytest.mark.parametrize("make", [SeparableNES, ExponentialNES, lambda: PGPE(sgd())], ids=["snes", "xnes", "pgpe"])
def test_a_dead_population_leaves_numbers(make):
    problem, batch = toy()
    checks.pose(problem, lambda flat: torch.full((len(flat),), math.nan, dtype=flat.dtype))
    learner = set_up(make(), problem)
    for _ in range(3):
        learner.step(batch)
    assert problem.flat().isfinite().all()


def test_widths_of_pgpe_change_by_a_bounded_share():
    problem, batch = toy_point([0.0, 0.0], [0.0, 0.0])
    learner = set_up(PGPE(sgd(), 4, sigma=2.0, sigma_rate=1e3, shaping="none"), problem)
    learner.step(batch)
    assert torch.allclose((learner.sigma / 2 - 1).abs(), torch.full((2,), 0.2).double())


def test_an_infinite_value_takes_its_pair_out_of_both_estimates():
    problem, batch = toy_point([0.0, 0.0], [1.0, 1.0])
    checks.pose(problem, lambda flat: torch.where(flat[:, 0] > 1.04, torch.nan, flat.square().sum(1) / 2))
    values, of_mean, of_sigma = set_up(PGPE(sgd(), 40, shaping="none"), problem).estimate(batch)
    assert values.isinf().any()
    assert of_mean.isfinite().all()
    assert of_sigma.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGPE(sgd(), 7), "must be even"),
        (lambda: PGPE(sgd(), most_change=1.0), "algorithm.most_change"),
        (lambda: SeparableNES(3), "at least 4"),
        (lambda: ExponentialNES(sigma=0.0), "algorithm.sigma must be a number above 0"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(AltpropError, match=message):
        make()
