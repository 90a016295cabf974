"""Thresholds and weights of few levels: what they are, alone and as populations, and that no slope comes through."""

import pytest
import torch

from altprop import catalogue
from altprop.capabilities import DERIVATIVES, Capability
from altprop.data import ModelSpec
from altprop.errors import AltpropError
from altprop.models.base import LayeredModel
from altprop.models.discrete import QuantisedMLP, ThresholdMLP, quantised
from altprop.models.mlp import MLP
from altprop.randomness import generator_for

SPEC = ModelSpec((2, 3), 4)
MODELS = [(ThresholdMLP, {}), (QuantisedMLP, {"weights": "binary"}), (QuantisedMLP, {"weights": "ternary"})]


def draws(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator_for("discrete", str(shape)), dtype=torch.float64)


def build(kind: type[LayeredModel], options: dict[str, str]) -> LayeredModel:
    return kind(SPEC, [5, 4], generator=generator_for("net"), **options).double()


@pytest.mark.parametrize("levels", ["binary", "ternary"])
def test_levels_are_nearest_for_their_scale_and_the_scale_for_its_levels(levels: str) -> None:
    weight = draws(3, 7, 9)
    found = quantised(weight, levels)
    for own, real in zip(found, weight, strict=True):
        a = float(own.max())
        assert sorted(own.unique().tolist()) == pytest.approx([-a, a] if levels == "binary" else [-a, 0, a])
        signs = own / a
        assert a == pytest.approx(float((signs * real).sum() / (signs * signs).sum()), abs=1e-12)  # least squares
        size = real.abs()
        limit = 0.7 * float(size.mean()) if levels == "ternary" else 0.0
        assert torch.equal(own != 0, size > limit)
        assert torch.equal(quantised(real, levels), own)  # each matrix has its own scale
    assert torch.equal(quantised(torch.zeros(2, 3), levels), torch.zeros(2, 3))


def test_zero_counts_as_positive_among_two_levels() -> None:
    assert quantised(torch.tensor([[0.0, -2.0]]), "binary").tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize(("kind", "options"), MODELS)
def test_a_population_is_a_loop_over_its_models(kind: type[LayeredModel], options: dict[str, str]) -> None:
    model, x = build(kind, options), draws(7, 2, 3)
    params = {name: draws(3, *p.shape) for name, p in model.named_parameters()}
    assert model.batched
    together = model.population(x, params)
    for place, outputs in enumerate(together):
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(params[name][place])
            torch.testing.assert_close(outputs, model(x), rtol=1e-12, atol=1e-12)


def test_weights_are_rounded_wherever_a_model_runs() -> None:
    model, x = build(QuantisedMLP, {"activation": "tanh"}), draws(7, 2, 3)
    rounded = MLP(SPEC, [5, 4], "tanh", generator=generator_for("net")).double()
    with torch.no_grad():
        for plain, block in zip(rounded.blocks, model.blocks, strict=True):
            plain.weight.copy_(quantised(block.weight, "ternary"))
            plain.bias.copy_(block.bias)
    torch.testing.assert_close(model(x), rounded(x))


def test_thresholds_are_the_units_of_a_net_of_signs() -> None:
    same = MLP(SPEC, [5, 4], "sign", generator=generator_for("net")).double()
    model, x = build(ThresholdMLP, {}), draws(7, 2, 3)
    assert torch.equal(model(x), same(x))
    assert set(model.blocks[0](x).unique().tolist()) == {-1.0, 1.0}
    assert model.offers == same.offers == ThresholdMLP.offers
    assert model.offers & DERIVATIVES == set()


def test_who_speaks_of_a_layers_weight_is_not_offered_one_that_is_rounded() -> None:
    assert build(QuantisedMLP, {}).offers == {Capability.LAYERED}
    with pytest.raises(AltpropError, match=r"unknown model.weights=four; known are: binary, ternary"):
        build(QuantisedMLP, {"weights": "four"})


@pytest.mark.parametrize("task", ["threshold_digits", "quantised_digits"])
def test_backprop_is_refused_and_told_what_would_serve(task: str) -> None:
    learner, workload = catalogue.entries("algorithm")["backprop"], catalogue.entries("task")[task]
    model = catalogue.default_model(workload)
    values = catalogue.entries("model")[model].values
    sentence = catalogue.refusal_of(("backprop", task, model), learner.values, workload.values, values)
    assert sentence == (
        f"backprop needs a differentiable objective; task {task} with model {model} offers none; try model=mlp"
    )
