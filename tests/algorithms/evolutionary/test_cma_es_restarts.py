"""Restarts: when a run ends, what the next one is, and that they find what a single run misses."""

import math

import pytest
import torch
from torch import Tensor

from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.cma_es import CMAES
from altprop.algorithms.evolutionary.cma_es_restarts import RestartedCMAES
from altprop.errors import AltpropError
from altprop.testing import set_up, toy_point


def rastrigin(flat: Tensor) -> Tensor:
    return 10 * flat.shape[-1] + (flat.square() - 10 * (2 * math.pi * flat).cos()).sum(-1)


def posed(function, **options):
    problem, batch = toy_point([0.0] * 3, [3.0] * 3)
    checks.pose(problem, function)
    return set_up(RestartedCMAES(**options), problem), batch


def test_larger_populations_find_what_a_single_run_misses():
    """Rastrigin's function in 3 dimensions from (3, 3, 3): 1,400 to 9,000 evaluations in 4 seeds, never without."""

    def took(make, seed):
        return checks.evaluations(make, rastrigin, seed, start=3.0, size=3, limit=10000)

    assert max(took(lambda: RestartedCMAES(region=5.0, sigma=2.0), seed) for seed in range(2)) < 10000
    assert took(lambda: CMAES(sigma=0.5), 0) >= 10000


def test_a_flat_fitness_ends_a_run_after_its_span():
    learner, batch = posed(lambda flat: flat.sum(1) * 0)
    first, span = learner.offspring, learner.span
    assert (first, span) == (4 + math.floor(3 * math.log(3)), 10 + math.ceil(90 / first))
    seen = [learner.step(batch).scalars["population"] for _ in range(span + 1)]
    assert seen == [first] * span + [2 * first]
    assert learner.restarts == 1
    assert float((learner.start - learner.search.problem.flat()).abs().max()) < 1  # nothing better: near the start


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_no_numbers_are_no_progress(value):
    learner, batch = posed(lambda flat: flat.sum(1) * 0 + value)
    for _ in range(learner.span):
        learner.step(batch)
    assert learner.restarts == 1
    assert torch.equal(learner.problem.flat(), learner.start)


def test_the_model_is_the_best_individual_that_was_ever_seen():
    learner, batch = posed(rastrigin, sigma=1.0)
    least = float(rastrigin(learner.start[None]))
    for _ in range(30):
        least = min(least, learner.step(batch).scalars["best_fitness"])
        assert float(rastrigin(learner.problem.flat()[None])) == least


def test_a_width_that_explodes_or_vanishes_ends_a_run():
    for width in (1e-11 * 1e-3, 1e6):
        learner, batch = posed(rastrigin, sigma=0.1)
        learner.step(batch)
        learner.search.sigma = learner.search.sigma * 0 + width
        learner.step(batch)
        assert (learner.restarts, float(learner.search.sigma)) == (1, 0.1)


@pytest.mark.parametrize(("least", "ended"), [(1e-15, True), (1e-13, False)])
def test_a_covariance_that_is_too_long_ends_a_run(least, ended):
    learner, batch = posed(checks.sphere)
    learner.step(batch)
    learner.search.covariance = torch.diag(torch.tensor([1.0, 1.0, least], dtype=torch.float64))
    assert learner._has_stopped(torch.ones(4)) == ended


def test_two_regimes_take_turns_by_what_they_spent():
    """The large one doubles; the small one has lambda_0 to half the large one, and half the large one's evaluations."""
    learner, batch = posed(lambda flat: flat.sum(1) * 0, schedule="bipop")
    runs = []
    for _ in range(400):
        before, small, offspring, spent = learner.restarts, learner.small, learner.offspring, list(learner.spent)
        learner.step(batch)
        assert sum(learner.spent) - sum(spent) == offspring
        if learner.restarts > before:
            runs.append((small, offspring))
            assert learner.small == (learner.restarts > 1 and learner.spent[1] < learner.spent[0])
    large = [offspring for small, offspring in runs if not small]
    assert large == [large[0] * 2**i for i in range(len(large))]
    small = [offspring for small, offspring in runs if small]
    assert len(small) >= 2
    assert large[0] <= min(small) <= max(small) <= large[-1]


def test_a_grown_population_resumes():
    def make():
        return posed(rastrigin, tolerance=100.0)

    (first, batch), (second, _) = make(), make()
    for _ in range(first.span + 2):
        first.step(batch)
    assert first.restarts == 1
    second.restore({"problem": first.problem.state_dict(), "algorithm": first.state_dict()})
    for _ in range(5):
        first.step(batch), second.step(batch)
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.problem.flat(), second.problem.flat())


def test_bad_values_are_refused():
    with pytest.raises(AltpropError, match="did you mean ipop"):
        RestartedCMAES(schedule="ipops")
