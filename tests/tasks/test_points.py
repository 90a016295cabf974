"""Point tasks through the problem: every primitive that an algorithm may use gives the function's own derivatives."""

import math
from itertools import pairwise

import pytest
import torch

from altprop.capabilities import Capability, PredictorKind
from altprop.errors import AltpropError
from altprop.ledger import Ledger
from altprop.models.point import Point
from altprop.noise import NoiseClock
from altprop.problem import Problem
from altprop.randomness import Random
from altprop.tasks.multimodal import Multimodal
from altprop.tasks.quadratic import Quadratic
from altprop.tasks.rosenbrock import Rosenbrock
from altprop.tasks.xor import Xor

CASES = {
    "sphere": lambda: Quadratic(dimension=3, condition=1),
    "ellipsoid": lambda: Quadratic(dimension=10, condition=1e6),
    "rotated": lambda: Quadratic(dimension=5, condition=50, rotated=True),
    "one dimension": lambda: Quadratic(dimension=1),
    "rosenbrock": Rosenbrock,
    "rosenbrock in 6": lambda: Rosenbrock(dimension=6),
}


def make(task, spread=0.3, dtype=torch.float64):
    model = Point(task.spec, spread, generator=torch.Generator().manual_seed(1)).to(dtype)
    random = Random(0, "cpu", dtype)
    offers = task.offers | model.offers
    problem = Problem(model, task.loss, task.spec, Ledger(1), random, NoiseClock(0), offers, ("t", "point"), 1)
    return problem, task.data().to(torch.device("cpu"), dtype).train.whole()


def slow_value(task, theta: list[float]) -> float:
    if isinstance(task, Rosenbrock):
        return sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in pairwise(theta))
    if task.rotated:
        theta = (task.function.rotation @ torch.tensor(theta, dtype=torch.float64)).tolist()
    last = max(1, task.dimension - 1)
    return sum(task.condition ** (i / last) * x * x for i, x in enumerate(theta))


