"""Backpropagation by hand: equal to autograd, to a complex-step twin and to SGD; free of autograd; mutants killed."""

from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from altprop.algorithms.backprop import manual_backprop
from altprop.algorithms.backprop.backprop import Backprop
from altprop.algorithms.backprop.manual_backprop import ACTIVATIONS, LOSSES, ManualBackprop
from altprop.algorithms.dropout.standard import StandardDropout
from altprop.data import Batch, ModelSpec
from altprop.errors import AltpropError, Refused
from altprop.flops import CountingMode
from altprop.models.mlp import MLP
from altprop.noise import MultiplicativeNoise, Noise
from altprop.optim import OptimizerFactory
from altprop.problem import Problem
from altprop.randomness import generator_for
from altprop.testing import make_problem, toy


def ready(module: ModuleType = manual_backprop, **options: Any) -> tuple[Any, Problem, Batch]:
    problem, batch = toy(**options)
    rule = module.ManualBackprop()
    rule.setup(problem)
    return rule, problem, batch


def error(rule: Any, problem: Problem, batch: Batch) -> float:
    """Worst difference from autograd under the same masks, over loss and gradients."""
    problem.begin_step(3)
    loss, ours = rule.gradients(batch)
    problem.begin_step(3)
    expected, theirs = problem.gradient(batch)
    assert list(ours) == list(theirs)
    return max(float((loss - expected).abs()), *(float((ours[n] - theirs[n]).abs().max()) for n in theirs))


@pytest.mark.parametrize("sizes", [(5, 3), (5, 7, 3), (5, 7, 6, 4, 3)], ids=str)
def test_any_depth(sizes: tuple[int, ...]) -> None:
    assert error(*ready(sizes=sizes, activation="tanh")) < 1e-14


def objective(weights: list[tuple[Any, Any]], x: Any, targets: Any, activation: str, loss: str) -> Any:
    """The whole network in numpy, for complex numbers."""
    for index, (w, b) in enumerate(weights):
        x = x @ w.T + b
        if index < len(weights) - 1:
            x = np.tanh(x) if activation == "tanh" else 1 / (1 + np.exp(-x))
    if loss == "half_squared_error":
        return 0.5 * ((x - targets) ** 2).sum(1).mean()
    return (np.log(np.exp(x).sum(1)) - x[np.arange(len(x)), targets]).mean()


@pytest.mark.parametrize(
    ("activation", "loss"), list(product(["tanh", "sigmoid"], ["cross_entropy", "half_squared_error"])), ids=str
)
def test_against_the_complex_step(activation: str, loss: str) -> None:
    """Im E(theta + ih) / h has no cancellation, so h = 1e-30 gives the derivative to the last digit (Squire 1998)."""
    rule, problem, batch = ready(activation=activation, loss=loss)
    _, gradients = rule.gradients(batch)
    worst = 0.0
    for name, gradient in gradients.items():
        for position in np.ndindex(*gradient.shape):
            weights = []
            for block in range(3):
                pair = [
                    problem.params[f"blocks.{block}.{p}"].detach().numpy().astype(complex) for p in ("weight", "bias")
                ]
                weights.append(tuple(pair))
            _, block, leaf = name.split(".")
            weights[int(block)][leaf == "bias"][position] += 1e-30j
            value = objective(weights, batch.inputs.numpy(), batch.targets.numpy(), activation, loss)
            worst = max(worst, abs(value.imag / 1e-30 - float(gradient[position])))
    assert worst < 1e-15


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("p", [None, 0.3])
def test_run_for_run_equal_to_backprop_with_sgd(momentum: float, p: float | None) -> None:
    """60 steps on mini-batches, with and without dropout: the same masks, the same weights to 1e-10."""

    def noise() -> StandardDropout | None:
        return None if p is None else StandardDropout(p, p_input=0.2)

    ours, batch = toy(rows=24, noise=noise())
    theirs, _ = toy(rows=24, noise=noise())
    manual = ManualBackprop(lr=0.2, momentum=momentum)
    reference = Backprop(OptimizerFactory("torch.optim.SGD", lr=0.2, momentum=momentum))
    manual.setup(ours)
    reference.setup(theirs)
    start = ours.flat()
    for step in range(60):
        index = (torch.arange(7) + 7 * step) % 24
        part = Batch(batch.inputs[index], batch.targets[index], index)
        mine, other = manual.step(part).loss, reference.step(part).loss
        assert mine is not None
        assert other is not None
        assert abs(float(mine - other)) < 1e-12
    assert float((ours.flat() - theirs.flat()).abs().max()) < 1e-10
    assert float((ours.flat() - start).abs().max()) > 0.1


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_under_dropout_it_is_the_gradient_of_the_masked_net(activation: str) -> None:
    assert error(*ready(noise=StandardDropout(0.4, p_input=0.3), activation=activation)) < 1e-14


class DropConnect(MultiplicativeNoise):
    """Masks on the weights, to verify that site too."""

    sites = frozenset({"weight"})

    def _mask(self, like: torch.Tensor, shape: torch.Size, site: str, layer: int) -> torch.Tensor:
        return 2.0 * (self.clock.uniform(shape, site, layer, 0, like) < 0.5).to(like.dtype)


def test_masks_on_weights() -> None:
    assert error(*ready(noise=DropConnect())) < 1e-14


