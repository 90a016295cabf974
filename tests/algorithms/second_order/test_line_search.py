"""The line search and the conjugate gradient method, as parts of their own."""

import math
from typing import Any

import pytest
import torch

from altprop.algorithms.second_order import conjugate_gradient as cg_module
from altprop.algorithms.second_order import line_search
from altprop.algorithms.second_order.conjugate_gradient import conjugate_gradient
from altprop.algorithms.second_order.line_search import Backtracking


def spd(n: int, seed: int = 0) -> Any:
    draw = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draw @ draw.T + torch.eye(n, dtype=torch.float64)


def table(values: dict[float, float]) -> Any:
    """Return a function that is known at a few steps; any other must not be tried."""

    def phi(step: float) -> float:
        assert step in values, f"tried {step}"
        return values[step]

    return phi


def check_search(module: Any) -> None:
    search = module.Backtracking()
    # Newton's step on a quadratic is taken as it is.
    found = search.search(lambda a: (a - 1) ** 2, 1.0, -2.0)
    assert (found.step, found.evaluations) == (1.0, 1)
    # A parabola is minimised by the first interpolation, where it lies within the bounds.
    found = search.search(lambda a: 2 * a * a - a, 0.0, -1.0)
    assert (found.step, found.value, found.first, found.evaluations) == (0.25, -0.125, 1.0, 2)
    # Armijo's condition: a decrease that is no fair share of the promise is refused; trials shrink by .1 to .5.
    found = module.Backtracking(share=0.1).search(table({1.0: -0.05, 0.5: -0.04, 0.25: -0.2}), 0.0, -1.0)
    assert (found.step, found.value, found.first, found.evaluations) == (0.25, -0.2, -0.05, 3)
    found = search.search(table({1.0: 1000.0, 0.1: -0.01}), 0.0, -1.0)
    assert (found.step, found.evaluations) == (0.1, 2)
    # What is not finite is refused and divides by ten.
    found = search.search(lambda a: math.nan if a > 0.05 else -a, 0.0, -1.0)
    assert found.step == pytest.approx(0.01)
    assert math.isnan(found.first)
    # No decrease anywhere: nothing is taken.
    found = search.search(lambda a: a, 0.0, -1.0)
    assert (found.step, found.value, found.evaluations) == (0.0, 0.0, 20)
    # Expansion: as long as it falls.
    found = search.search(lambda a: (a - 5) ** 2, 25.0, -10.0, growth=2.0)
    assert (found.step, found.value, found.first, found.evaluations) == (4.0, 1.0, 16.0, 4)
    found = search.search(lambda a: -a, 0.0, -1.0, growth=2.0)
    assert (found.step, found.evaluations) == (2.0**19, 20)


def test_search() -> None:
    check_search(line_search)


@pytest.mark.parametrize("slope", [0.0, 1.0, math.nan])
def test_a_direction_that_does_not_descend_is_refused(slope: float) -> None:
    with pytest.raises(ValueError, match="direction of descent"):
        Backtracking().search(lambda a: a, 0.0, slope)


def check_cg(module: Any) -> None:
    solve = module.conjugate_gradient
    a, g = spd(12), torch.randn(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = -torch.linalg.solve(a, g)
    products = []

    def product(v: torch.Tensor) -> torch.Tensor:
        products.append(v)
        return a @ v

    full = solve(product, g, 12, 0.0)
    assert float((full.direction - exact).norm() / exact.norm()) <= 1e-10
    assert len(products) == full.iterations == 12
    assert full.bend == pytest.approx(float(exact @ a @ exact), rel=1e-9)
    half = solve(product, g, 6, 0.0)
    assert float((half.direction - exact).norm() / exact.norm()) > 1e-3
    # Search directions are conjugate, and every iterate descends further.
    p = torch.stack(products[:12])
    normalised = p / (p @ a * p).sum(1).sqrt()[:, None]
    assert float((normalised @ a @ normalised.T - torch.eye(12)).abs().max()) <= 1e-8
    models = []
    for k in range(1, 12):
        d = solve(product, g, k, 0.0).direction
        models.append(float(g @ d + 0.5 * d @ a @ d))
    assert models == sorted(models, reverse=True)
    # The stop rule is on the residual relative to the gradient.
    loose = solve(product, g, 12, 0.5)
    residuals = [float((g + a @ solve(product, g, k, 0.0).direction).norm() / g.norm()) for k in range(1, 13)]
    assert loose.iterations == next(k for k, r in enumerate(residuals, 1) if r <= 0.5)
    # Negative curvature: at once, steepest descent; later, the direction so far.
    bowl = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    down = torch.tensor([0.1, 1.0], dtype=torch.float64)
    exited = solve(lambda v: bowl @ v, down, 5, 0.0)
    assert exited.negative
    assert torch.equal(exited.direction, -down)
    assert exited.bend == pytest.approx(float(down @ bowl @ down))
    across = torch.tensor([1.0, 0.1], dtype=torch.float64)
    exited = solve(lambda v: bowl @ v, across, 5, 0.0)
    assert exited.negative
    assert exited.iterations == 2
    length = float(across @ across / (across @ bowl @ across))
    assert torch.allclose(exited.direction, -length * across, rtol=1e-15)
    blind = solve(lambda v: bowl @ v, across, 2, 0.0, exit_at_negative=False)
    assert torch.allclose(blind.direction, torch.tensor([-1.0, 0.1], dtype=torch.float64), rtol=1e-12)
    # Nothing to solve.
    assert solve(product, 0 * g, 5, 0.0).iterations == 0


def test_conjugate_gradient() -> None:
    check_cg(cg_module)


def test_flops_are_the_inner_products() -> None:
    from altprop.flops import count_flops

    a, g = spd(12), torch.ones(12, dtype=torch.float64)
    saddle = torch.diag(torch.linspace(-1, 2, 12, dtype=torch.float64))
    for matrix, iterations in ((a, 1), (a, 7), (saddle, 12)):
        made = conjugate_gradient(lambda v, m=matrix: m @ v, g, iterations, 0.0)
        counted = count_flops(lambda m=matrix, k=iterations: conjugate_gradient(lambda v: m @ v, g, k, 0.0))
        assert counted == made.flops + made.iterations * 2 * 12 * 12
