"""Hebbian learning: what its oracles leave open."""

from dataclasses import replace

import pytest
import torch

from altprop import AltpropError, Batch, ModelSpec, Refused
from altprop.algorithms.local.hebbian import Hebbian
from altprop.capabilities import Capability
from altprop.conformance.case import find_target
from altprop.conformance.suite import RULES
from altprop.models.cnn import CNN
from altprop.randomness import generator_for
from altprop.testing import make_problem, relative_error, set_up, sgd, toy


@pytest.mark.parametrize("chosen", ["oja", "sanger", "krotov_hopfield"])
@pytest.mark.parametrize("rule", ["stacks_as_it_steps", "counts_what_it_does"])
def test_other_rules_obey_too(chosen: str, rule: str) -> None:
    target = find_target("hebbian")
    assert RULES[rule](replace(target, overrides=(*target.overrides, f"algorithm.rule={chosen}"))) is None


def test_bad_options_and_what_cannot_run() -> None:
    for options in ({"rule": "hopfield"}, {"temperature": 0}, {"rank": 1}, {"delta": -0.1}):
        with pytest.raises(AltpropError, match=r"algorithm\.(rule|temperature|rank|delta)"):
            Hebbian(sgd(), **options)
    with pytest.raises(Refused, match="has none; use model=mlp"):
        set_up(Hebbian(sgd()), toy((5, 3))[0])
    with pytest.raises(Refused, match=r"in a layer of 2; use algorithm\.rank=2"):
        set_up(Hebbian(sgd(), "krotov_hopfield", rank=3), toy((5, 2, 3))[0])
    with pytest.raises(Refused, match=r"not blocks\.0\.norm\.weight"):
        set_up(Hebbian(sgd()), toy(normalisation="layer")[0])


@pytest.mark.parametrize("rule", ["softhebb", "oja", "sanger", "krotov_hopfield"])
def test_a_filter_learns_from_every_patch(rule: str) -> None:
    model = CNN(ModelSpec((64,), 3), (4, 5), activation="tanh", generator=generator_for(0)).double()
    problem = make_problem(model, "cross_entropy", offers=frozenset({Capability.SUPERVISED, Capability.CLASSES}))
    learner = set_up(Hebbian(sgd(), rule, temperature=0.5), problem)
    batch = Batch(problem.random.normal(9, 64), problem.random.integers(0, 3, 9), torch.arange(9))
    weight = model.blocks[0].weight.detach().flatten(1)
    patches = torch.nn.functional.unfold(batch.inputs.reshape(9, 1, 8, 8), 3, padding=1, stride=2)
    x = patches.transpose(1, 2).flatten(0, 1)
    u = x @ weight.T
    y = (u / 0.5).softmax(1) if rule == "softhebb" else u
    if rule == "krotov_hopfield":
        places = u.argsort(1, descending=True).argsort(1)
        y = (places == 0).double() - 0.4 * (places == 1).double()
    told = [
        x - u[:, : k + 1] @ weight[: k + 1] if rule == "sanger" else x - u[:, k : k + 1] * weight[k] for k in range(4)
    ]
    expected = -torch.stack([(y[:, k : k + 1] * told[k]).mean(0) for k in range(4)]).reshape(4, 1, 3, 3)
    direction = learner.direction(batch)[1]
    assert relative_error(direction, {"blocks.0.weight": expected}) <= 1e-13
    assert not direction["blocks.0.bias"].any()


def test_rows_without_a_label_teach_hidden_layers_and_not_the_readout() -> None:
    problem, batch = toy()
    learner = set_up(Hebbian(sgd()), problem)
    some = learner.direction(replace(batch, labelled=torch.arange(8) < 5))[1]
    every = learner.direction(batch)[1]
    assert torch.equal(some["blocks.0.weight"], every["blocks.0.weight"])
    part = replace(batch, inputs=batch.inputs[:5], targets=batch.targets[:5], index=batch.index[:5])
    expected = problem.gradient(part)[1]
    assert relative_error(some, {"blocks.2.weight": expected["blocks.2.weight"]}) <= 1e-13
