"""Kronecker factors: what they are made of, when, with what weight; steps that stay safe where a factor breaks down."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from altprop.algorithms.second_order import kronecker
from altprop.algorithms.second_order.kfac import KFAC, block_of
from altprop.data import Batch, ModelSpec
from altprop.errors import AltpropError, Refused
from altprop.models.cnn import CNN
from altprop.models.mlp import MLP
from altprop.problem import Problem
from altprop.randomness import generator_for
from altprop.testing import make_problem, set_up, toy


def convolutional(image: tuple[int, ...] = (2, 5, 4), kernel: int = 3, **options: Any) -> tuple[Problem, Batch]:
    values = 1
    for size in image:
        values *= size
    model = CNN(
        ModelSpec((values,), 3),
        [4],
        kernel,
        image=image,
        generator=generator_for(0),
        **{"activation": "tanh", **options},
    ).double()
    draw = torch.randn(6, values, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets = torch.randn(6, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return make_problem(model, "mse", train_size=6), Batch(draw, targets, torch.arange(6))


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("image", [(2, 5, 4), (2, 9)])
def test_factors_of_a_convolution_by_loops_over_its_places(image: tuple[int, ...], sharing: str) -> None:
    problem, batch = convolutional(image)
    conv, dense = problem.layered.blocks
    found = kronecker.factors(kronecker.statistics(problem, batch, "empirical", sharing))[0]
    x = batch.inputs.reshape(6, *image)
    padded = nn.functional.pad(x, [1, 1] * (len(image) - 1))
    z = conv.transform(x).detach().requires_grad_()
    problem.output_loss(dense(conv.respond(z)), batch).backward()
    assert z.grad is not None
    g = (6 * z.grad).flatten(2)
    starts = [range(0, size - 2, 2) for size in padded.shape[2:]]
    corners = torch.cartesian_prod(*(torch.tensor(list(one)) for one in starts)).reshape(g.shape[2], -1)
    a, b = torch.zeros_like(found.a), torch.zeros_like(found.b)
    for row in range(6):
        patches = []
        for corner in corners.tolist():
            window = padded[row][(slice(None), *(slice(start, start + 3) for start in corner))]
            patches.append(torch.cat([window.flatten(), torch.ones(1, dtype=torch.float64)]))
        if sharing == "reduce":
            mean, whole = sum(patches) / len(patches), g[row].sum(1)
            a, b = a + torch.outer(mean, mean) / 6, b + torch.outer(whole, whole) / 6  # type: ignore[arg-type]
        else:
            a = a + sum(torch.outer(one, one) for one in patches) / 6
            b = b + g[row] @ g[row].T / 6 / len(patches)
    assert float((found.a - a).norm() / a.norm()) <= 1e-13
    assert float((found.b - b).norm() / b.norm()) <= 1e-13


def test_a_linear_convolution_at_one_place_is_exact_and_at_many_is_not() -> None:
    for image, bound in (((2, 3, 3), 1e-12), ((2, 5, 4), None)):
        problem, batch = convolutional(image, padding=0, activation="identity")
        found = kronecker.factors(kronecker.statistics(problem, batch, "type-2", "expand"))[0]
        exact = block_of(problem, batch, 0)
        error = float((torch.kron(found.b, found.a) - exact).norm() / exact.norm())
        assert error <= bound if bound else error > 1e-2


@pytest.mark.parametrize("fisher", ["type-2", "empirical"])
def test_unlabelled_rows_do_not_count(fisher: str) -> None:
    problem, batch = toy(rows=12)
    labelled = torch.arange(12) % 3 > 0
    rows = labelled.nonzero()[:, 0]
    masked = Batch(batch.inputs, batch.targets, batch.index, labelled=labelled)
    fewer = Batch(batch.inputs[rows], batch.targets[rows], batch.index[rows])
    ours, theirs = (kronecker.factors(kronecker.statistics(problem, one, fisher, "expand")) for one in (masked, fewer))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one.a, other.a, rtol=0, atol=1e-14)
        assert torch.allclose(one.b, other.b, rtol=0, atol=1e-14)


def test_factors_are_made_every_so_many_steps_and_averaged() -> None:
    problem, batch = toy()
    rule = set_up(KFAC(every=3, decay=0.6, fisher="empirical"), problem)
    seen: list[Tensor] = []
    new: list[Tensor] = []
    for step in range(7):
        if step % 3 == 0:
            new.append(kronecker.factors(kronecker.statistics(problem, batch, "empirical", "expand"))[1].a)
        rule.step(batch)
        seen.append(rule.factors[1][0])
    assert [torch.equal(one, seen[0]) for one in seen[:4]] == [True, True, True, False]
    assert torch.equal(seen[0], new[0])
    assert torch.allclose(seen[3], (new[0] + new[1]) / 2, rtol=1e-14)  # 1 - 1/2 is below the decay
    assert torch.allclose(seen[6], 0.6 * seen[3] + 0.4 * new[2], rtol=1e-14)  # 1 - 1/3 is above it


def test_pi_gives_both_factors_the_same_share_of_their_scale() -> None:
    a, b = 4.0 * torch.eye(3, dtype=torch.float64), torch.eye(5, dtype=torch.float64)
    assert [float(x) for x in kronecker.split_damping(kronecker.Factors(a, b), 0.09)] == pytest.approx([0.6, 0.15])
    assert [float(x) for x in kronecker.split_damping(kronecker.Factors(0 * a, b), 0.09)] == pytest.approx([0.3, 0.3])


@pytest.mark.parametrize(("trust", "share"), [(1e-6, None), (1e6, 1.0)])
def test_a_step_changes_the_distribution_by_what_it_is_trusted_with(trust: float, share: float | None) -> None:
    problem, batch = toy()
    rule = set_up(KFAC(lr=0.5, momentum=0.0, trust=trust), problem)
    gradients = kronecker.matrices(problem, problem.gradient(batch)[1])
    clip = float(rule.step(batch).scalars["clip"])
    slope = sum(float((v * g).sum()) for v, g in zip(rule.preconditioned(gradients), gradients, strict=True))
    assert clip == share if share else 0.5 * (0.5 * clip) ** 2 * slope == pytest.approx(trust)


def test_what_is_not_finite_leaves_weights_factors_and_inverses() -> None:
    problem, batch = toy()
    rule = set_up(KFAC(every=1, momentum=0.0), problem)
    rule.step(batch)
    before, factors, inverses = problem.flat(), rule.factors, rule.inverses
    result = rule.step(Batch(batch.inputs * float("nan"), batch.targets, batch.index))
    assert float(result.scalars["clip"]) == 0.0
    assert torch.equal(problem.flat(), before)
    for old, new in ((factors, rule.factors), (inverses, rule.inverses)):
        assert all(torch.equal(x, y) for pair in zip(old, new, strict=True) for x, y in zip(*pair, strict=True))
    rule.step(batch)
    assert bool(torch.isfinite(problem.flat()).all())
    indefinite, old = -torch.eye(3), torch.full((3, 3), 7.0)
    for broken in (indefinite, torch.zeros(3, 3)):  # of the second the failed factor has a 0 on its diagonal
        assert torch.equal(kronecker.damped_inverse(broken, torch.tensor(0.0), old), old)


def test_velocity_is_what_is_left_of_it_and_the_shortened_direction() -> None:
    problem, batch = toy()
    rule = set_up(KFAC(lr=0.1, momentum=0.5, trust=1e9), problem)
    rule.step(batch)
    before = [one.clone() for one in rule.velocities]
    directions = rule.preconditioned(kronecker.matrices(problem, problem.gradient(batch)[1]))
    rule.step(batch)
    for now, then, direction in zip(rule.velocities, before, directions, strict=True):
        assert torch.allclose(now, 0.5 * then - 0.1 * direction, rtol=1e-12)


@pytest.mark.parametrize(("initialisation", "plain"), [("torch", True), ("he_normal", False)])
def test_where_the_signal_dies_the_damping_makes_it_gradient_descent(initialisation: str, plain: bool) -> None:
    model = MLP(ModelSpec((4,), 3), (32,) * 10, initialisation=initialisation, generator=generator_for(0))
    problem = make_problem(model.double(), "cross_entropy")
    batch = toy((4, 3), rows=32)[1]
    rule = set_up(KFAC(fisher="type-2"), problem)
    gradients = kronecker.matrices(problem, problem.gradient(batch)[1])
    rule.refresh(batch)
    first, direction = gradients[0], rule.preconditioned(gradients)[0]
    off = float((rule.damping * direction - first).norm() / first.norm())
    assert off < 1e-3 if plain else off > 0.5


def test_refusals_and_bad_options() -> None:
    with pytest.raises(Refused, match=r"without normalisation; use model.normalisation=none"):
        KFAC().setup(toy(normalisation="layer")[0])
    for options in ({"lr": 0}, {"damping": 0}, {"every": 0}, {"fisher": "exact"}, {"decay": 1.0}, {"trust": 0}):
        with pytest.raises(AltpropError):
            KFAC(**options)  # type: ignore[arg-type]
