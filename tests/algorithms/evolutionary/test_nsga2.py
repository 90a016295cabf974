"""Loss against size: what the oracles of nsga2 leave open."""

import random

import pytest
import torch

from altprop.algorithms.evolutionary.nsga2 import NSGA2, _survivors, _tournaments, sizes
from altprop.errors import AltpropError
from altprop.randomness import Random
from altprop.testing import set_up, toy, toy_point


def test_the_first_population_has_all_densities() -> None:
    problem, _ = toy_point([0.0] * 4000, [1.0] * 4000)
    learner = set_up(NSGA2(20), problem)
    assert torch.equal(learner.genomes[0], problem.flat())
    expected = 4000 * (1 - torch.arange(20, dtype=torch.float64) / 20)
    assert float((sizes(learner.genomes) - expected).abs().max()) < 4 * (4000 / 4) ** 0.5


def test_children_keep_what_is_absent_but_for_some() -> None:
    """Half of the genes are absent in one parent of each pair: in a child a quarter is, moved by what is toggled."""
    problem, _ = toy_point([0.0] * 20000, [1.0] * 20000)
    learner = set_up(NSGA2(8, sigma=0.1, toggle_rate=0.1, crossover_rate=1.0), problem)
    problem.progress = 0.5
    parents = torch.full((8, 20000), 7.0, dtype=torch.float64)
    parents[::2] *= problem.random.uniform(4, 20000) < 0.5
    children = learner._children(parents, problem.random)
    present = children != 0
    assert present.double().mean(1).tolist() == pytest.approx([0.9 * 0.75 + 0.1 * 0.25] * 8, abs=0.015)
    old, new = children[children > 3], children[present & (children < 3)]
    assert float((old - 7).std()) == pytest.approx(0.05, rel=0.05)
    assert float(new.std()) == pytest.approx(0.1, rel=0.05)
    learner.crossover_rate = learner.toggle_rate = 0.0
    assert torch.equal(learner._children(parents, problem.random) != 0, parents != 0)


def test_winners_are_nowhere_dominated_in_their_tournament_and_equals_come_last() -> None:
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0, 1.0, 1.0, 1.0, 9.0], dtype=torch.float64)
    counts = torch.tensor([4.0, 3.0, 2.0, 1.0, 4.0, 4.0, 4.0, 9.0], dtype=torch.float64)
    assert set(_survivors(Random(0), losses, counts).tolist()) == {0, 1, 2, 3}
    # 5 candidates differ, and the fifth is dominated; one of the equal ones fills a place that is left.
    assert len(set(_survivors(Random(0), losses[:6], counts[:6]).tolist())) == 3
    state = random.getstate()
    won = [_tournaments(Random(seed), losses, counts).tolist() for seed in range(20)]
    assert random.getstate() == state
    assert all(len(rows) == 8 for rows in won)
    assert sum(row == 7 for rows in won for row in rows) == 0  # it is dominated by everyone


def test_a_front_is_kept_and_the_model_is_its_end_of_least_loss() -> None:
    problem, batch = toy(seed=1)
    learner = set_up(NSGA2(12, sigma=0.2), problem)
    for _ in range(20):
        before = float(problem.objective(batch))
        result = learner.step(batch)
        assert float(result.loss) == pytest.approx(before, rel=1e-12)
    front = learner.artefacts()["front"]
    assert front["weights"] == sorted(front["weights"])
    assert front["loss"] == sorted(front["loss"], reverse=True)
    assert len(front["loss"]) > 2
    assert front["loss"][-1] == pytest.approx(float(problem.objective(batch)), rel=1e-12)
    assert front["weights"][-1] == int((problem.flat() != 0).sum()) == int(result.scalars["weights"])
    assert problem.ledger.spent("evaluations") == 20 * 24 + 21  # 21 by this test


def test_losses_that_are_no_numbers_end_on_the_last_front() -> None:
    problem, batch = toy()
    learner = set_up(NSGA2(8), problem)
    learner.genomes[1:5] = torch.nan
    for _ in range(4):
        learner.step(batch)
        assert problem.flat().isfinite().all()
    assert max(learner.artefacts()["front"]["loss"]) < 1e30


def test_bad_values_are_refused() -> None:
    with pytest.raises(AltpropError, match=r"algorithm.population must be a multiple of 4; got 10"):
        NSGA2(10)
