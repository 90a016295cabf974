"""The gradient of a dense chain written out: automatic differentiation's, alone and stacked."""

import math

import pytest
import torch
from torch import Tensor

from altprop import closed_form
from altprop.conformance.noises import SiteNoise
from altprop.losses import LOSSES
from altprop.models.parts import ACTIVATIONS
from altprop.problem import Problem
from altprop.testing import relative_error, toy
from altprop.vectorized import Members

SMOOTH = [name for name in ACTIVATIONS if name != "sign"]  # whose gradient is zero below the last block


def autograd(problem: Problem, batch: object) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the gradient of a model whose blocks are watched."""
    hook = problem.model.blocks[0].register_forward_hook(lambda *_: None)
    try:
        return problem.gradient(batch)
    finally:
        hook.remove()


@pytest.mark.parametrize("sizes", [(5, 3), (5, 7, 3), (5, 7, 6, 4, 3)], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", SMOOTH)
def test_it_is_automatic_differentiation(activation: str, loss: str, sizes: tuple[int, ...]) -> None:
    problem, batch = toy(sizes, activation=activation, loss=loss)
    (value, grads), (expected, reference) = problem.gradient(batch), autograd(problem, batch)
    assert float(value) == pytest.approx(float(expected), rel=1e-14)
    assert list(grads) == list(reference)
    assert relative_error(grads, reference) < 1e-13
    assert not value.requires_grad


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
@pytest.mark.parametrize("site", ["input", "unit", "weight"])
def test_under_masks_it_is_automatic_differentiation(site: str, activation: str) -> None:
    problem, batch = toy((5, 7, 6, 4, 3), activation=activation, noise=SiteNoise(site))
    plain = toy((5, 7, 6, 4, 3), activation=activation)[0].gradient(batch)[1]
    with problem.same_noise():
        (value, grads), (expected, reference) = problem.gradient(batch), autograd(problem, batch)
        again = problem.gradient(batch)[1]
    assert float(value) == pytest.approx(float(expected), rel=1e-14)
    assert relative_error(grads, reference) < 1e-12
    assert all(torch.equal(grads[name], again[name]) for name in grads)
    assert relative_error(grads, plain) > 0.1
    assert relative_error(problem.gradient(batch)[1], grads) > 0.01
    with problem.evaluating():
        assert relative_error(problem.gradient(batch)[1], plain) < 1e-12


class Charging(SiteNoise):
    """Adds a term of its own to the objective."""

    def penalty(self) -> Tensor:
        return torch.ones((), dtype=torch.float64)


class Adding(SiteNoise):
    """Does something else than multiply."""

    def _perturb(self, x: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        return x + self._mask(x, shape, site, layer)


class Learned(SiteNoise):
    """Has a parameter."""

    def __init__(self, site: str) -> None:
        super().__init__(site)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        return self.scale * super()._mask(like, shape, site, layer)


@pytest.mark.parametrize("kind", [Charging, Adding, Learned])
def test_noise_that_is_more_than_a_mask_is_left_to_autograd(kind: type[SiteNoise]) -> None:
    problem, batch = toy(noise=kind("unit"))
    with problem.same_noise():
        (value, grads), (expected, reference) = problem.gradient(batch), autograd(problem, batch)
    assert float(value) == float(expected)
    assert relative_error(grads, reference) == 0.0


def test_a_mask_counts_as_a_constant() -> None:
    """Both ways: one that is made of the values themselves, as standout's is, passes no derivative on."""

    class Doubling(SiteNoise):
        def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
            return 1 + like

    problem, batch = toy(noise=Doubling("unit"))
    assert relative_error(problem.gradient(batch)[1], autograd(problem, batch)[1]) < 1e-12


def test_a_sign_sends_nothing_down() -> None:
    problem, batch = toy(activation="sign")
    assert relative_error(problem.gradient(batch)[1], autograd(problem, batch)[1]) < 1e-13


def test_large_outputs_do_not_overflow() -> None:
    problem, batch = toy()
    with torch.no_grad():
        problem.model.blocks[-1].weight.mul_(1e4)
    value, grads = problem.gradient(batch)
    assert math.isfinite(float(value))
    assert all(bool(g.isfinite().all()) for g in grads.values())


def test_both_ways_cost_the_same() -> None:
    """One forward and one backward pass; of the FLOPs only the slopes of the activations are booked otherwise."""
    found = []
    for way in (Problem.gradient, autograd):
        problem, batch = toy((5, 70, 60, 3), activation="identity")
        with problem.ledger.audit():
            way(problem, batch)
        problem.ledger.count_step(8)
        found.append(problem.ledger.summary())
    ours, theirs = found
    assert (ours["forwards"], ours["backwards"]) == (theirs["forwards"], theirs["backwards"]) == (1, 1)
    assert ours["flops"] == pytest.approx(theirs["flops"], rel=0.002)


def test_gradients_are_the_callers_to_keep() -> None:
    problem, batch = toy()
    first = problem.gradient(batch)[1]
    kept = {name: g.clone() for name, g in first.items()}
    with torch.no_grad():
        problem.model.blocks[0].weight.add_(1.0)
    problem.gradient(batch)
    assert all(torch.equal(first[name], kept[name]) for name in first)


@pytest.mark.parametrize(
    "change",
    [
        {"normalisation": "layer"},
        {"normalisation": "batch"},
    ],
    ids=str,
)
def test_what_is_no_plain_chain_is_left_to_autograd(change: dict[str, str]) -> None:
    problem, _ = toy(**change)
    assert not closed_form.applies(problem.model)


@pytest.mark.parametrize("where", ["block", "block before", "block backward", "model", "parameter", "noise"])
def test_who_watches_by_a_hook_sees_every_pass(where: str) -> None:
    problem, batch = toy(noise=SiteNoise("unit"))
    problem.gradient(batch)
    calls: list[str] = []
    block = problem.model.blocks[1]
    register = {
        "block": block.register_forward_hook,
        "block before": block.register_forward_pre_hook,
        "block backward": block.register_full_backward_hook,
        "model": problem.model.register_forward_hook,
        "parameter": block.weight.register_hook,
        "noise": problem.model.noise.register_forward_hook,
    }[where]
    register(lambda *_: calls.append(where))
    problem.gradient(batch)
    assert set(calls) == {where}


@pytest.mark.parametrize("site", ["none", "input", "unit", "weight"])
def test_stacked_it_is_each_learners_own(site: str) -> None:
    learners = [
        toy(seed=seed, activation="silu", noise=None if site == "none" else SiteNoise(site)) for seed in range(4)
    ]
    first, batch = learners[0]
    first.clock.seeds = [problem.clock.seed for problem, _ in learners]
    members = Members(4)
    names = list(first.params)
    stacks = {name: torch.stack([p.params[name].detach() for p, _ in learners]) for name in names}
    inputs = torch.stack([b.inputs for _, b in learners])
    targets = torch.stack([b.targets for _, b in learners])
    with members.opened():
        for index, block in enumerate(first.model.blocks):
            for part in ("weight", "bias"):
                block._parameters[part] = members.one(stacks[f"blocks.{index}.{part}"])
        first.look_up()
        seen = type(batch)(members.one(inputs), members.one(targets), batch.index)
        with members.inside():
            value, grads = first.gradient(seen)
            values, found = members.all(value), {name: members.all(g) for name, g in grads.items()}
    for place in range(1, 4):
        problem, own = learners[place]
        expected, reference = autograd(problem, own)
        assert float(values[place]) == pytest.approx(float(expected), rel=1e-14)
        assert relative_error({name: g[place] for name, g in found.items()}, reference) < 1e-13