def test_rows_without_labels_do_not_count() -> None:
    rule, problem, batch = ready()
    labelled = torch.tensor([True, False, True, True, False, True, False, True])
    part = Batch(batch.inputs, batch.targets, batch.index, labelled=labelled)
    assert error(rule, problem, part) < 1e-14
    assert not torch.equal(rule.gradients(part)[0], rule.gradients(batch)[0])


def test_images_are_flattened() -> None:
    model = MLP(ModelSpec((2, 3, 4), 3), [7], activation="sigmoid", generator=generator_for(0)).double()
    problem = make_problem(model, "cross_entropy")
    inputs = torch.randn(6, 2, 3, 4, dtype=torch.float64, generator=generator_for(1))
    rule = ManualBackprop()
    rule.setup(problem)
    assert error(rule, problem, Batch(inputs, torch.tensor([0, 1, 2, 2, 1, 0]), torch.arange(6))) < 1e-14


def test_large_logits_do_not_overflow() -> None:
    for loss in ("cross_entropy", "binary_cross_entropy"):
        rule, problem, batch = ready(loss=loss)
        problem.assign(400 * problem.flat())
        value, gradients = rule.gradients(batch)
        assert bool(value.isfinite())
        assert all(bool(g.isfinite().all()) for g in gradients.values())
        assert error(rule, problem, batch) < 1e-10


def test_no_autograd_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every door to autograd raises, no parameter asks for a gradient, and inference mode records nothing."""
    expected = run_plainly()

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("autograd was called")

    for owner, name in [
        (torch.autograd, "grad"),
        (torch.autograd, "backward"),
        (torch.Tensor, "backward"),
        (torch.Tensor, "requires_grad_"),
        (torch, "enable_grad"),
        (torch.func, "grad"),
        (torch.func, "vjp"),
        (torch.func, "jvp"),
    ]:
        monkeypatch.setattr(owner, name, refuse)
    assert torch.equal(run_plainly(frozen=True), expected)


def run_plainly(frozen: bool = False) -> torch.Tensor:
    problem, batch = toy(noise=StandardDropout(0.2))
    for p in problem.params.values():
        p.requires_grad = not frozen
    rule = ManualBackprop(0.2, 0.9)
    rule.setup(problem)
    with torch.inference_mode(frozen):
        for _ in range(5):
            result = rule.step(batch)
            assert result.loss is not None
            assert result.loss.grad_fn is None
    return problem.flat()


def test_the_books() -> None:
    """Products: forward 2 N n m a layer, back twice that, but once for the first layer, whose inputs learn nothing."""
    rule, problem, batch = ready(sizes=(5, 7, 6, 3), rows=8)
    seen = 0
    for _ in range(5):
        mode = CountingMode()
        with mode:
            rule.step(batch)
        seen += sum(mode.flops.values())
    layers = [5 * 7, 7 * 6, 6 * 3]
    forward = 2 * 8 * sum(layers)
    backward = 2 * 8 * (2 * sum(layers) - layers[0])
    assert problem.ledger.flops_by_kind() == {"forward": 5 * forward, "backward": 5 * backward}
    assert problem.ledger.flops == seen
    assert (problem.ledger.forwards, problem.ledger.backwards, problem.ledger.updates) == (5, 5, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"activation": "gelu"},
            "manual_backprop knows the slopes of identity, sigmoid, tanh, relu; the model has gelu",
        ),
        ({"normalisation": "layer"}, "manual_backprop covers no normalisation; use model.normalisation=none"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    problem, _ = toy(**options)
    with pytest.raises(Refused, match=message.replace(".", r"\.")):
        ManualBackprop().setup(problem)


def test_refuses_noise_that_it_cannot_differentiate() -> None:
    class Additive(Noise):
        sites = frozenset({"unit"})

        def _perturb(self, x: torch.Tensor, shape: torch.Size, site: str, layer: int) -> torch.Tensor:
            return x + 1

    problem, _ = toy(noise=Additive())
    with pytest.raises(Refused, match="covers noise that multiplies by a mask, such as dropout=standard, and no other"):
        ManualBackprop().setup(problem)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1.0}, r"algorithm\.lr .*-1"),
        ({"momentum": 1.0}, r"algorithm\.momentum .*1"),
        ({"lr": "a"}, r"algorithm\.lr"),
    ],
)
def test_bad_values(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AltpropError, match=message):
        ManualBackprop(**arguments)


# Mutants: each is one edit of the lesson that a pupil might make.


def test_every_loss_of_the_lesson_is_one_of_ours() -> None:
    for name in LOSSES:
        _, problem, _ = ready(loss=name)
        assert problem.loss.name == name


def test_what_is_kept_for_the_way_back_is_counted() -> None:
    """The inputs, and of each layer z and a, each storage once; autograd keeps as much, to within z."""
    rule, problem, batch = ready(sizes=(5, 7, 3), rows=8)
    rule.step(batch)
    assert problem.ledger.saved_bytes == 8 * 8 * (5 + 7 + 7 + 3)
    automatic, other = toy(sizes=(5, 7, 3), rows=8)
    learner = Backprop(OptimizerFactory("torch.optim.SGD", lr=0.1))
    learner.setup(automatic)
    learner.step(other)
    assert 0.5 < problem.ledger.saved_bytes / automatic.ledger.saved_bytes < 2
