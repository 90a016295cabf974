"""Target propagation: what its oracles leave open."""

import torch

from altprop.algorithms.feedback.feedback_alignment import chain
from altprop.algorithms.feedback.target_propagation import TargetPropagation
from altprop.chain import ChainWalk
from altprop.testing import relative_error, set_up, sgd, toy


def test_inverses_learn_before_the_layers_and_as_often_as_is_asked():
    problem, batch = toy((5, 7, 6, 6, 3))
    rule = set_up(TargetPropagation(sgd(), inverse_steps=3), problem)
    before = [p.detach().clone() for p in rule.inverses.parameters()]
    layers = problem.flat()
    seen = []
    apply = rule.updater.apply
    rule.updater.apply = lambda direction: (seen.append(problem.flat()), apply(direction))
    rule.step(batch)
    assert all(not torch.equal(p, old) for p, old in zip(rule.inverses.parameters(), before, strict=True))
    assert torch.equal(seen[0], layers)
    assert rule.inverse_updater._steps == 3
    assert problem.ledger.updates == 4


def test_trained_inverses_bring_a_disturbed_layer_back():
    """Reconstruction: what is left of the noise after 400 steps of the inverses alone."""
    problem, batch = toy((5, 7, 7, 3))
    rule = set_up(TargetPropagation(sgd(0.3), noise=0.1), problem)
    outputs = problem.walk(batch).block_outputs[:2]

    def left():
        u = outputs[0] + 0.1 * torch.randn(8, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        with torch.no_grad():
            return float((rule.inverses[0](chain(problem)[1](u)) - u).norm() / (u - outputs[0]).norm())

    start = left()
    for _ in range(400):
        rule.inverse_updater.apply(rule.inverse_gradient(outputs))
    assert left() < 0.25 * start  # 0.09 seen


def test_with_one_hidden_layer_its_target_is_a_step_against_the_gradient():
    """Then the direction of the hidden layer is 2 step times backpropagation's."""
    problem, batch = toy((5, 7, 3))
    rule = set_up(TargetPropagation(sgd(), step=0.25), problem)
    assert rule.inverse_updater is None
    found, expected = rule.direction(batch)[1], problem.gradient(batch)[1]
    hidden = {name: 2 * 0.25 * value for name, value in expected.items() if name.startswith("blocks.0.")}
    last = {name: value for name, value in expected.items() if name.startswith("blocks.1.")}
    assert relative_error(found, hidden | last) < 1e-13


def test_the_output_layer_has_an_inverse_where_the_first_target_stands_there(monkeypatch):
    problem, batch = toy((5, 7, 3))
    rule = set_up(TargetPropagation(sgd(), first_target="output"), problem)
    assert [tuple(inverse.weight.shape) for inverse in rule.inverses] == [(7, 3)]
    sent = []
    monkeypatch.setattr(ChainWalk, "_sent", lambda *given: sent.append(given))
    rule.step(batch)
    assert not sent  # no signal goes through a transposed weight


def test_without_a_hidden_layer_it_is_the_gradient():
    problem, batch = toy((5, 3))
    assert (
        relative_error(set_up(TargetPropagation(sgd()), problem).direction(batch)[1], problem.gradient(batch)[1])
        < 1e-14
    )
