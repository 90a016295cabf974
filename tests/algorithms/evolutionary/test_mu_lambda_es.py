"""Operators beside DEAP's draw by draw, and strategies with widths: what the oracles leave open."""

import math
import statistics
from functools import partial

import pytest
import torch
from deap.tools import crossover as deaps_crossover
from deap.tools import cxBlend, cxSimulatedBinary, mutESLogNormal
from deap.tools import mutation as deaps_mutation

from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.genetic import (
    Genetic,
    blend_crossover,
    gaussian_mutation,
    log_normal,
    simulated_binary_crossover,
)
from altprop.algorithms.evolutionary.mu_lambda_es import MuLambdaES
from altprop.errors import AltpropError
from altprop.randomness import Random
from altprop.testing import set_up, toy, toy_point


class Script:
    """A module `random` whose numbers are given."""

    def __init__(self, uniform=(), normal=()):
        self.uniform, self.normal = iter(uniform), iter(normal)

    def random(self):
        return next(self.uniform)

    def gauss(self, mean, deviation):
        return mean + deviation * next(self.normal)


def stream(seed: int = 3) -> Random:
    return Random(seed, "cpu", torch.float64)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(simulated_binary_crossover, partial(cxSimulatedBinary, eta=20)), (blend_crossover, partial(cxBlend, alpha=0.5))],
)
def test_crossovers_are_deaps_draw_by_draw(monkeypatch, ours, theirs) -> None:
    first, second = stream(1).normal(1, 40), stream(2).normal(1, 40)
    monkeypatch.setattr(deaps_crossover, "random", Script(stream().uniform(1, 40)[0].tolist()))
    expected, _ = theirs(first[0].tolist(), second[0].tolist())
    assert ours(first, second, stream())[0].tolist() == pytest.approx(expected, rel=1e-12)


class Individual(list):
    strategy: list[float]


def test_self_adaptation_is_deaps_draw_by_draw(monkeypatch) -> None:
    """DEAP draws the common number first, then for each gene whether, its width's and its own."""
    size, draws = 12, stream()
    common, own, moves = draws.normal(1, 1), draws.normal(1, size), draws.normal(1, size)
    script = [float(common), *torch.stack([own[0], moves[0]], 1).flatten().tolist()]
    monkeypatch.setattr(deaps_mutation, "random", Script([0.0] * size, script))
    widths, genome = 0.1 + stream(4).uniform(1, size), stream(5).normal(1, size)
    theirs = Individual(genome[0].tolist())
    theirs.strategy = widths[0].tolist()
    mutESLogNormal(theirs, c=1.0, indpb=1.0)
    random = stream()
    ours = log_normal(widths, size, random)
    assert ours[0].tolist() == pytest.approx(theirs.strategy, rel=1e-12)
    assert gaussian_mutation(genome, ours, 1.0, random)[0].tolist() == pytest.approx(list(theirs), rel=1e-12)


def test_children_have_the_widths_of_their_first_parents() -> None:
    """Widths of 1, 2, 4 ... in a space so large that a step changes them by 1 %; uncrossed children tell the parent."""
    problem, batch = toy_point([0.0] * 10000, [1.0] * 10000)
    learner = set_up(Genetic(8, 2, crossover_rate=0.0, pressure=1, mutation="self_adaptive"), problem)
    genomes = learner.genomes = 100 * problem.random.normal(8, 10000)
    widths = learner.widths = 2.0 ** torch.arange(8, dtype=torch.float64)[:, None]
    learner.step(batch)
    distance = torch.cdist(learner.genomes, genomes) / 100
    parents = distance.argmin(1)
    assert parents[:2].tolist() == problem.population_objective(genomes, batch).argsort()[:2].tolist()
    assert len(set(parents.tolist())) > 4
    assert torch.equal(learner.widths[:2], widths[parents[:2]])
    ratios = learner.widths[2:] / widths[parents[2:]]
    assert float((ratios - 1).abs().min()) > 1e-4
    assert float((ratios - 1).abs().max()) < 0.05
    moved = distance.amin(1)[2:]
    torch.testing.assert_close(moved, learner.widths[2:, 0], rtol=0.05, atol=0)


