"""The diagonal in the eigenbasis: of convolutions too, when it is measured, and what a breakdown leaves."""

import pytest
import torch
from torch import Tensor

from altprop.algorithms.second_order import kronecker
from altprop.algorithms.second_order.ekfac import EKFAC
from altprop.algorithms.second_order.kronecker import Factors
from altprop.data import Batch, ModelSpec
from altprop.errors import Refused
from altprop.models.cnn import CNN
from altprop.randomness import generator_for
from altprop.testing import make_problem, set_up, toy


def test_s_of_a_convolution_is_the_mean_square_of_its_examples_gradients() -> None:
    model = CNN(ModelSpec((40,), 3), [4], image=(2, 5, 4), activation="tanh", generator=generator_for(0)).double()
    problem = make_problem(model, "cross_entropy", train_size=6)
    inputs = torch.randn(6, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = Batch(inputs, torch.arange(6) % 3, torch.arange(6))
    found = kronecker.statistics(problem, batch, "empirical", "expand")
    bases = [Factors(*(torch.linalg.eigh(one)[1] for one in pair)) for pair in kronecker.factors(found)]
    ours = kronecker.scales(found, bases)
    rows = problem.per_example_gradients(batch)
    for layer, (q_a, q_b) in enumerate(bases):
        weight, bias = rows[f"blocks.{layer}.weight"].flatten(2), rows[f"blocks.{layer}.bias"]
        turned = q_b.T @ torch.cat([weight, bias[..., None]], 2) @ q_a
        exact = turned.square().mean(0)
        assert float((ours[layer] - exact).norm() / exact.norm()) <= 1e-12


def test_s_is_averaged_within_a_basis_and_starts_anew_in_the_next() -> None:
    problem, batch = toy()
    rule = set_up(EKFAC(every=4, rescale=2, decay=0.9, fisher="empirical"), problem)
    bases: list[Tensor] = []
    scales: list[Tensor] = []
    fresh: list[Tensor] = []
    for _ in range(5):
        found = kronecker.statistics(problem, batch, "empirical", "expand")
        rule.step(batch)
        bases.append(rule.bases[1][0])
        scales.append(rule.scales[1])
        fresh.append(kronecker.scales(found, [Factors(*pair) for pair in rule.bases])[1])
    assert [torch.equal(one, bases[0]) for one in bases] == [True, True, True, True, False]
    assert torch.equal(scales[0], fresh[0])
    assert torch.equal(scales[1], scales[0])
    assert torch.allclose(scales[2], (fresh[0] + fresh[2]) / 2, rtol=1e-14)
    assert torch.equal(scales[4], fresh[4])


def test_what_is_not_finite_leaves_weights_and_s() -> None:
    problem, batch = toy()
    rule = set_up(EKFAC(every=1, momentum=0.0), problem)
    rule.step(batch)
    before, scales = problem.flat(), rule.scales
    assert float(rule.step(Batch(batch.inputs * float("nan"), batch.targets, batch.index)).scalars["clip"]) == 0.0
    assert torch.equal(problem.flat(), before)
    assert all(torch.equal(x, y) for x, y in zip(scales, rule.scales, strict=True))
    rule.step(batch)
    assert bool(torch.isfinite(problem.flat()).all())


def test_normalisation_is_refused() -> None:
    with pytest.raises(Refused, match="ekfac has factors for dense and convolutional layers"):
        EKFAC().setup(toy(normalisation="layer")[0])
