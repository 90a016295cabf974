"""Methods with a whole curvature matrix: whom a saddle draws and repels, what is trusted, refused, and survived."""

import mmap
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from altprop.algorithms.second_order import dense
from altprop.algorithms.second_order.gauss_newton import GaussNewton
from altprop.algorithms.second_order.natural_gradient import NaturalGradient
from altprop.algorithms.second_order.newton import Newton
from altprop.algorithms.second_order.saddle_free_newton import SaddleFreeNewton, repelled
from altprop.data import Batch
from altprop.errors import AltpropError, Refused
from altprop.flops import count_flops
from altprop.testing import make_problem, set_up, toy

TRUSTED = [Newton, SaddleFreeNewton, GaussNewton]


def resident() -> int:
    """Return the bytes of this process in memory; 0 where the system does not tell."""
    told = Path("/proc/self/statm")
    return int(told.read_text().split()[1]) * mmap.PAGESIZE if told.exists() else 0


def saddle(x: torch.Tensor) -> torch.Tensor:
    return x[0] ** 2 - x[1] ** 2 + x[1] ** 4


def test_newton_falls_into_the_saddle_that_saddle_free_newton_leaves(point: Any) -> None:
    problem, batch = point(saddle, (1.0, 1e-3))
    rule = set_up(Newton(0.0, "full"), problem)
    for _ in range(5):
        rule.step(batch)
    assert float(problem.flat().norm()) < 1e-12
    problem, batch = point(saddle, (1.0, 1e-3))
    other = set_up(SaddleFreeNewton(1e-4), problem)
    told = [other.step(batch).scalars for _ in range(40)]
    assert float(told[0]["least_curvature"]) == pytest.approx(-2, abs=1e-4)
    assert float(problem.objective(batch)) == pytest.approx(-0.25)


@pytest.mark.parametrize(
    ("after", "predicted", "taken", "damping", "growth"),
    [
        (0.0, 1.0, True, 1 / 3, 2.0),  # rho 1
        (0.5, 1.0, True, 1.0, 2.0),  # rho .5
        (0.9, 1.0, True, 1.512, 2.0),  # rho .1: 1 + .8^3
        (1.0, 1.0, False, 4.0, 8.0),  # no decrease
        (1.5, 1.0, False, 4.0, 8.0),
        (0.5, -1.0, False, 4.0, 8.0),  # a model that predicts an increase
        (float("nan"), 1.0, False, 4.0, 8.0),
        (-float("inf"), 1.0, False, 4.0, 8.0),
    ],
)
def test_what_is_trusted(after: float, predicted: float, taken: bool, damping: float, growth: float) -> None:
    given = (torch.tensor(one, dtype=torch.float64) for one in (1.0, 4.0, 1.0, after, predicted))
    found = dense.judged(*given)
    assert (bool(found.taken), float(found.growth)) == (taken, growth)
    assert float(found.damping) == pytest.approx(damping)


@pytest.mark.parametrize("rule", TRUSTED)
def test_the_loss_never_rises_and_a_quadratic_is_predicted_exactly(rule: Any) -> None:
    problem, batch = toy((3, 4, 2), rows=20, loss="half_squared_error")
    learner = set_up(rule(), problem)
    losses = [float(learner.step(batch).loss) for _ in range(15)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.7 * losses[0]
    problem, batch = toy((4, 2), rows=20, loss="half_squared_error")
    assert float(set_up(rule(0.1), problem).step(batch).scalars["rho"]) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("rule", [*TRUSTED, NaturalGradient])
def test_what_is_not_finite_leaves_the_weights(rule: Any) -> None:
    problem, batch = toy((3, 4, 2))
    learner = set_up(rule(), problem)
    learner.step(batch)
    before = problem.flat()
    result = learner.step(Batch(batch.inputs * float("nan"), batch.targets, batch.index))
    assert float(result.scalars.get("taken", result.scalars.get("clip"))) == 0.0  # type: ignore[arg-type]
    assert torch.equal(problem.flat(), before)
    learner.step(batch)
    assert not torch.equal(problem.flat(), before)


def test_a_system_without_a_solution_gives_no_step() -> None:
    matrix, gradient = torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([1.0, -1.0])
    assert dense.solved(matrix, 0.0, gradient).tolist() == [0.0, 0.0]
    assert dense.solved(matrix, 1.0, gradient).tolist() == [-1.0, 1.0]
    assert repelled(matrix * float("nan"), 0.1, gradient)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("trust", "clips"), [(1e-6, True), (1e6, False)])
def test_the_natural_gradient_changes_the_distribution_by_what_it_is_trusted_with(trust: float, clips: bool) -> None:
    problem, batch = toy()
    loss = float(problem.objective(batch))
    before = problem.outputs(batch).detach().log_softmax(1)
    clip = float(set_up(NaturalGradient(1.0, 1e-3, trust), problem).step(batch).scalars["clip"])
    after = problem.outputs(batch).detach().log_softmax(1)
    assert (clip < 1) == clips
    if clips:
        assert float(problem.objective(batch)) < loss
        divergence = float((before.exp() * (before - after)).sum(1).mean())
        assert 0.3 * trust < divergence < 1.1 * trust


@pytest.mark.parametrize("rule", [*TRUSTED, NaturalGradient])
def test_the_books_agree(rule: Any) -> None:
    problem, batch = toy((3, 4, 2), rows=12)
    learner = set_up(rule(), problem)
    for _ in range(6):
        before = problem.ledger.flops
        counted = count_flops(lambda: learner.step(batch))
        assert problem.ledger.flops - before == pytest.approx(counted, rel=0.01)


def test_a_large_model_is_refused_at_once_with_need_limit_override_and_another_choice() -> None:
    problem = make_problem(toy((64, 500, 500, 74))[0].model, "cross_entropy", train_size=1000)
    started, held = time.perf_counter(), resident()
    with pytest.raises(Refused) as caught:
        Newton().setup(problem)
    assert time.perf_counter() - started < 1
    assert resident() - held < 50e6
    assert str(caught.value) == (
        "newton needs a matrix of 320,074 x 320,074 numbers (8.2e+02 GB), above algorithm.largest=4,000,000; raise "
        "that, or try a smaller model or algorithm=newton_cg, which needs products with the Hessian alone"
    )
    with pytest.raises(Refused, match="1,000 x 3 x 11 numbers"):
        GaussNewton(largest=2e4).setup(make_problem(toy((4, 1, 3))[0].model, "cross_entropy", train_size=1000))
    for make in (
        lambda: Newton(-1),
        lambda: Newton(step="half"),
        lambda: SaddleFreeNewton(0),
        lambda: NaturalGradient(0),
    ):
        with pytest.raises(AltpropError):
            make()