@pytest.mark.parametrize("recombination", ["none", "discrete", "intermediate"])
def test_recombination_is_what_it_says(recombination: str) -> None:
    problem, _ = toy_point([0.0] * 500, [1.0] * 500)
    learner = set_up(MuLambdaES(4, 300, recombination=recombination, adaptation="fifth", sigma=1e-9), problem)
    learner.genomes = torch.arange(4, dtype=torch.float64)[:, None].expand(4, 500).clone()
    learner.widths = 1e-9 * 16 ** torch.arange(4, dtype=torch.float64)[:, None]
    children, widths = learner._children(problem.random)
    found = children.round()
    if recombination == "intermediate":
        assert float((children - 1.5).abs().max()) < 1e-6
    elif recombination == "none":
        assert torch.equal(found, found[:, :1].expand_as(found))
        torch.testing.assert_close(widths, 1e-9 * 16 ** found[:, :1])
    shares = torch.stack([(found == row).double().mean() for row in range(4)])
    assert recombination == "intermediate" or float((shares - 0.25).abs().max()) < 0.1
    if recombination != "none":
        torch.testing.assert_close(widths, torch.full_like(widths, 64e-9))


def test_rechenbergs_strategy_keeps_its_place_among_the_fifths() -> None:
    """The rule in words, child by child: log sigma moves by .8 / sqrt(D + 1) on success, else by -.2 / sqrt(D + 1)."""
    problem, batch = toy_point([0.0] * 8, [1.0] * 8)
    learner = set_up(MuLambdaES(1, 1, "plus", "fifth", sigma=0.3), problem)
    expected, successes = math.log(0.3), 0
    for _ in range(300):
        before = problem.flat()
        result = learner.step(batch)
        success = not torch.equal(before, problem.flat())
        successes += success
        expected += (success - 0.2) / 3
        assert result.loss is not None
        assert math.log(float(learner.widths)) == pytest.approx(expected, abs=1e-9)
    assert 0.05 < successes / 300 < 0.25


MAKERS = {
    "(1+1), 1/5": (lambda: MuLambdaES(1, 1, "plus", "fifth", sigma=0.5), 1150, 1500),
    "(3/3,20), one": (lambda: MuLambdaES(sigma=0.5), 950, 1250),
    "(15,100), each": (lambda: MuLambdaES(15, 100, "comma", "each", "discrete", 0.5), 6000, 9500),
}


@pytest.mark.parametrize("which", MAKERS)
def test_the_sphere_takes_these_evaluations(which: str) -> None:
    """10 dimensions from (1, ..., 1) to 1e-8, median of 3 seeds."""
    make, low, high = MAKERS[which]
    found = statistics.median(checks.evaluations(make, checks.sphere, seed) for seed in range(3))
    assert low <= found <= high


@pytest.mark.parametrize("adaptation", ["one", "each"])
def test_flat_fitness_is_neutral_drift(adaptation: str) -> None:
    ends = []
    for seed in range(60):
        problem, batch = toy_point([0.0] * 5, [0.0] * 5, seed=seed)
        checks.pose(problem, lambda flat: torch.zeros(len(flat), dtype=flat.dtype))
        learner = set_up(MuLambdaES(3, 10, "comma", adaptation, "none", 0.5), problem)
        for _ in range(10):
            learner.step(batch)
        ends.append(torch.cat([problem.flat(), learner.widths.log().mean()[None] - math.log(0.5)]))
    drift = torch.stack(ends)
    assert float((drift.mean(0) / (drift.std(0) / math.sqrt(60))).abs().max()) < 4
    assert float(drift.std(0).min()) > 0.1


def test_counts_and_losses() -> None:
    for options, evaluations, told in (
        ({}, 20, False),
        ({"selection": "plus"}, 23, True),
        ({"adaptation": "fifth"}, 23, True),
    ):
        problem, batch = toy()
        learner = set_up(MuLambdaES(**options), problem)
        for _ in range(3):
            before = float(problem.objective(batch))
            counted = problem.ledger.spent("evaluations")
            loss = learner.step(batch).loss
            assert problem.ledger.spent("evaluations") - counted == evaluations
            assert (float(loss) == pytest.approx(before, rel=1e-12)) if told else loss is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MuLambdaES(5, 5), "offspring must be more than parents=5 for comma; got 5"),
        (lambda: MuLambdaES(adaptation="two"), "unknown algorithm.adaptation=two"),
        (lambda: Genetic(crossover="sbx", eta=-1), "algorithm.eta must be a number of at least 0"),
        (lambda: Genetic(mutation="adaptive"), "unknown algorithm.mutation=adaptive"),
    ],
)
def test_bad_values_are_refused(make, message) -> None:
    with pytest.raises(AltpropError, match=message):
        make()
