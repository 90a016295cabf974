"""The gradient checker: right gradients pass, planted wrong ones are named by their layer."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from altprop.algorithms.dropout.standard import StandardDropout
from altprop.conformance.gradients import check_gradient
from altprop.data import Batch
from altprop.errors import AltpropError
from altprop.problem import Grads, Problem
from altprop.testing import toy

RIGHT = 1e-7


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "gelu", "identity"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "binary_cross_entropy"])
def test_the_true_gradient_passes(activation: str, loss: str) -> None:
    problem, batch = toy(activation=activation, loss=loss)
    errors = check_gradient(problem, batch, problem.gradient(batch)[1])
    assert list(errors) == ["blocks.0", "blocks.1", "blocks.2"]
    assert max(errors.values()) < RIGHT, errors


@pytest.mark.parametrize("normalisation", ["layer", "batch", "group", "rms"])
def test_with_normalisation_its_parameters_are_a_layer_of_their_own(normalisation: str) -> None:
    problem, batch = toy(normalisation=normalisation, rows=12)
    kept = {name: value.clone() for name, value in problem.model.named_buffers()}
    problem.begin_step(0)
    with problem.observing():
        gradient = problem.gradient(batch)[1]
    errors = check_gradient(problem, batch, gradient)
    assert "blocks.0.norm" in errors
    # The layers under a batch norm have biases without effect, whose gradient is rounding.
    assert max(errors.values()) < 1e-6, errors
    assert all(torch.equal(value, kept[name]) for name, value in problem.model.named_buffers())


def transposed(g: Tensor) -> Tensor:
    return g.flip(0)


WRONG: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "sign": ("blocks.1.weight", lambda g: -g),
    "scale": ("blocks.0.weight", lambda g: 1.05 * g),
    "zero": ("blocks.2.bias", torch.zeros_like),
    "order": ("blocks.1.weight", transposed),
    "one entry": ("blocks.2.weight", lambda g: g + 0.05 * g.abs().max() * (torch.arange(g.numel()) == 7).view_as(g)),
    "nan": ("blocks.0.bias", lambda g: g * float("nan")),
    "infinite": ("blocks.0.bias", lambda g: g / 0),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_gradient_is_found_in_its_layer(name: str) -> None:
    problem, batch = toy()
    gradient = problem.gradient(batch)[1]
    parameter, spoil = WRONG[name]
    errors = check_gradient(problem, batch, {**gradient, parameter: spoil(gradient[parameter])})
    layer = parameter.rpartition(".")[0]
    assert not errors.pop(layer) < 1e-2
    assert max(errors.values()) < RIGHT


def test_it_leaves_everything_as_it_was() -> None:
    problem, batch = toy(noise=StandardDropout(0.3))
    problem.begin_step(4)
    with problem.same_noise():
        gradient = problem.gradient(batch)[1]
        before = problem.state_dict()
        check_gradient(problem, batch, gradient)
        after = problem.state_dict()
    assert str(before["ledger"]) == str(after["ledger"])
    assert before["clock"] == after["clock"]
    assert torch.equal(before["random"]["generator"], after["random"]["generator"])
    assert all(torch.equal(value, after["model"][name]) for name, value in before["model"].items())
    assert all(p.grad is None for p in problem.params.values())


def test_under_noise_the_masks_must_be_the_same() -> None:
    def errors(hold: bool) -> dict[str, float]:
        problem, batch = toy(noise=StandardDropout(0.5), rows=20)
        problem.begin_step(4)
        if not hold:
            gradient = problem.gradient(batch)[1]
            return check_gradient(problem, batch, gradient)
        with problem.same_noise():
            return check_gradient(problem, batch, problem.gradient(batch)[1])

    assert max(errors(hold=True).values()) < RIGHT
    assert max(errors(hold=False).values()) > 1e-2


def test_large_layers_are_sampled_and_the_sample_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, batch = toy((30, 20, 3))
    gradient = problem.gradient(batch)[1]
    calls = 0
    original = Problem.objective

    def counted(self: Problem, part: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        return original(self, part)

    monkeypatch.setattr(Problem, "objective", counted)
    first = check_gradient(problem, batch, gradient, coordinates=25)
    # 25 of 600 and of 60 weights, 20 and 3 biases; two evaluations each.
    assert calls == 2 * (25 + 20 + 25 + 3)
    assert check_gradient(problem, batch, gradient, coordinates=25) == first


def test_a_kink_inside_the_step_is_looked_at_again() -> None:
    """A relu whose pre-activation lies 3e-6 from 0 is crossed by h = 1e-5 and not by h / 10."""
    problem, batch = toy((2, 2, 1), activation="relu", loss="mse", rows=3)
    with torch.no_grad():
        block = problem.layered.blocks[0]
        z = block.transform(batch.inputs)  # type: ignore[operator]
        block.bias[0] += 3e-6 - z[1, 0]  # type: ignore[index]
    assert max(check_gradient(problem, batch, problem.gradient(batch)[1]).values()) < RIGHT


def test_bad_input() -> None:
    problem, batch = toy()
    gradient: Grads = problem.gradient(batch)[1]
    with pytest.raises(AltpropError, match=r"there is no gradient for blocks\.2\.bias"):
        check_gradient(problem, batch, {n: g for n, g in gradient.items() if n != "blocks.2.bias"})
    with pytest.raises(AltpropError, match=r"blocks\.0\.weight has the shape \(5, 7\), the parameter \(7, 5\)"):
        check_gradient(problem, batch, {**gradient, "blocks.0.weight": gradient["blocks.0.weight"].T})
    single, part = toy(dtype=torch.float32)
    with pytest.raises(AltpropError, match=r"need float64; the problem is in torch\.float32"):
        check_gradient(single, part, single.gradient(part)[1])
