"""OpenAI's evolution strategy: what its oracles leave open."""

import math

import pytest
import torch

from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.openai_es import OpenAIES
from altprop.algorithms.evolutionary.population import centred_ranks
from altprop.errors import AltpropError
from altprop.testing import set_up, sgd, toy, toy_point


def test_the_estimate_is_the_papers_sum_over_single_individuals():
    problem, batch = toy()
    learner = set_up(OpenAIES(sgd(), 6, sigma=0.2), problem)
    before, mean = problem.random.state_dict(), problem.flat()
    values, gradient = learner.estimate(batch)
    problem.random.load_state_dict(before)
    draws = problem.random.normal(3, len(mean))
    expected = torch.zeros_like(mean)
    order = sorted(values.tolist())
    for row, value in enumerate(values.tolist()):
        sign = 1 if row < 3 else -1
        problem.assign(mean + sign * 0.2 * draws[row % 3])
        assert float(problem.objective(batch)) == pytest.approx(value, rel=1e-12)
        expected += (order.index(value) / 5 - 0.5) * sign * draws[row % 3] / (6 * 0.2)
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shaping", ["ranks", "none"])
def test_a_flat_fitness_moves_nothing(shaping):
    problem, batch = toy()
    checks.pose(problem, lambda flat: torch.full((len(flat),), 3.0, dtype=flat.dtype))
    learner, start = set_up(OpenAIES(sgd(), shaping=shaping), problem), problem.flat()
    learner.step(batch)
    assert torch.equal(problem.flat(), start)


def test_an_infinite_value_takes_its_pair_out():
    problem, batch = toy_point([0.0, 0.0], [1.0, 1.0])
    checks.pose(problem, lambda flat: torch.where(flat[:, 0] > 1.04, torch.nan, flat.square().sum(1) / 2))
    learner = set_up(OpenAIES(sgd(), 40, shaping="none"), problem)
    values, gradient = learner.estimate(batch)
    assert values.isinf().any()
    assert gradient.isfinite().all()
    assert float(gradient @ problem.flat()) > 0


def test_equal_values_share_their_rank():
    assert centred_ranks(torch.tensor([2.0, 1.0, 2.0, 2.0, 0.0])).tolist() == [0.25, -0.25, 0.25, 0.25, -0.5]


def test_one_generation_costs_its_individuals():
    problem, batch = toy()
    learner = set_up(OpenAIES(sgd(), 50), problem)
    learner.step(batch)
    counts = problem.ledger.summary()
    assert (counts["forwards"], counts["backwards"], counts["evaluations"], counts["updates"]) == (50, 0, 50, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 7}, "must be even"),
        ({"population": 0}, "at least 2"),
        ({"sigma": math.inf}, "algorithm.sigma must be a number above 0"),
        ({"shaping": "rank"}, "did you mean ranks"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(AltpropError, match=message):
        OpenAIES(sgd(), **options)
