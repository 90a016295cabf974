"""Chains that grow and shrink: places, noise, widths, and what stays of the weights."""

import pytest
import torch

from altprop.data import ModelSpec
from altprop.errors import AltpropError, Refused
from altprop.models.base import Dense
from altprop.models.mlp import MLP
from altprop.noise import Noise
from altprop.randomness import generator_for
from altprop.testing import toy


def chain(*hidden: int, **options) -> MLP:
    return MLP(ModelSpec((4,), 3), hidden, generator=generator_for(1), **options).double()


def dense(inputs: int, outputs: int) -> Dense:
    return Dense(inputs, outputs, activation="tanh", generator=generator_for(2))


def places(model: MLP) -> list[tuple[int, bool, bool]]:
    return [(b.index, b.is_output, b.noise is model.noise) for b in model.blocks]


def test_an_inserted_block_stands_in_its_place_like_the_others(everywhere) -> None:
    model = chain(5, 6, noise=everywhere("unit"))
    before = list(model.blocks)
    model.train(False)
    model.insert_block(1, dense(5, 5))
    assert places(model) == [(0, False, True), (1, False, True), (2, False, True), (3, True, True)]
    assert [list(model.blocks).index(block) for block in before] == [0, 2, 3]
    new = model.blocks[1]
    assert new.weight.dtype is torch.float64
    assert not new.training
    x = torch.ones(2, 4, dtype=torch.float64)
    expected = before[2](before[1](new(before[0](x))))
    assert torch.equal(model(x), expected)
    assert model.remove_block(1) is new
    assert places(model) == [(0, False, True), (1, False, True), (2, True, True)]
    assert torch.equal(model(x), before[2](before[1](before[0](x))))


def test_a_new_last_block_gives_the_outputs() -> None:
    model = chain(5)
    model.insert_block(2, dense(3, 3))
    assert [block.is_output for block in model.blocks] == [False, False, True]


@pytest.mark.parametrize(("index", "block"), [(1, (4, 5)), (0, (4, 5)), (2, (3, 2)), (2, (5, 3))])
def test_a_block_that_does_not_fit_changes_nothing(index: int, block: tuple[int, int]) -> None:
    model = chain(5)
    before = list(model.blocks)
    with pytest.raises(AltpropError, match="are no chain to 3 outputs"):
        model.insert_block(index, dense(*block))
    assert list(model.blocks) == before
    with pytest.raises(AltpropError, match="are no chain to 3 outputs"):
        model.remove_block(1)
    assert list(model.blocks) == before


@pytest.mark.parametrize("units", [2, 5, 9])
def test_a_resized_block_keeps_the_weights_of_the_units_that_stay(units: int) -> None:
    model = chain(5, 6)
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.resize(0, units, generator_for(3))
    kept = min(units, 5)
    a, b = model.blocks[0], model.blocks[1]
    assert (a.weight.shape, a.bias.shape, b.weight.shape) == ((units, 4), (units,), (6, units))
    assert torch.equal(a.weight[:kept], old["blocks.0.weight"][:kept])
    assert torch.equal(a.bias[:kept], old["blocks.0.bias"][:kept])
    assert torch.equal(b.weight[:, :kept], old["blocks.1.weight"][:, :kept])
    new = torch.cat([a.weight[kept:].flatten(), a.bias[kept:]]).detach()
    assert bool((new.abs() <= 0.5).all())  # 1 / sqrt(4 inputs)
    assert bool((b.weight[:, kept:].abs() <= units**-0.5).all())
    assert len(new.unique()) == len(new)
    assert units <= 5 or float(a.weight[kept:].detach().abs().max()) > 0.25
    assert all(p.requires_grad and p.dtype is torch.float64 for p in model.parameters())
    assert model(torch.ones(2, 4, dtype=torch.float64)).shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "index", "units"), [({}, 1, 4), ({}, 0, 0), ({}, -1, 4), ({"normalisation": "layer"}, 0, 4)]
)
def test_what_cannot_be_resized_is_refused(options, index: int, units: int) -> None:
    with pytest.raises(AltpropError, match=f"block {index} cannot have {units} units"):
        chain(5, **options).resize(index, units, generator_for(3))


def test_a_learned_noise_refuses_another_shape() -> None:
    class Learned(Noise):
        def __init__(self) -> None:
            super().__init__()
            self.rate = torch.nn.Parameter(torch.zeros(5))

        def _perturb(self, x, shape, site, layer):
            return x

    model = chain(5, noise=Learned())
    for change in (lambda: model.resize(0, 6, generator_for(3)), lambda: model.insert_block(1, dense(5, 5))):
        with pytest.raises(Refused, match="this dropout has parameters for the model as it was built"):
            change()
    assert sorted(p.shape[0] for p in model.parameters()) == [3, 3, 5, 5, 5]


@pytest.mark.parametrize("watched", [False, True], ids=["closed form", "autograd"])
def test_a_resized_model_has_the_exact_gradient(watched: bool) -> None:
    problem, batch = toy((5, 4, 3))
    if watched:
        problem.model.blocks[0].register_forward_hook(lambda *_: None)
    problem.gradient(batch)
    problem.layered.resize(0, 6, problem.random.generator)
    problem.structure_changed()
    _, grads = problem.gradient(batch)
    assert {n: g.shape for n, g in grads.items()} == {n: p.shape for n, p in problem.params.items()}
    x = problem.flat()
    v = torch.randn(len(x), generator=generator_for(4), dtype=torch.float64)
    ends = [problem.functional_objective(problem.unflatten(x + sign * 1e-5 * v), batch) for sign in (1, -1)]
    assert float(problem.flatten(grads) @ v) == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-7)
