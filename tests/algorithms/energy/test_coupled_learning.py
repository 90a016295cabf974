"""Coupled learning: what its oracles leave open."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from altprop import AltpropError, Refused
from altprop.algorithms.dropout.standard import StandardDropout
from altprop.algorithms.energy.coupled_learning import CoupledLearning
from altprop.testing import relative_error, set_up, sgd, toy


@pytest.mark.parametrize("option", ["eta", "rate", "free_steps", "clamped_steps"])
def test_bad_options(option: str) -> None:
    with pytest.raises(AltpropError, match=rf"algorithm\.{option}"):
        CoupledLearning(sgd(), **{option: 0})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"activation": "gelu"}, "needs an activation with an inverse"),
        ({"normalisation": "layer"}, "no energy of normalised layers"),
        ({"noise": StandardDropout(0.3)}, "has no masks"),
    ],
)
def test_it_refuses_what_has_no_energy(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        set_up(CoupledLearning(sgd()), toy(**options)[0])


@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_without_a_hidden_layer_it_is_the_gradient(eta: float) -> None:
    problem, batch = toy((5, 3))
    rule = set_up(CoupledLearning(sgd(), eta), problem)
    assert relative_error(rule.direction(batch)[1], problem.gradient(batch)[1]) <= 1e-13
    assert rule.probe(batch) == {}


def test_outputs_send_probabilities_back_and_predictions_know_it() -> None:
    problem, batch = toy((5, 7, 3))
    rule = set_up(CoupledLearning(sgd(), free_steps=3, rate=0.3), problem)
    first, second = problem.layered.blocks
    state = first(batch.inputs)
    for _ in range(3):
        sent = second(state).softmax(1) @ second.weight
        state = 0.7 * state + 0.3 * torch.tanh(first.transform(batch.inputs) + sent)
    with rule.predictor() as predict, torch.no_grad():
        assert float((predict(batch.inputs) - second(state)).abs().max()) <= 1e-14


def test_what_has_not_settled_freely_is_no_difference() -> None:
    """At the target nothing is to be learned, however far the states are from rest."""
    problem, batch = toy((5, 7, 6, 3), loss="half_squared_error")
    rule = set_up(CoupledLearning(sgd(), eta=0.01, free_steps=1), problem)
    reached = rule.free(problem.walk(batch)).outputs
    assert not any(value.any() for value in rule.direction(replace(batch, targets=reached))[1].values())
    assert rule.probe(batch)["unsettled"] > 0.01
