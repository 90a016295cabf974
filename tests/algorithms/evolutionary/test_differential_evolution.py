"""Differential evolution and the cross-entropy method: what their oracles leave open."""

import math
import statistics

import pytest
import torch

from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.cross_entropy import CrossEntropy
from altprop.algorithms.evolutionary.differential_evolution import DifferentialEvolution, crossed, others
from altprop.errors import AltpropError
from altprop.randomness import Random
from altprop.testing import set_up, toy, toy_point


def test_a_generation_is_storn_and_prices():
    """Individual by individual, from the same draws."""
    problem, batch = toy_point([0.0] * 5, [1.0, -1.0, 0.5, 2.0, 0.3])
    checks.pose(problem, checks.rosenbrock)
    learner = set_up(DifferentialEvolution(8, factor=0.6, crossover_rate=0.4, sigma=0.5), problem)
    before, parents = problem.random.state_dict(), learner.genomes.clone()
    learner.step(batch)
    problem.random.load_state_dict(before)
    rows = others(8, problem.random)
    sure, share = problem.random.integers(0, 5, 8, 1), problem.random.uniform(8, 5)
    for i in range(8):
        a, b, c = (parents[rows[k, i]] for k in range(3))
        trial = parents[i].clone()
        for j in range(5):
            if share[i, j] < 0.4 or j == sure[i]:
                trial[j] = a[j] + 0.6 * (b[j] - c[j])
        wins = checks.rosenbrock(trial) <= checks.rosenbrock(parents[i])
        assert torch.allclose(learner.genomes[i], trial if wins else parents[i], rtol=0, atol=1e-14)
    assert torch.equal(problem.flat(), learner.genomes[checks.rosenbrock(learner.genomes).argmin()])


def test_the_three_others_are_drawn_alike():
    """Each of the 9 others of an individual is r1 in a ninth of 3,000 draws: standard deviation .0057."""
    random = Random(0)
    counts = torch.zeros(10)
    for _ in range(3000):
        rows = others(10, random)
        counts[rows[0, 0]] += 1
    assert counts[0] == 0
    assert counts[1:].tolist() == pytest.approx([3000 / 9] * 9, rel=0.2)


def test_one_gene_is_the_mutants_for_certain():
    trials = crossed(torch.zeros(200, 6), torch.ones(200, 6), torch.zeros(200, 1), Random(0))
    assert trials.sum(1).tolist() == [1.0] * 200


def test_jades_factors_are_a_cauchy_draw_above_0_cut_at_1():
    """The median of what is above 0 of a Cauchy distribution around .5 with scale .1 is .5101..., by its inverse."""
    problem, _ = toy_point([0.0], [1.0])
    learner = set_up(DifferentialEvolution(20000, "jade"), problem)
    factors, rates = learner._parameters(problem.random)
    below = 0.5 + math.atan(-5) / math.pi
    median = 0.5 + 0.1 * math.tan(math.pi * (below + (1 - below) / 2 - 0.5))
    assert float(factors.min()) > 0
    assert float(factors.max()) == 1
    assert statistics.median(factors.flatten().tolist()) == pytest.approx(median, abs=0.004)
    assert (float(rates.min()), float(rates.max())) == (pytest.approx(0.5, abs=0.05), 1.0)


def test_jade_follows_those_that_were_better():
    problem, _ = toy_point([0.0], [1.0])
    learner = set_up(DifferentialEvolution(4, "jade"), problem)
    factors = torch.tensor([[0.2], [0.4], [0.8], [1.0]], dtype=torch.float64)
    rates = torch.tensor([[0.1], [0.3], [0.5], [0.7]], dtype=torch.float64)
    learner._adapt(torch.tensor([False] * 4), factors, rates)
    assert (float(learner.factor), float(learner.crossover_rate)) == (0.5, 0.9)
    learner._adapt(torch.tensor([True, False, True, False]), factors, rates)
    assert float(learner.factor) == pytest.approx(0.9 * 0.5 + 0.1 * (0.04 + 0.64) / 1.0)
    assert float(learner.crossover_rate) == pytest.approx(0.9 * 0.9 + 0.1 * 0.3)


def test_jade_takes_fewer_evaluations_on_the_sphere():
    """Observed 10400 to 11600 and 7600 to 8600 with 30 individuals."""
    plain = checks.evaluations(lambda: DifferentialEvolution(30, sigma=0.5), checks.sphere, 0)
    jade = checks.evaluations(lambda: DifferentialEvolution(30, "jade", 0.5, 0.5, sigma=0.5), checks.sphere, 0)
    assert jade < 9500 < plain < 13000


def test_the_fit_to_the_elite_is_by_hand():
    problem, batch = toy_point([0.0] * 3, [1.0, 2.0, -1.0])
    learner = set_up(CrossEntropy(10, 3, sigma=0.5, smoothing=0.6, noise=0.1), problem)
    before, mean = problem.random.state_dict(), problem.flat()
    problem.progress = 0.25
    learner.step(batch)
    problem.random.load_state_dict(before)
    members = mean + 0.5 * problem.random.normal(10, 3)
    elite = members[members.square().sum(1).argsort()[:3]]
    middle = elite.sum(0) / 3
    spread = (elite - middle).square().sum(0) / 3
    assert torch.allclose(problem.flat(), 0.4 * mean + 0.6 * middle, rtol=0, atol=1e-14)
    assert torch.allclose(learner.sigma.square(), 0.4 * 0.25 + 0.6 * spread + 0.075**2, rtol=0, atol=1e-14)


@pytest.mark.parametrize("make", [DifferentialEvolution, lambda: DifferentialEvolution(strategy="jade"), CrossEntropy])
def test_a_dead_population_leaves_numbers(make):
    problem, batch = toy()
    checks.pose(problem, lambda flat: torch.full((len(flat),), math.nan, dtype=flat.dtype))
    learner = set_up(make(), problem)
    for _ in range(3):
        learner.step(batch)
    assert problem.flat().isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DifferentialEvolution(3), "at least 4"),
        (lambda: DifferentialEvolution(strategy="best_1_bin"), "unknown algorithm.strategy=best_1_bin"),
        (lambda: DifferentialEvolution(factor=0.0), "algorithm.factor"),
        (lambda: CrossEntropy(elites=20), "fewer than population=20"),
        (lambda: CrossEntropy(smoothing=0.0), "algorithm.smoothing"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(AltpropError, match=message):
        make()
