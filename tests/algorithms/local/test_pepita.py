"""PEPITA: what its oracles leave open."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from altprop import AltpropError, Batch, ModelSpec, MultiplicativeNoise, Refused
from altprop.algorithms.local.pepita import Pepita
from altprop.capabilities import Capability
from altprop.models.cnn import CNN
from altprop.randomness import generator_for
from altprop.testing import make_problem, relative_error, set_up, sgd, toy


class Bernoulli(MultiplicativeNoise):
    """Dropout of the units, for these tests."""

    sites = frozenset({"unit"})

    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        return (self.clock.uniform(shape, site, layer, 0, like) < 0.7).to(like.dtype) / 0.7


def test_what_it_cannot_run_is_refused() -> None:
    with pytest.raises(AltpropError, match=r"algorithm\.scale"):
        Pepita(sgd(), scale=0)
    with pytest.raises(Refused, match=r"not blocks\.0\.norm\.weight"):
        set_up(Pepita(sgd()), toy(normalisation="layer")[0])


def test_masks_hold_over_both_passes() -> None:
    """Without modulation both passes are one, so hidden layers stay; a phase of their own for each would move them."""
    problem, batch = toy(noise=Bernoulli())
    rule = set_up(Pepita(sgd()), problem)
    rule.feedback = torch.zeros_like(rule.feedback)
    found = rule.direction(batch)[1]
    assert all(not bool(value.any()) for name, value in found.items() if not name.startswith("blocks.2"))
    reference = problem.gradient(batch)[1]
    assert found["blocks.2.weight"].shape == reference["blocks.2.weight"].shape
    second = rule._second

    def later(*given: object) -> object:
        problem.clock.phase += 1
        return second(*given)  # type: ignore[arg-type]

    rule._second = later  # type: ignore[method-assign, assignment]
    assert bool(rule.direction(batch)[1]["blocks.0.weight"].any())


def test_a_dropped_unit_learns_nothing() -> None:
    problem, batch = toy(rows=1, noise=Bernoulli())
    rule = set_up(Pepita(sgd(), scale=1.0), problem)
    with problem.same_noise():
        dropped = next(iter(problem.layered.blocks))(batch.inputs)[0] == 0
        found = rule._direction(batch)[1]["blocks.0.weight"]
    assert 0 < int(dropped.sum()) < 7
    assert not found[dropped].any()
    assert bool(found[~dropped].any(1).all())


def test_scale_of_the_feedback() -> None:
    rule = set_up(Pepita(sgd(), scale=0.1), toy((200, 4, 50))[0])
    assert float(rule.feedback.std()) == pytest.approx(0.1 * (2 / 200) ** 0.5, rel=0.03)


def test_rows_without_a_label_teach_nothing() -> None:
    problem, batch = toy()
    rule = set_up(Pepita(sgd(), scale=1.0), problem)
    some = replace(batch, labelled=torch.arange(8) < 5)
    part = replace(batch, inputs=batch.inputs[:5], targets=batch.targets[:5], index=batch.index[:5])
    assert relative_error(rule.direction(some)[1], rule.direction(part)[1]) <= 1e-13


def test_convolutions_learn_from_the_difference_of_their_maps() -> None:
    model = CNN(ModelSpec((64,), 3), (4, 5), activation="tanh", generator=generator_for(0)).double()
    problem = make_problem(model, "cross_entropy", offers=frozenset({Capability.SUPERVISED, Capability.CLASSES}))
    batch = Batch(problem.random.normal(9, 64), problem.random.integers(0, 3, 9), torch.arange(9))
    rule = set_up(Pepita(sgd(), scale=1.0), problem)
    blocks = list(model.blocks)
    first = blocks[0](batch.inputs)
    e = 9 * problem.output_gradient(model(batch.inputs), batch)
    x = batch.inputs + (e @ rule.feedback).detach()
    other = blocks[0](x)
    (expected,) = torch.autograd.grad((blocks[0].transform(x) * (first - other).detach()).sum() / 9, blocks[0].weight)
    found = rule.direction(batch)[1]
    assert relative_error({"w": found["blocks.0.weight"]}, {"w": expected}) <= 1e-13


def test_two_passes_forward_are_counted() -> None:
    problem, batch = toy()
    set_up(Pepita(sgd()), problem).step(batch)
    assert problem.ledger.calls("block_forward") == 6
    assert problem.ledger.calls("transpose") == 0
