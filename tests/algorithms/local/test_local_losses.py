"""Local losses and Mono-Forward: what their oracles leave open."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from altprop import AltpropError, ModelSpec, Refused
from altprop.algorithms.local.local_losses import LocalLosses, projected, similarity, similarity_gradient
from altprop.algorithms.local.mono_forward import MonoForward
from altprop.capabilities import Capability
from altprop.conformance.case import find_target
from altprop.conformance.suite import RULES
from altprop.data import Batch
from altprop.models.cnn import CNN
from altprop.problem import Problem
from altprop.randomness import generator_for
from altprop.testing import make_problem, relative_error, set_up, sgd, toy


def convolutional() -> tuple[Problem, Batch]:
    """1x8x8 -> 4x4x4 -> 5x2x2 -> 3, in float64."""
    model = CNN(ModelSpec((64,), 3), (4, 5), activation="tanh", generator=generator_for(0)).double()
    offers = frozenset({Capability.SUPERVISED, Capability.CLASSES})
    problem = make_problem(model, "cross_entropy", offers=offers)
    return problem, Batch(problem.random.normal(9, 64), problem.random.integers(0, 3, 9), torch.arange(9))


@pytest.mark.parametrize("chosen", ["local_losses loss=pred", "local_losses loss=sim", "mono_forward prediction=sum"])
@pytest.mark.parametrize("rule", ["stacks_as_it_steps", "counts_what_it_does"])
def test_other_options_obey_too(chosen: str, rule: str) -> None:
    name, option = chosen.split()
    target = find_target(name)
    assert RULES[rule](replace(target, overrides=(*target.overrides, f"algorithm.{option}"))) is None


def test_bad_options_and_what_cannot_run() -> None:
    for make in (lambda: LocalLosses(sgd(), "both"), lambda: LocalLosses(sgd(), beta=1.5)):
        with pytest.raises(AltpropError, match=r"algorithm\.(loss|beta)"):
            make()
    with pytest.raises(AltpropError, match=r"algorithm\.prediction"):
        MonoForward(sgd(), "first")
    for kind in (LocalLosses, MonoForward):
        with pytest.raises(Refused, match="has none; use model=mlp"):
            set_up(kind(sgd()), toy((5, 3))[0])


def test_targets_of_one_class_are_alike_and_others_as_far_apart_as_can_be() -> None:
    found = similarity(torch.eye(5).double()[[0, 0, 3]])
    expected = torch.tensor([[1, 1, -0.25], [1, 1, -0.25], [-0.25, -0.25, 1]]).double()
    assert torch.allclose(found, expected, atol=1e-7)


def test_the_gradient_of_the_similarity_counts_each_pair_by_its_weights() -> None:
    random = toy()[0].random
    x, weights = random.normal(6, 4).requires_grad_(), random.uniform(6)
    wanted = similarity(random.normal(6, 3))
    pairs = torch.outer(weights, weights)
    (expected,) = torch.autograd.grad((pairs * (similarity(x) - wanted).square()).sum(), x)
    found = similarity_gradient(x.detach(), wanted, weights)
    assert float((found - expected).norm() / expected.norm()) <= 1e-14
    silent = similarity_gradient(torch.zeros(6, 4).double(), wanted, weights)
    assert not silent.any()


def test_maps_are_seen_by_the_deviation_of_their_channels() -> None:
    z = toy()[0].random.normal(2, 5, 4, 4)
    identity = torch.zeros(5, 5, 3, 3).double()
    identity[range(5), range(5), 1, 1] = 1
    assert torch.allclose(projected(z, identity), z.flatten(2).std(2))
    assert projected(z[:, :3], identity[:3, :3]).shape == (2, 48)
    assert projected(z[:, :, 0], identity[..., 1]).shape == (2, 5)


@pytest.mark.parametrize("loss", ["predsim", "pred", "sim"])
def test_convolutions_are_taught_by_their_own_loss(loss: str) -> None:
    problem, batch = convolutional()
    rule = set_up(LocalLosses(sgd(), loss, beta=0.5), problem)
    for name, p in rule.heads.items():
        p.data += 0.1 * problem.random.normal(*p.shape)
        assert not name.startswith("projection") or p.shape[2:] == (3, 3)
    _, direction, heads = rule.gradients(batch)
    blocks, x, total = list(problem.layered.blocks), batch.inputs, torch.zeros(()).double()
    wanted = similarity(torch.nn.functional.one_hot(batch.targets, 3).double())
    share = {"pred": 0.0, "sim": 1.0, "predsim": 0.5}[loss]
    for index, block in enumerate(blocks[:-1]):
        x = block(x.detach())
        if loss != "sim":
            logits = x.flatten(1) @ rule.heads[f"classifier_{index}"].T + rule.heads[f"bias_{index}"]
            total = total + (1 - share) * torch.nn.functional.cross_entropy(logits, batch.targets)
        if loss != "pred":
            seen = similarity(projected(x, rule.heads[f"projection_{index}"]))
            total = total + share * (seen - wanted).square().mean()
    names = [n for n in direction if not n.startswith("blocks.2")]
    values = [*(problem.params[n] for n in names), *rule.heads.values()]
    expected = dict(zip([*names, *rule.heads], torch.autograd.grad(total, values), strict=True))
    assert relative_error(direction | heads, expected) <= 1e-13


def test_mono_forward_sums_the_goodness_of_all_hidden_layers() -> None:
    problem, batch = convolutional()
    rule = set_up(MonoForward(sgd(), "sum"), problem)
    first, second, last = problem.layered.blocks
    h = first(batch.inputs)
    expected = h.flatten(1) @ rule.projections["projection_0"].T + last(second(h))
    assert torch.allclose(rule.summed(batch.inputs), expected, atol=1e-13)
    assert problem.ledger.calls("block_forward") == 3
    assert rule._predictor() == rule.summed
    assert MonoForward(sgd())._predictor() is None


def test_rows_without_a_label_teach_nothing() -> None:
    for make in (lambda: LocalLosses(sgd(), beta=0.5), lambda: MonoForward(sgd())):
        problem, batch = toy()
        some = replace(batch, labelled=torch.arange(8) < 5)
        part = replace(batch, inputs=batch.inputs[:5], targets=batch.targets[:5], index=batch.index[:5])
        rule: Any = set_up(make(), problem)
        found, expected = ({**rule.gradients(one)[1], **rule.gradients(one)[2]} for one in (some, part))
        assert relative_error(found, expected) <= 1e-13


def test_one_block_is_held_until_the_update_and_not_all() -> None:
    """The bytes that wait for the way back do not grow with depth, as those of backprop do."""
    held = {}
    for depth in (2, 6):
        problem, batch = toy((5, *[16] * depth, 3))
        set_up(LocalLosses(sgd()), problem).step(batch)
        held[depth] = problem.ledger.saved_bytes
    assert held[2] == held[6] > 0
