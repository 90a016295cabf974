"""Synthetic gradients: what its oracles leave open."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from altprop import AltpropError, ModelSpec, OptimizerFactory, Refused
from altprop.algorithms.local.synthetic_gradients import SyntheticGradients
from altprop.capabilities import Capability
from altprop.conformance.case import find_target
from altprop.conformance.suite import RULES
from altprop.data import Batch
from altprop.models.cnn import CNN
from altprop.randomness import generator_for
from altprop.testing import make_problem, relative_error, set_up, sgd, toy


@pytest.mark.parametrize("rule", ["stacks_as_it_steps", "counts_what_it_does"])
def test_other_options_obey_too(rule: str) -> None:
    target = find_target("synthetic_gradients")
    overrides = (*target.overrides, "algorithm.labels=false", "algorithm.depth=1")
    assert RULES[rule](replace(target, overrides=overrides)) is None


def test_bad_options_and_what_cannot_run() -> None:
    with pytest.raises(AltpropError, match=r"algorithm\.depth"):
        SyntheticGradients(sgd(), depth=-1)
    with pytest.raises(Refused, match="has none; use model=mlp"):
        set_up(SyntheticGradients(sgd()), toy((5, 3))[0])


def test_modules_begin_at_nothing_learn_in_every_step_and_tell_what_they_miss() -> None:
    problem, batch = toy()
    rule = set_up(SyntheticGradients(OptimizerFactory("torch.optim.Adam", lr=0.01), depth=1), problem)
    before = {name: p.detach().clone() for name, p in problem.params.items()}
    assert rule.probe(batch)["unpredicted"] == 1
    rule.step(batch)
    moved = [name for name, p in problem.params.items() if not torch.equal(p, before[name])]
    assert moved == ["blocks.2.weight", "blocks.2.bias"]
    missed = [rule.probe(batch)["unpredicted"] for _ in range(100) if rule.step(batch)]
    assert missed[-1] is not None
    assert 0 < missed[-1] < 0.8  # .61 seen


@pytest.mark.parametrize("labels", [True, False])
def test_rows_without_a_label_teach_nothing_and_show_none(labels: bool) -> None:
    problem, batch = toy(loss="half_squared_error")
    rule = set_up(SyntheticGradients(sgd(), labels), problem)
    for p in rule.modules.parameters():
        p.data += problem.random.normal(*p.shape)
    kept = torch.arange(8) < 5
    hidden = torch.where(kept[:, None], batch.targets, torch.nan)
    some = replace(batch, labelled=kept, targets=hidden)
    part = replace(batch, inputs=batch.inputs[:5], targets=batch.targets[:5], index=batch.index[:5])
    found, expected = ({**rule.gradients(one)[1], **rule.gradients(one)[2]} for one in (some, part))
    assert relative_error(found, expected) <= 1e-13


@pytest.mark.parametrize("image", [None, [1, 64]])
def test_convolutions_have_modules_of_convolutions(image: list[int] | None) -> None:
    model = CNN(ModelSpec((64,), 3), (4, 5), image=image, activation="tanh", generator=generator_for(0)).double()
    offers = frozenset({Capability.SUPERVISED, Capability.CLASSES})
    problem = make_problem(model, "cross_entropy", offers=offers)
    batch = Batch(problem.random.normal(9, 64), problem.random.integers(0, 3, 9), torch.arange(9))
    rule = set_up(SyntheticGradients(sgd(), depth=1), problem)
    for p in rule.modules.parameters():
        p.data += problem.random.normal(*p.shape)
    _, direction, slopes = rule.gradients(batch)
    first, second, _ = problem.layered.blocks
    h = first(batch.inputs).detach().requires_grad_()
    y = second(h)
    ones = [1] * (h.dim() - 2)
    label = functional.one_hot(batch.targets, 3).double().reshape(9, 3, *ones)
    weights, biases = rule.modules[0].weights, rule.modules[0].biases
    convolve = functional.conv1d if image else functional.conv2d
    seen = torch.cat([h.detach(), label.expand(9, 3, *h.shape[2:])], 1)
    told = convolve(convolve(seen, weights[0], biases[0], padding="same").relu(), weights[1], biases[1], padding="same")
    above = rule.modules[1](y.detach(), label[(..., *[0] * len(ones))]).detach()
    (target,) = torch.autograd.grad((above * y).sum(), h)
    loss = (told - target).square().mean() + (told.detach() * first(batch.inputs)).sum() / 9
    values = {f"0.{name}": p for name, p in rule.modules[0].named_parameters()}
    values |= {f"blocks.0.{name}": p for name, p in first.named_parameters()}
    expected = dict(zip(values, torch.autograd.grad(loss, list(values.values())), strict=True))
    assert relative_error(direction | slopes, expected) <= 1e-13
