"""The controls: their oracles, their mutants, and that a real learner beats each of them."""

from typing import Any

import pytest
import torch

from altprop.algorithm import Algorithm
from altprop.algorithms.backprop.backprop import Backprop
from altprop.algorithms.control.frozen_features import FrozenFeatures
from altprop.algorithms.control.null import Null
from altprop.algorithms.control.random_direction import RandomDirection
from altprop.algorithms.control.shuffled_labels import ShuffledLabels
from altprop.algorithms.dropout.standard import StandardDropout
from altprop.data import Batch, ModelSpec
from altprop.errors import Refused
from altprop.flops import CountingMode
from altprop.models.point import Point
from altprop.optim import OptimizerFactory
from altprop.randomness import generator_for
from altprop.testing import make_problem, toy

CONTROLS = [Null, RandomDirection, FrozenFeatures, ShuffledLabels]
SGD = OptimizerFactory("torch.optim.SGD", lr=0.2)


def make(kind: type[Algorithm]) -> Algorithm:
    arguments: dict[str, Any] = {} if kind is Null else {"optimizer": SGD}
    return kind(**arguments)


@pytest.mark.parametrize("kind", CONTROLS)
@pytest.mark.parametrize("noise", [None, 0.3])
def test_books_are_exact(kind: type[Algorithm], noise: float | None) -> None:
    problem, batch = toy(noise=None if noise is None else StandardDropout(noise))
    rule = make(kind)
    rule.setup(problem)
    seen = 0
    for _ in range(6):
        mode = CountingMode()
        with mode:
            rule.step(batch)
        seen += sum(mode.flops.values())
    assert problem.ledger.flops == seen
    updates = 0 if kind is Null else 6
    backwards = {Null: 0, RandomDirection: 6, FrozenFeatures: 6 / 3, ShuffledLabels: 6}[kind]
    assert (problem.ledger.forwards, problem.ledger.backwards, problem.ledger.updates) == (6, backwards, updates)


def test_random_direction_draws_from_the_run_alone() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        problem, batch = toy()
        rule = make(RandomDirection)
        rule.setup(problem)
        for _ in range(3):
            rule.step(batch)
        return problem.flat()

    before = torch.get_rng_state()
    try:
        assert torch.equal(weights(1), weights(2))
        assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(2).get_state())
    finally:
        torch.set_rng_state(before)


def test_random_direction_of_no_gradient_is_no_direction() -> None:
    problem, _ = toy()
    rule = RandomDirection(SGD)
    rule.setup(problem)
    direction = rule.drawn({name: torch.zeros_like(p) for name, p in problem.params.items()})
    assert all(float(value.abs().max()) == 0.0 for value in direction.values())


def test_frozen_features_under_dropout_is_the_last_blocks_gradient_of_the_masked_net() -> None:
    problem, batch = toy(noise=StandardDropout(0.4, p_input=0.2))
    rule = FrozenFeatures(SGD)
    rule.setup(problem)
    problem.begin_step(2)
    loss, ours = rule.direction(batch)
    problem.begin_step(2)
    expected, theirs = problem.gradient(batch)
    assert abs(float(loss - expected)) < 1e-15
    assert max(float((ours[n] - theirs[f"blocks.2.{n}"]).abs().max()) for n in ours) < 1e-15


def test_frozen_features_ends_where_logistic_regression_on_them_ends() -> None:
    """The objective is convex in the last block: its gradient there vanishes, whatever lies below."""
    problem, batch = toy(rows=60, sizes=(5, 7, 3))
    rule = FrozenFeatures(OptimizerFactory("torch.optim.SGD", lr=1.0, momentum=0.9))
    rule.setup(problem)
    for _ in range(3000):
        rule.step(batch)
    gradient = problem.gradient(batch)[1]
    assert float(gradient["blocks.1.weight"].norm()) < 1e-6
    assert float(gradient["blocks.0.weight"].norm()) > 1e-3


def test_a_learner_beats_every_control() -> None:
    """300 steps on 40 random rows: backprop learns them, random features less, chance and null not."""
    ends = {}
    for kind in (Null, RandomDirection, FrozenFeatures, Backprop):
        problem, batch = toy(rows=40, sizes=(5, 20, 3))
        rule = make(kind)
        rule.setup(problem)
        for _ in range(300):
            rule.step(batch)
        ends[kind] = float(problem.objective(batch))
    assert ends[Backprop] < ends[FrozenFeatures] < ends[Null]
    assert ends[Backprop] < 0.8 * ends[RandomDirection]
    assert ends[RandomDirection] > 0.9 * ends[Null]


def test_refusals() -> None:
    problem, _ = toy()
    for kind in (RandomDirection, FrozenFeatures):
        with pytest.raises(Refused, match="this rule's direction is no gradient"):
            kind(OptimizerFactory("torch.optim.LBFGS")).setup(problem)
    point = make_problem(Point(ModelSpec((1,), 2, start=(1.0, 1.0)), generator=generator_for(0)), "mse")
    with pytest.raises(Refused, match="FrozenFeatures needs a model made of blocks"):
        FrozenFeatures(SGD).setup(point)


def test_null_and_random_direction_run_on_a_bare_point() -> None:
    point = make_problem(Point(ModelSpec((1,), 2, start=(1.0, 1.0)), generator=generator_for(0)), "mse")
    batch = Batch(torch.zeros(1, 1).double(), torch.zeros(1, 2).double(), torch.arange(1))
    for kind in (Null, RandomDirection):
        rule = make(kind)
        rule.setup(point)
        assert float(rule.step(batch).loss or 0.0) > 0
