"""Covariance matrix adaptation: what its oracles leave open."""

import math
import statistics

import pytest
import torch

from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.cma_es import CMAES
from altprop.errors import AltpropError, Refused
from altprop.testing import set_up, toy, toy_point


def test_evaluations_on_the_sphere_are_deaps():
    """10 dimensions from (1, ..., 1), lambda 10, sigma .5: 1170 to 1370 in 11 seeds, DEAP's own median 1340."""
    found = [checks.evaluations(lambda: CMAES(10, 0.5), checks.sphere, seed) for seed in range(5)]
    assert statistics.median(found) == pytest.approx(1340, rel=0.15)


@pytest.mark.slow  # 570 generations a run, five runs: 10 to 20 s on a busy core
def test_evaluations_on_the_ellipsoid_are_deaps():
    """5400 to 5950 in 11 seeds, DEAP's own 5430 to 5910, median 5640.

    Rosenbrock's function is no such test: (1, ..., 1) is its minimum, to which a run returns at once or from afar, so
    that DEAP's own 11 seeds take 2650 to 12000. On it the oracle compares generation by generation.
    """
    found = [checks.evaluations(lambda: CMAES(10, 0.5), checks.ellipsoid, seed) for seed in range(5)]
    assert statistics.median(found) == pytest.approx(5640, rel=0.15)


def test_the_diagonal_learns_as_fast_as_ros_and_hansen_say():
    """The ellipsoid's axes are the parameters': 2270 to 2630 evaluations in 7 seeds where the full one takes 5640."""
    found = [checks.evaluations(lambda: CMAES(10, 0.5, "diagonal"), checks.ellipsoid, seed) for seed in range(3)]
    assert statistics.median(found) < 4000
    problem, _ = toy_point([0.0] * 10, [1.0] * 10)
    full, diagonal = (set_up(CMAES(10, covariance=kind), problem) for kind in ("full", "diagonal"))
    assert diagonal.one_rate == pytest.approx(4 * full.one_rate)
    assert diagonal.many_rate == pytest.approx(4 * full.many_rate)


def test_a_large_net_is_refused_and_the_diagonal_named():
    problem, _ = toy()
    with pytest.raises(Refused, match=r"of 111 parameters .* use algorithm.covariance=diagonal \(sep-CMA-ES\)"):
        set_up(CMAES(most_parameters=100), problem)
    assert set_up(CMAES(covariance="diagonal", most_parameters=100), problem).covariance.shape == (111,)


def test_decompositions_wait_where_the_covariance_hardly_moves():
    """111 parameters, lambda 18: every 1 / (10 D (c_1 + c_mu)) generations, rounded down, and at least each."""
    problem, batch = toy()
    learner = set_up(CMAES(4), problem)
    assert learner.gap == max(1, math.floor(1 / (1110 * (learner.one_rate + learner.many_rate)))) > 1
    for _ in range(3 * learner.gap):
        learner.step(batch)
    assert problem.ledger.calls("decomposition") == 3


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_covariance_that_is_no_number_is_left_out(covariance):
    problem, batch = toy_point([0.0] * 3, [1.0] * 3)
    learner = set_up(CMAES(covariance=covariance), problem)
    learner.step(batch)
    learner.shape_path = torch.full((3,), math.inf, dtype=torch.float64)
    kept = learner.covariance.clone()
    learner.step(batch)
    assert torch.equal(learner.covariance, kept)
    learner.covariance = learner.covariance * 0  # singular: the floor of the widths is 0 then, and nothing breaks
    learner.step(batch)
    assert problem.flat().isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 3}, "at least 4"),
        ({"sigma": 0.0}, "algorithm.sigma must be a number above 0"),
        ({"covariance": "diag"}, "did you mean diagonal"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(AltpropError, match=message):
        CMAES(**options)
