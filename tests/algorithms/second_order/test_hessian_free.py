"""Hessian-free steps: which iterate is taken, what a solve begins with, and what a breakdown leaves."""

from typing import Any

import pytest
import torch

from altprop.algorithms.second_order.conjugate_gradient import preconditioned
from altprop.algorithms.second_order.diagonal_gauss_newton import DiagonalGaussNewton
from altprop.algorithms.second_order.hessian_free import HessianFree
from altprop.data import Batch
from altprop.errors import AltpropError, Refused
from altprop.flops import count_flops
from altprop.testing import set_up, toy


def matrix(size: int) -> torch.Tensor:
    draw = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return draw @ draw.T / size + torch.diag(torch.logspace(-3, 3, size, dtype=torch.float64))


def test_a_good_scale_saves_iterations_and_values_are_those_of_the_quadratic() -> None:
    a, g = matrix(60), torch.ones(60, dtype=torch.float64)
    plain, scaled = (
        preconditioned(lambda v: a @ v, g, torch.zeros_like(g), scale, 300, 5e-4)
        for scale in (torch.ones_like(g), a.diagonal())
    )
    assert scaled.iterations < 0.5 * plain.iterations
    for path in (plain, scaled):
        assert path.values == pytest.approx([float(g @ d + 0.5 * d @ a @ d) for d in path.iterates], rel=1e-9)
        assert path.values == sorted(path.values, reverse=True)
    best = -0.5 * float(g @ torch.linalg.solve(a, g))
    assert scaled.values[-1] == pytest.approx(best, rel=0.01)
    assert scaled.values[-1] > best


def test_a_solve_ends_at_curvature_that_is_not_positive() -> None:
    a, g = torch.diag(torch.tensor([1.0, -1.0])), torch.tensor([1.0, 1.0])
    path = preconditioned(lambda v: a @ v, g, torch.zeros(2), torch.ones(2), 10, 0.0)
    assert (path.iterations, len(path.iterates), path.values) == (1, 1, [0.0])
    path = preconditioned(lambda v: float("nan") * v, g, torch.zeros(2), torch.ones(2), 10, 0.0)
    assert path.iterates[-1].tolist() == [0.0, 0.0]


def test_it_goes_back_to_the_iterate_where_the_objective_is_lowest(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, batch = toy()
    rule = set_up(HessianFree(), problem)
    values = {0: 9.0, 1: 2.0, 2: 1.0, 3: 3.0, 4: 4.0}
    path: Any = type("Path", (), {"iterates": list(range(5))})
    monkeypatch.setattr(rule, "_along", lambda start, direction, batch: lambda step: values[direction])
    assert rule._best(path, batch) == (2, 1.0)
    values[4] = 0.5
    assert rule._best(path, batch) == (4, 0.5)
    values[4] = float("nan")
    assert rule._best(path, batch) == (2, 1.0)


def test_a_solve_begins_at_a_share_of_the_last_solution_and_the_loss_falls() -> None:
    problem, batch = toy()
    rule = set_up(HessianFree(), problem)
    losses = []
    for _ in range(8):
        given = rule.start.clone()
        path = rule.solve(problem.linearize(batch), rule.scale(batch))
        assert torch.equal(path.iterates[0], given)
        losses.append(float(rule.step(batch).loss))
        assert torch.allclose(rule.start, 0.95 * path.iterates[-1], rtol=1e-12)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("rho", "damping"), [(0.24, 3.0), (0.25, 2.0), (0.75, 2.0), (0.76, 4 / 3), (float("nan"), 3.0)]
)
def test_damping_follows_the_reduction_ratio(rho: float, damping: float) -> None:
    rule = HessianFree(2.0)
    rule._adapt(rho)
    assert rule.damping == pytest.approx(damping)


def test_the_ratio_is_one_where_the_model_is_the_function() -> None:
    problem, batch = toy((4, 3), rows=20, loss="half_squared_error")
    assert set_up(HessianFree(0.3), problem).step(batch).scalars["rho"] == pytest.approx(1.0, abs=1e-9)


def test_what_is_not_finite_leaves_the_weights_and_raises_damping() -> None:
    problem, batch = toy()
    rule = set_up(HessianFree(), problem)
    rule.step(batch)
    before, damping = problem.flat(), rule.damping
    result = rule.step(Batch(batch.inputs * float("nan"), batch.targets, batch.index))
    assert result.scalars["step"] == 0.0
    assert torch.equal(problem.flat(), before)
    assert rule.damping == 1.5 * damping
    assert not rule.start.any()
    assert float(rule.step(batch).scalars["step"]) > 0


def test_the_books_agree() -> None:
    problem, batch = toy((3, 4, 2))
    rule = set_up(HessianFree(0.1, 7), problem)
    for _ in range(5):
        before = problem.ledger.flops
        counted = count_flops(lambda: rule.step(batch))
        assert problem.ledger.flops - before == pytest.approx(counted, rel=0.01)


def test_the_diagonal_is_averaged_and_survives_what_is_not_finite() -> None:
    problem, batch = toy()
    rule = set_up(DiagonalGaussNewton(every=2, decay=0.6, momentum=0.0, fisher="empirical"), problem)
    seen = []
    for _ in range(3):
        rule.step(batch)
        seen.append(rule.scales[0])
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    before = problem.flat()
    rule.taken = 0
    broken = Batch(batch.inputs * float("nan"), batch.targets, batch.index)
    assert float(rule.step(broken).scalars["clip"]) == 0.0
    assert torch.equal(problem.flat(), before)
    assert torch.equal(rule.scales[0], seen[2])


def test_a_step_divides_by_the_damped_diagonal() -> None:
    problem, batch = toy()
    rule = set_up(DiagonalGaussNewton(lr=0.5, momentum=0.0, damping=0.1, trust=1e9, fisher="type-2"), problem)
    before, grads = problem.flat(), problem.gradient(batch)[1]
    rule.step(batch)
    moved = problem.unflatten(problem.flat() - before)["blocks.1.weight"]
    expected = -0.5 * grads["blocks.1.weight"] / (rule.scales[1][:, :-1] + 0.1)
    assert torch.allclose(moved, expected, rtol=1e-12)


def test_refusals_and_bad_options() -> None:
    with pytest.raises(Refused, match="batch normalisation"):
        HessianFree().setup(toy(normalisation="batch")[0])
    with pytest.raises(Refused, match="diagonal_gauss_newton has factors"):
        DiagonalGaussNewton().setup(toy(normalisation="layer")[0])
    for make in (lambda: HessianFree(-1), lambda: HessianFree(iterations=0), lambda: DiagonalGaussNewton(every=0)):
        with pytest.raises(AltpropError):
            make()
