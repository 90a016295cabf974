"""Rules whose layers have states of their own: what the oracles leave open."""

import pytest
import torch

from altprop.algorithms.dropout.standard import StandardDropout
from altprop.algorithms.energy.equilibrium_propagation import EquilibriumPropagation
from altprop.algorithms.energy.predictive_coding import PredictiveCoding
from altprop.errors import Refused
from altprop.testing import cosine, relative_error, set_up, sgd, toy


def settled_twin(problem, batch, steps, rate):
    """Return the states after so many steps of settling, written out for a net of three dense blocks."""
    first, second, third = problem.layered.blocks
    one = first(batch.inputs)
    two = second(one)
    for _ in range(steps):
        one, two = (
            (1 - rate) * one + rate * torch.tanh(first.transform(batch.inputs) + two @ second.weight),
            (1 - rate) * two + rate * torch.tanh(second.transform(one)),
        )
    return third(two).detach()


def test_states_move_by_the_rate():
    problem, batch = toy()
    rule = set_up(EquilibriumPropagation(sgd(), free_steps=3, rate=0.3), problem)
    found = rule.free(problem.walk(batch)).outputs
    assert float((found - settled_twin(problem, batch, 3, 0.3)).abs().max()) < 1e-14


def test_predictions_are_those_of_the_free_equilibrium():
    problem, batch = toy()
    rule = set_up(EquilibriumPropagation(sgd(), free_steps=4), problem)
    with rule.predictor() as predict, torch.no_grad():
        found = predict(batch.inputs)
    assert float((found - settled_twin(problem, batch, 4, rule.rate)).abs().max()) < 1e-14
    assert float((found - problem.outputs(batch).detach()).abs().max()) > 1e-3
    loss, _ = rule.direction(batch)
    assert float(loss) == pytest.approx(float(problem.output_loss(found, batch)), abs=1e-14)


def test_the_sign_of_the_nudge_is_random_and_divided_out():
    """Both signs come, and either gives the gradient to order beta."""
    problem, batch = toy()
    problem.assign(0.25 * problem.flat())
    rule = set_up(EquilibriumPropagation(sgd(), "random_sign", 1e-3, 80, 80), problem)
    reference = set_up(EquilibriumPropagation(sgd(), "centred", 1e-3, 80, 80), problem).direction(batch)[1]
    found = [rule.direction(batch)[1] for _ in range(8)]
    assert all(relative_error(one, reference) < 5e-3 for one in found)  # 1e-3 seen
    assert len({float(problem.flatten(one).norm()) for one in found}) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"activation": "gelu"}, "needs an activation with an inverse"),
        ({"normalisation": "layer"}, "no energy of normalised layers"),
        ({"noise": StandardDropout(0.3)}, "has no masks"),
    ],
)
def test_equilibrium_propagation_refuses_what_has_no_energy(options, sentence):
    problem, _ = toy(**options)
    with pytest.raises(Refused, match=sentence):
        set_up(EquilibriumPropagation(sgd()), problem)


def test_incremental_predictive_coding_refuses_noise():
    problem, _ = toy(noise=StandardDropout(0.3))
    with pytest.raises(Refused, match="amid its masks"):
        set_up(PredictiveCoding(sgd(), "incremental"), problem)


@pytest.mark.parametrize("variant", ["fixed_prediction", "zero_divergence"])
def test_under_dropout_predictive_coding_is_backprop_with_the_same_masks(variant):
    problem, batch = toy(noise=StandardDropout(0.3))
    rule = set_up(PredictiveCoding(sgd(), variant, steps=2, rate=1.0), problem)
    with problem.same_noise():
        assert relative_error(rule.direction(batch)[1], problem.gradient(batch)[1]) < 1e-13


def test_one_hidden_layer_has_nothing_to_settle_freely():
    problem, batch = toy((5, 7, 3))
    rule = set_up(EquilibriumPropagation(sgd(), beta=1e-3, nudged_steps=60), problem)
    assert relative_error(rule.direction(batch)[1], problem.gradient(batch)[1]) < 1e-5


def test_without_a_hidden_layer_both_are_the_gradient():
    problem, batch = toy((5, 3))
    expected = problem.gradient(batch)[1]
    for rule in (EquilibriumPropagation(sgd()), PredictiveCoding(sgd())):
        assert cosine(problem.flatten(set_up(rule, problem).direction(batch)[1]), problem.flatten(expected)) > 1 - 1e-12
        assert all(float(value) >= 0 for value in rule.probe(batch).values() if value is not None)
