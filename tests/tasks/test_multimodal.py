"""Functions of many local minima: DEAP's values, the known minimum, derivatives, and that minima are many."""

import pytest
import torch
from deap import benchmarks

from altprop.errors import AltpropError
from altprop.tasks.multimodal import MULTIMODAL, Multimodal


@pytest.mark.parametrize("dimension", [2, 7])
@pytest.mark.parametrize("which", MULTIMODAL)
def test_values_are_deaps_and_the_derivatives_their_own(which: str, dimension: int) -> None:
    task = Multimodal(function=which, dimension=dimension)
    function = task.function
    points = 3 * torch.randn(5, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    theirs = [getattr(benchmarks, which)(point)[0] for point in points.tolist()]
    assert function.per_element(points, points).tolist() == pytest.approx(theirs, rel=1e-12)
    assert task.reference.chance == pytest.approx(getattr(benchmarks, which)(task.start)[0], rel=1e-12)
    step, units = 1e-6, torch.eye(dimension, dtype=torch.float64)
    for point in points:
        slopes = [function.value(point + step * unit) - function.value(point - step * unit) for unit in units]
        gradient = function.gradient(point[None], point)[0]
        torch.testing.assert_close(gradient, torch.stack(slopes) / (2 * step), rtol=1e-6, atol=1e-4)
        bends = [function.gradient(p[None], p)[0] for p in (point + step * units[0], point - step * units[0])]
        product = function.curvature_product(point[None], units[:1])[0]
        torch.testing.assert_close(product, (bends[0] - bends[1]) / (2 * step), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("which", MULTIMODAL)
def test_the_minimum_is_0_at_0_and_a_fixed_point(which: str) -> None:
    task = Multimodal(function=which, dimension=4)
    zero = torch.zeros(1, 4, dtype=torch.float64)
    assert float(task.function.per_element(zero, zero)) == task.function.minimum == 0.0
    assert task.function.gradient(zero, zero).tolist() == [[0.0] * 4]
    assert task.function.curvature_product(zero, zero + 1).isfinite().all()
    assert float(task.function.per_element(zero + 1e-3, zero)) > 0


@pytest.mark.parametrize("which", MULTIMODAL)
def test_minima_are_many(which: str) -> None:
    """Along the first axis from 0 to 5: Rastrigin has one near each whole number, Schaffer one in each ring."""
    points = torch.zeros(50001, 2, dtype=torch.float64)
    points[:, 0] = torch.linspace(0, 5.0, 50001, dtype=torch.float64)
    values = Multimodal(function=which, dimension=2).function.per_element(points, points)
    lower = (values[1:-1] < values[:-2]) & (values[1:-1] < values[2:])
    found = points[1:-1, 0][lower]
    if which == "rastrigin":
        assert (found - torch.arange(1, len(found) + 1)).abs().max() < 0.03
        assert len(found) == 5
    else:
        assert len(found) > 10


def test_bad_options() -> None:
    with pytest.raises(AltpropError, match=r"task\.function=ackley"):
        Multimodal(function="ackley")
    with pytest.raises(AltpropError, match=r"task\.dimension must be a whole number of at least 2"):
        Multimodal(function="schaffer", dimension=1)
