"""Novelty in the place of an objective: what the oracles of novelty_search leave open."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from scipy.stats import fisher_exact
from torch import Tensor

from altprop import Algorithm, Capability, Descriptor
from altprop.algorithms.evolutionary import checks, novelty_search
from altprop.algorithms.evolutionary.genetic import Genetic
from altprop.algorithms.evolutionary.novelty_search import NoveltySearch, nearest_mean
from altprop.errors import AltpropError, Refused
from altprop.testing import set_up, toy, toy_point


def test_with_fitness_in_the_place_of_novelty_it_is_genetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, at progress 0 and without an archive; with one its draws make it another run."""
    ends = []
    for archived in (0, 1):
        problem, batch, seen = checks.behaving(seed=3)
        monkeypatch.setattr(novelty_search, "nearest_mean", lambda *_, seen=seen: 100 - seen[-1].values)
        learner = set_up(NoveltySearch(10, neighbours=3, archived=archived, sigma=0.2), problem)
        for _ in range(12):
            learner.step(batch)
        ends.append(learner.genomes)
    problem, batch = toy_point([0.0] * 6, [1.0] * 6, seed=3)
    genetic = set_up(Genetic(10, sigma=0.2), problem)
    for _ in range(12):
        genetic.step(batch)
    assert torch.equal(ends[0], genetic.genomes)
    assert not torch.equal(ends[1], genetic.genomes)


def test_everyone_enters_the_archive_equally_often() -> None:
    """2 of 5 in 600 generations: chi^2 with 4 degrees of freedom exceeds 18.5 once in 1000."""
    problem, batch, seen = checks.behaving()
    learner = set_up(NoveltySearch(5, neighbours=1, archived=2, elites=0, pressure=1), problem)
    counts = torch.zeros(5, dtype=torch.float64)
    for _ in range(600):
        learner.archive = learner.archive[:0]
        learner.step(batch)
        own = learner._scaled(seen[-1].behaviour)
        counts += (own[:, None] == learner.archive).all(2).any(1)
    assert float(counts.sum()) == 1200
    assert float(((counts - 240) ** 2 / 240).sum() * 5 / 3) < 18.5  # of draws without repeats


def test_behaviour_is_in_shares_of_its_span() -> None:
    """What lies beyond the span is on its bound; what is no number has no novelty, and gives nobody any."""
    problem, batch, _ = checks.behaving()
    learner = set_up(NoveltySearch(4, neighbours=2, archived=4, elites=3), problem)
    behaviour = torch.tensor([[-2.0, 1.0], [0.0, -4.0], [9.0, -1.0], [torch.nan, 0.0]], dtype=torch.float64)
    expected = [[0.0, 1.0], [0.5, 0.0], [1.0, 0.5], [torch.nan, 0.75]]
    assert torch.equal(learner._scaled(behaviour).nan_to_num(-1.0), torch.tensor(expected).double().nan_to_num(-1.0))
    seen = learner._scaled(behaviour)
    assert torch.equal(nearest_mean(seen, seen, 2)[:3], nearest_mean(seen[:3], seen[:3], 2))
    learner.genomes[2] = torch.nan
    chosen: list[Tensor] = []
    learner._children = lambda novelty, random: chosen.append(novelty) or learner.genomes[:1]  # type: ignore[method-assign, func-returns-value]
    told = learner.step(batch).scalars
    assert chosen[0][2] == 0 < float(chosen[0].max())
    assert learner.genomes.isfinite().all()  # the least novel one of four is not among the three elites
    assert torch.isfinite(torch.as_tensor(told["record"]))
    assert told["archive"] == 4.0
    assert float(told["mean_novelty"]) == pytest.approx(float(chosen[0].mean()))


def test_elites_are_the_most_novel() -> None:
    problem, batch, seen = checks.behaving()
    learner = set_up(NoveltySearch(8, neighbours=2, archived=1, elites=3, sigma=0.5), problem)
    for _ in range(3):
        archive = learner.archive
        learner.step(batch)
        own = learner._scaled(seen[-1].behaviour)
        novelty = nearest_mean(own, torch.cat([own, archive]), 2)
        assert torch.equal(learner.genomes[:3], seen[-1].flat[novelty.argsort(descending=True)[:3]])
    assert problem.ledger.spent("evaluations") == 24


