"""Evolution with backprop inside: what its oracles leave open."""

import pytest
import torch

from altprop.algorithms.evolutionary.memetic import Memetic
from altprop.errors import AltpropError
from altprop.testing import set_up, toy


def test_a_generation_costs_its_gradients():
    problem, batch = toy()
    learner = set_up(Memetic(population=5, refinements=3), problem)
    learner.step(batch)
    counts = problem.ledger.summary()
    assert (counts["backwards"], counts["evaluations"], counts["updates"]) == (15, 20, 1)


@pytest.mark.parametrize("inheritance", ["lamarckian", "baldwinian"])
def test_who_is_selected_has_learnt_and_who_is_kept_may_not_have(inheritance):
    problem, batch = toy(seed=1)
    learner = set_up(Memetic(6, 3, inheritance, 1, 3.0, 0.3), problem)
    before = learner.genomes.clone()
    learnt = []
    for genome in before:
        problem.assign(genome)
        learnt.append(genome - 3.0 * problem.flatten(problem.gradient(batch)[1]))
    phi = torch.stack(learnt)
    ranked = problem.population_objective(phi, batch).argsort()
    assert not torch.equal(ranked, problem.population_objective(before, batch).argsort())
    problem.assign(before[0])
    told = problem.objective(batch)
    result = learner.step(batch)
    torch.testing.assert_close(problem.flat(), phi[ranked[0]])
    torch.testing.assert_close(learner.genomes[:3], (phi if inheritance == "lamarckian" else before)[ranked[:3]])
    assert (result.loss is None) == (inheritance == "baldwinian")
    if result.loss is not None:
        torch.testing.assert_close(result.loss, told)


def test_parents_are_the_better_of_two():
    """Ranks of 4000 parents among 10: the better of two has mean rank 2.85, any would have 4.5."""
    problem, _ = toy()
    learner = set_up(Memetic(4010, 4000, sigma=1e-12), problem)
    learner.population, learner.elites = 4010, 10
    ranks = torch.arange(4010.0, dtype=torch.float64)[:, None]
    mean = float(learner._children(ranks).mean())
    assert mean / 4010 == pytest.approx(1 / 3, abs=0.02)


def test_mutations_narrow_with_the_budget_and_half_of_the_pairs_cross():
    problem, _ = toy()
    learner = set_up(Memetic(1001, 1, sigma=0.5), problem)
    problem.progress = 0.8
    flat = torch.zeros(1001, 50, dtype=torch.float64)
    assert float(learner._children(flat).std()) == pytest.approx(0.1, rel=0.02)
    problem.progress = 1.0
    rows = torch.arange(1001.0, dtype=torch.float64)[:, None].repeat(1, 50)
    crossed = (learner._children(rows).std(1) > 0).double().mean()
    assert float(crossed) == pytest.approx(0.5, abs=0.06)


def test_a_gradient_that_is_no_number_is_not_selected():
    problem, batch = toy()
    learner = set_up(Memetic(4, 1), problem)
    learner.genomes[1:] = torch.nan
    for _ in range(2):
        learner.step(batch)
        assert problem.flat().isfinite().all()


def test_more_elites_than_individuals_are_refused():
    with pytest.raises(AltpropError, match=r"elites must be at most population=3; got 4"):
        Memetic(3, 4)
