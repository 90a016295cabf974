"""An elite in every cell: what the oracles of map_elites leave open."""

import math

import pytest
import torch

from altprop import Descriptor
from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.map_elites import MapElites, cells_of
from altprop.errors import AltpropError, Refused
from altprop.testing import set_up, toy


def test_children_have_the_variances_of_both_variations() -> None:
    """Of two elites each child has one parent, and with probability 1/2 the other one beside it.

    In a weight in which they differ by d the variance is then sigma^2 + line^2 d^2 / 2 around the parent, and what is
    added along the line is the same in all weights; all cells that are filled are parents, equally often, and no other.
    """
    problem, _, _ = checks.behaving()
    learner = set_up(MapElites(20000, cells=2, sigma=0.1, line=0.5), problem)
    along = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    learner.genomes = torch.arange(4, dtype=torch.float64)[:, None] * along
    filled = torch.tensor([True, False, False, True])
    children = learner._children(filled, problem.random)
    assert children[:, 2:].std(0).tolist() == pytest.approx([0.1] * 4, rel=0.03)
    assert float((children[:, 0] - children[:, 1]).std()) == pytest.approx(0.1 * 2**0.5, rel=0.03)
    along = children[:, 0]
    expected = 0.1**2 + 0.5**2 * 3**2 / 2 + 3**2 / 4  # the last of which elite is the parent
    assert float(along.mean()) == pytest.approx(1.5, abs=0.05)
    assert float(along.var()) == pytest.approx(expected, rel=0.05)
    learner.line = 0.0
    plain = learner._children(filled, problem.random)[:, 0]
    assert float((plain < 1.5).double().mean()) == pytest.approx(0.5, abs=0.015)
    assert float(torch.minimum(plain.abs(), (plain - 3).abs()).max()) < 0.6


def test_the_tables_are_those_of_the_archive() -> None:
    problem, batch, seen = checks.behaving()
    learner = set_up(MapElites(12, cells=5, sigma=0.3), problem)
    for _ in range(30):
        told = learner.step(batch).scalars
    table = learner.artefacts()["archive"]
    assert list(table) == ["x_cell", "y_cell", "x", "y", "loss"]
    assert min(table["loss"]) == pytest.approx(float(problem.flat().square().sum()) / 2, rel=1e-12)
    for row in range(len(table["loss"])):
        x, y = table["x_cell"][row], table["y_cell"][row]
        behaviour = torch.tensor([table["x"][row], table["y"][row]], dtype=torch.float64)
        assert torch.equal(learner.genomes[5 * x + y, :2], behaviour)
        assert int(cells_of(behaviour[None], learner.edges)) == 5 * x + y
    assert problem.ledger.spent("evaluations") == 12 * 30
    held = learner.losses[learner.losses < math.inf]
    worst = float(seen[0].values.max())
    assert float(told["coverage"]) == pytest.approx(len(held) / 25)
    assert float(told["qd_score"]) == pytest.approx(sum(max(worst - loss, 0) for loss in held.tolist()))


def test_the_first_generation_is_around_the_initial_weights() -> None:
    problem, _, _ = checks.behaving()
    learner = set_up(MapElites(4000, sigma=0.3), problem)
    assert torch.equal(learner.candidates[0], problem.flat())
    moved = learner.candidates[1:] - problem.flat()
    assert moved.std(0).tolist() == pytest.approx([0.3] * 6, rel=0.06)


def test_who_is_no_number_takes_no_cell() -> None:
    problem, batch, _ = checks.behaving()
    learner = set_up(MapElites(6, cells=3, sigma=0.3), problem)
    start = problem.flat()
    learner.candidates[:] = torch.nan
    told = learner.step(batch).scalars
    assert float(told["coverage"]) == 0.0
    assert torch.equal(problem.flat(), start)
    learner.candidates[:3] = torch.nan
    assert float(learner.step(batch).scalars["coverage"]) > 0
    assert learner.genomes.isfinite().all()
    assert float(told["qd_score"]) == 0.0


def test_who_behaves_by_no_number_takes_no_cell_however_good() -> None:
    problem, batch, _ = checks.behaving(view=lambda seen: seen.where(seen > 0.9, torch.nan))
    learner = set_up(MapElites(12, cells=5, sigma=0.3), problem)
    for _ in range(20):
        told = learner.step(batch).scalars
    assert 0 < float(told["coverage"]) < 1
    assert bool((learner.genomes[:, :2] > 0.9).all())


def test_problems_without_behaviour_and_grids_too_fine_are_refused() -> None:
    with pytest.raises(Refused, match=r"MapElites needs a behaviour descriptor; task toy with model mlp offers none"):
        set_up(MapElites(), toy()[0])
    with pytest.raises(AltpropError, match=r"algorithm.cells=1001 along 2 numbers are 1002001 cells"):
        set_up(MapElites(cells=1001), checks.behaving()[0])
    with pytest.raises(AltpropError, match=r"a descriptor lies between low and high"):
        Descriptor(("x",), (1.0,), (1.0,))
    with pytest.raises(AltpropError, match=r"a descriptor has as many bounds as names"):
        Descriptor(("x", "y"), (0.0,), (1.0,))