GOAL = torch.tensor([0.0, 0.9], dtype=torch.float64)
WALLS = ((1, 0.5, -0.5, 0.5), (0, -0.5, -0.2, 0.5), (0, 0.5, -0.2, 0.5))
"""Across coordinate 0 or 1 at a place, from and to along the other: a cup over the start, closed towards the goal."""


def walked(flat: Tensor) -> Tensor:
    """Return where walks of 20 moves (P, 40) from the origin end, (P, 2), none of which goes through a wall."""
    here = torch.zeros(len(flat), 2, dtype=flat.dtype)
    for move in flat.reshape(len(flat), -1, 2).unbind(1):
        there = (here + 0.25 * move.tanh()).clamp(-1, 1)
        blocked = torch.zeros(len(flat), dtype=torch.bool)
        for across, place, start, stop in WALLS:
            before, after = here[:, across] - place, there[:, across] - place
            other = here[:, 1 - across] + before / (before - after) * (there - here)[:, 1 - across]
            blocked |= (before * after < 0) & (other >= start) & (other <= stop)
        here = torch.where(blocked[:, None], here, there)
    return here


def arrives(make: Callable[[], Algorithm], seed: int, generations: int = 150) -> bool:
    """Return whether an individual of a learner ends within .2 of the goal, from which the loss is the distance."""
    problem, batch = toy_point([0.0] * 40, [0.0] * 40, seed=seed)
    problem.offers |= {Capability.BEHAVIOUR}
    problem.descriptor = Descriptor(("x", "y"), (-1.0, -1.0), (1.0, 1.0))

    def both(flat: Tensor, batch: object) -> tuple[Tensor, Tensor]:
        ends = walked(flat)
        return (ends - GOAL).norm(dim=1), ends

    problem.population_behaviour = both  # type: ignore[method-assign, assignment]
    problem.population_objective = lambda flat, batch: both(flat, batch)[0]  # type: ignore[method-assign]
    learner = set_up(make(), problem)
    return any(float(learner.step(batch).scalars["best_fitness"]) < 0.2 for _ in range(generations))


@pytest.mark.slow  # half a minute of CPU
def test_it_leaves_a_trap_that_the_objective_leads_into() -> None:
    """On seeds that chose nothing: on 0 to 8 genetic arrived once of 9, novelty search 7 times."""
    seeds = range(9, 21)
    novel = sum(arrives(partial(NoveltySearch, sigma=0.2), seed) for seed in seeds)
    greedy = sum(arrives(partial(Genetic, sigma=0.2), seed) for seed in seeds)
    table = [[novel, len(seeds) - novel], [greedy, len(seeds) - greedy]]
    print(f"novelty search arrives {novel} times of {len(seeds)}, genetic {greedy}")
    assert fisher_exact(table, alternative="greater")[1] < 0.01


def test_a_walk_stays_in_the_cup_or_goes_round_it() -> None:
    up, round_it = torch.zeros(2, 20, 2, dtype=torch.float64)
    up[:, 1] = 9.0
    round_it[:2, 1] = -9.0
    round_it[2:5, 0] = 9.0
    round_it[5:11, 1] = 9.0
    round_it[11:14, 0] = -9.0
    ends = walked(torch.stack([up.flatten(), round_it.flatten()]))
    assert ends.tolist() == [pytest.approx([0.0, 0.5], abs=1e-6), pytest.approx([0.0, 1.0], abs=1e-6)]


def test_bad_values_and_problems_without_behaviour_are_refused() -> None:
    with pytest.raises(AltpropError, match=r"algorithm.neighbours must be fewer than population=10; got 15"):
        NoveltySearch(10)
    with pytest.raises(AltpropError, match=r"algorithm.elites must be fewer than population=20; got 20"):
        NoveltySearch(elites=20)
    with pytest.raises(AltpropError, match=r"algorithm.archived must be a whole number from 0 to 20"):
        NoveltySearch(archived=21)
    with pytest.raises(Refused, match=r"NoveltySearch needs a behaviour descriptor"):
        set_up(NoveltySearch(), toy()[0])