@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives_through_the_problem(case) -> None:
    task = CASES[case]()
    problem, batch = make(task)
    theta = problem.flat()
    assert batch.inputs.shape == (1, 0)
    assert batch.samples == 1
    value, grads = problem.gradient(batch)
    assert float(value) == pytest.approx(slow_value(task, theta.tolist()), rel=1e-12)
    gradient = problem.flatten(grads)
    twin = torch.autograd.functional.hessian(lambda t: task.function.per_element(t, t), theta)
    slope = torch.autograd.functional.jacobian(lambda t: task.function.per_element(t, t), theta)
    torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=1e-10)

    direction = problem.random.normal(len(theta))
    around = problem.linearize(batch)
    scale = float(twin.abs().max())
    for product in (around.hvp(direction), around.ggn_vp(direction)):
        torch.testing.assert_close(product / scale, twin @ direction / scale, rtol=1e-11, atol=1e-11)
    value_again, along = problem.jvp(batch, problem.unflatten(direction))
    assert float(value_again) == pytest.approx(float(value), rel=1e-12)
    assert float(along) == pytest.approx(float(slope @ direction), rel=1e-10)
    per_example = problem.per_example_gradients(batch)
    torch.testing.assert_close(problem.flatten({k: v[0] for k, v in per_example.items()}), slope, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_a_population_is_its_members_one_by_one(case, dtype) -> None:
    task = CASES[case]()
    problem, batch = make(task, dtype=dtype)
    flat = problem.random.normal(7, problem.flat().numel())
    found = problem.population_objective(flat, batch, chunk=3)
    expected = [slow_value(task, row.tolist()) for row in flat]
    assert found.shape == (7,)
    assert found.tolist() == pytest.approx(expected, rel=1e-12 if dtype == torch.float64 else 2e-5)
    assert problem.ledger.summary()["evaluations"] == 7


@pytest.mark.parametrize("case", CASES)
def test_the_gap_counts_from_the_minimum_and_starts_at_chance(case) -> None:
    task = CASES[case]()
    test = task.data().tests["test"]
    model = Point(task.spec, generator=torch.Generator().manual_seed(0))
    for kind in (PredictorKind.OUTPUT, PredictorKind.POINT):
        assert task.evaluate(model, test, kind)["gap"] == pytest.approx(task.reference.chance)
    best = torch.full((1, len(task.start)), 1.0 if isinstance(task, Rosenbrock) else 0.0, dtype=torch.float64)
    place = {"x": best[0, 0], "y": best[0, 1]} if len(task.start) == 2 else {}
    assert task.evaluate(lambda x: best, test, PredictorKind.POINT) == {"loss": 0.0, "gap": 0.0, **place}
    chance = task.reference.chance
    assert task.reference.targets == {"50%": 0.5 * chance, "90%": 0.1 * chance, "99%": 0.01 * chance, "1e-8": 1e-8}


def test_the_known_values() -> None:
    assert Rosenbrock().reference.chance == pytest.approx(24.2)
    assert Quadratic(dimension=10, condition=1).reference.chance == pytest.approx(10)
    ellipsoid = sum(10 ** (6 * i / 9) for i in range(10))
    assert Quadratic(dimension=10, condition=1e6).reference.chance == pytest.approx(ellipsoid)
    assert Quadratic(start=[2.0, 0.0], dimension=2, condition=9).start == (2.0, 0.0)
    assert Rosenbrock(dimension=5).start == (-1.2, 1.0, -1.2, 1.0, -1.2)


def test_newton_from_anywhere_finds_the_bottom_of_a_quadratic() -> None:
    problem, batch = make(Quadratic(dimension=5, condition=50, rotated=True))
    around = problem.linearize(batch)
    hessian = torch.stack([around.hvp(row) for row in torch.eye(5, dtype=torch.float64)])
    eigenvalues = torch.linalg.eigvalsh(hessian)
    assert float(eigenvalues[-1] / eigenvalues[0]) == pytest.approx(50)
    problem.assign(problem.flat() - torch.linalg.solve(hessian, around.gradient))
    assert float(problem.objective(batch)) < 1e-20


def test_data_seed_turns_the_rotation_alone() -> None:
    first, second = (Quadratic(rotated=True, data_seed=seed) for seed in (0, 1))
    assert not torch.equal(first.function.rotation, second.function.rotation)
    identity = first.function.rotation @ first.function.rotation.T
    torch.testing.assert_close(identity, torch.eye(10, dtype=torch.float64), rtol=0, atol=1e-14)
    hashes = {Quadratic(**o).data().sha256 for o in ({}, {"condition": 5}, {"rotated": True}, {"start": 2})}
    assert len(hashes) == 4


def test_points_and_layered_models_do_not_mix() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(AltpropError, match="model=point fits point tasks alone"):
        Point(Xor().spec, generator=generator)
    problem, _ = make(Quadratic())
    assert Capability.POINT in problem.offers
    assert Capability.SUPERVISED not in problem.offers
    with pytest.raises(AltpropError, match="has no distribution to sample targets from"):
        problem.sample_targets(torch.zeros(1, 10, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimension": 0}, "task.dimension must be a whole number of at least 1"),
        ({"dimension": 2.5}, "task.dimension must be a whole number of at least 1"),
        ({"condition": 0.5}, "task.condition must be a number of at least 1"),
        ({"condition": math.inf}, "task.condition must be a number of at least 1"),
        ({"condition": "high"}, "task.condition must be a number of at least 1"),
        ({"start": [1.0, 2.0]}, "task.start must be a number or 10 numbers"),
        ({"start": "origin"}, "task.start must be a number or 10 numbers"),
    ],
)
def test_unusable_options_are_refused(options, message) -> None:
    with pytest.raises(AltpropError, match=message):
        Quadratic(**options)


def test_rosenbrock_needs_two_dimensions() -> None:
    with pytest.raises(AltpropError, match=r"task\.dimension must be a whole number of at least 2"):
        Rosenbrock(dimension=1)


def test_behaviour_is_the_first_two_coordinates() -> None:
    """Within what is drawn of the function, else 1.5 times as far as the start; one coordinate is one number."""
    seen = torch.arange(12.0, dtype=torch.float64).reshape(3, 1, 4)
    task = Quadratic(dimension=4, start=-2.0)
    batch = task.data().train.whole()
    assert task._describe(seen, batch).tolist() == [[0.0, 1.0], [4.0, 5.0], [8.0, 9.0]]
    assert (task.descriptor.low, task.descriptor.high) == ((-3.0, -3.0), (3.0, 3.0))
    assert Rosenbrock().descriptor.high == (2.0, 3.0)
    assert Multimodal(function="schaffer").descriptor.high == (15.0, 15.0)
    one = Quadratic(dimension=1)
    assert (one.descriptor.names, one._describe(seen[..., :1], batch).shape) == (("x",), (3, 1))
