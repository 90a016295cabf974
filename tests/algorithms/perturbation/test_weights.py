"""Rules that disturb all weights: what their oracles leave open."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from altprop import AltpropError, Refused
from altprop.algorithms.dropout.standard import StandardDropout
from altprop.algorithms.perturbation.finite_differences import FiniteDifferences
from altprop.algorithms.perturbation.mezo import MeZO
from altprop.algorithms.perturbation.points import differences, drawn
from altprop.algorithms.perturbation.spsa import SPSA
from altprop.algorithms.perturbation.weight_perturbation import WeightPerturbation
from altprop.conformance.case import find_target
from altprop.conformance.suite import RULES
from altprop.testing import set_up, sgd, toy, toy_point


@pytest.mark.parametrize(
    "chosen",
    ["weight_perturbation sides=2 samples=2 draw=rademacher", "spsa pairs=3 gamma=0", "mezo samples=2 lr=0.03"],
)
@pytest.mark.parametrize("rule", ["stacks_as_it_steps", "counts_what_it_does"])
def test_other_options_obey_too(chosen: str, rule: str) -> None:
    name, *options = chosen.split()
    target = find_target(name)
    overrides = tuple(f"algorithm.{option}" for option in options)
    assert RULES[rule](replace(target, overrides=(*target.overrides, *overrides))) is None


def test_mezo_beats_the_controls_at_a_learning_rate_for_a_small_model() -> None:
    target = find_target("mezo")
    assert RULES["beats_the_controls"](replace(target, overrides=(*target.overrides, "algorithm.lr=0.03"))) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: WeightPerturbation(sgd(), sigma=0),
        lambda: WeightPerturbation(sgd(), sides=3),
        lambda: WeightPerturbation(sgd(), samples=0),
        lambda: WeightPerturbation(sgd(), draw="cauchy"),
        lambda: SPSA(sgd(), c=0),
        lambda: SPSA(sgd(), gamma=-1),
        lambda: SPSA(sgd(), pairs=0),
        lambda: MeZO(lr=0),
        lambda: MeZO(epsilon=0),
        lambda: MeZO(samples=0),
        lambda: FiniteDifferences(sgd(), step=0),
        lambda: FiniteDifferences(sgd(), most_parameters=0),
    ],
)
def test_bad_options(make: Any) -> None:
    with pytest.raises(AltpropError, match=r"algorithm\."):
        make()


def test_a_large_model_is_refused_and_what_it_would_cost_is_told() -> None:
    with pytest.raises(Refused, match=r"of 111 parameters takes 222 evaluations .* algorithm=spsa"):
        set_up(FiniteDifferences(sgd(), most_parameters=110), toy()[0])
    assert set_up(FiniteDifferences(sgd(), most_parameters=111), toy()[0]).most_parameters == 111


@pytest.mark.parametrize(
    ("rule", "evaluations"),
    [
        (WeightPerturbation(sgd(), samples=3), 3 + 1),
        (WeightPerturbation(sgd(), sides=2, samples=3), 6),
        (SPSA(sgd(), pairs=3), 6),
        (MeZO(samples=3), 6),
        (FiniteDifferences(sgd()), 222),
    ],
)
def test_evaluations_are_counted_and_nothing_goes_backwards(rule: Any, evaluations: int) -> None:
    problem, batch = toy()
    set_up(rule, problem).step(batch)
    ledger = problem.ledger
    assert ledger.calls("population") + ledger.calls("forward") == evaluations
    assert ledger.backwards == 0
    assert ledger.saved_bytes == 0
    assert ledger.updates == 1


def test_running_statistics_move_once_a_step() -> None:
    for rule in (SPSA(sgd()), MeZO(), WeightPerturbation(sgd())):
        problem, batch = toy(normalisation="batch")
        set_up(rule, problem)
        for _ in range(3):
            rule.step(batch)
        moved = dict(problem.model.named_buffers())
        assert int(moved["blocks.0.norm.num_batches_tracked"]) == 3


@pytest.mark.parametrize("rule", [WeightPerturbation(sgd(), sides=1), SPSA(sgd()), MeZO(lr=0.1)])
def test_a_side_that_is_no_number_moves_nothing(rule: Any) -> None:
    problem, batch = toy_point([0.0, 0.0], [1.0, 1.0])
    set_up(rule, problem)
    nothing = torch.tensor(float("nan"), dtype=torch.float64)
    problem.population_objective = lambda flat, batch, chunk=64: nothing.expand(len(flat))  # type: ignore[method-assign]
    problem.objective = lambda batch, of=None: nothing  # type: ignore[method-assign]
    start = problem.flat()
    rule.step(batch)
    assert torch.allclose(problem.flat(), start, atol=1e-15)


def test_draws_have_mean_0_and_variance_1() -> None:
    problem, _ = toy()
    for draw in ("normal", "rademacher"):
        found = drawn(problem, draw, 100, 400)
        assert float(found.mean().abs()) < 0.02
        assert float(found.var()) == pytest.approx(1, abs=0.03)
    assert set(drawn(problem, "rademacher", 3, 9).unique().tolist()) == {-1.0, 1.0}


def test_both_sides_see_one_noise() -> None:
    problem, batch = toy(noise=StandardDropout(0.5))
    moves = torch.zeros(4, problem.flat().numel(), dtype=torch.float64)
    assert not differences(problem, batch, moves).any()
    rule = set_up(MeZO(), problem)
    rule.move = lambda seed, by: None  # type: ignore[method-assign]
    with problem.same_noise():
        assert float(rule.slope(batch, torch.tensor(1))) == 0


def test_mezo_holds_no_noise_and_no_state() -> None:
    """Nothing is saved, and no more noise is alive at once than that of one parameter."""
    problem, batch = toy((50, 40, 30, 3))
    rule = set_up(MeZO(lr=0.1), problem)
    assert rule.state_dict() == {}
    sizes = []
    plain = rule.noise
    rule.noise = lambda seed, place, p: (sizes.append(p.numel()), plain(seed, place, p))[1]  # type: ignore[method-assign]
    rule.step(batch)
    assert sizes == [p.numel() for p in problem.params.values()] * 4


def test_mezo_averages_its_seeds() -> None:
    problem, batch = toy_point([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    rule = set_up(MeZO(lr=0.1, samples=2), problem)
    before = problem.random.state_dict()
    seeds = [problem.random.integers(0, 2**62) for _ in range(2)]
    problem.random.load_state_dict(before)
    start = problem.flat()
    draws = [rule.noise(seed, 0, next(iter(problem.params.values()))).flatten() for seed in seeds]
    rule.step(batch)
    expected = start - 0.1 * sum((start @ z) * z for z in draws) / 2
    assert torch.allclose(problem.flat(), expected, atol=1e-9)
