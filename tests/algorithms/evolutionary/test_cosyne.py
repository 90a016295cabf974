"""Cooperative synapses: what the oracles leave open."""

import math

import pytest
import torch

from altprop.algorithms.evolutionary.cosyne import Cosyne, permuted
from altprop.errors import AltpropError
from altprop.randomness import Random
from altprop.testing import set_up, toy, toy_point


def test_all_orders_of_the_marked_are_equally_likely() -> None:
    """6 orders of 3 marked of 4 weights in 6000 columns: chi^2 with 5 degrees of freedom exceeds 20.5 once in 1000."""
    rows = torch.arange(4.0)[:, None].expand(4, 6000)
    marked = torch.tensor([True, False, True, True])[:, None].expand(4, 6000)
    found = permuted(rows, marked, Random(0))
    assert torch.equal(found[1], rows[1])
    counts = torch.unique(found, dim=1, return_counts=True)[1]
    assert len(counts) == 6
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 20.5


def test_a_generation_is_the_papers() -> None:
    """The best stays whole, the worst quarter is of children, who mutate in so many genes by Cauchy's law."""
    problem, batch = toy_point([0.0] * 3000, [1.0] * 3000)
    learner = set_up(Cosyne(12, mutation_rate=0.5, sigma=0.2), problem)
    rows = learner.genomes = torch.arange(1.0, 13.0, dtype=torch.float64)[:, None].repeat(1, 3000).flip(0)
    problem.progress = 0.5
    children = learner._children(rows[-3:], problem.random)
    parents = children.round().clamp(1, 3)
    changed = (children != parents) & ((children - parents).abs() < 0.4)
    assert float((children != parents).double().mean()) == pytest.approx(0.5, abs=0.03)
    change = (children - parents)[changed].abs()
    # Of |Cauchy| of scale .1 below .4, half lies below tan(half of atan 4) of the scale.
    assert float(change.median()) == pytest.approx(0.1 * math.tan(math.atan(4) / 2), rel=0.1)
    loss = learner.step(batch).loss
    assert float(loss) == pytest.approx(float(problem.population_objective(rows[:1], batch)))
    assert torch.equal(problem.flat(), rows[-1])
    assert torch.equal(learner.genomes[0], rows[-1])
    kept = (learner.genomes[1:9] == rows.flip(0)[1:9]).double().mean(1)
    assert 0.98 < float(kept.min()) < 1.0
    whole = learner.genomes[9:11].round()
    assert float(((whole >= 1) & (whole <= 3)).double().mean()) > 0.9


def test_all_change_places_where_that_is_asked_for() -> None:
    problem, batch = toy()
    learner = set_up(Cosyne(6, permutation="all"), problem)
    learner.step(batch)
    assert not (learner.genomes == problem.flat()).all(1).any()
    assert learner.step(batch).loss is None


def test_bad_values_are_refused() -> None:
    with pytest.raises(AltpropError, match=r"algorithm.share=0.1 of population=4 is nobody"):
        Cosyne(4, 0.1)
    with pytest.raises(AltpropError, match=r"algorithm.share must be a number above 0 and at most 0.5"):
        Cosyne(share=0.6)
