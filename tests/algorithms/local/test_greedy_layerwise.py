"""Greedy layer-wise training: what its oracles leave open."""

import torch

from altprop.algorithms.local.greedy_layerwise import GreedyLayerwise
from altprop.testing import set_up, sgd, toy


def test_predictions_are_those_of_the_stage():
    problem, batch = toy((5, 7, 6, 4, 3))
    rule = set_up(GreedyLayerwise(sgd()), problem)
    for _ in range(3):
        rule.step(batch)
    first = problem.layered.blocks[0](batch.inputs)
    head = rule.heads[0]
    with rule.predictor() as predict, torch.no_grad():
        found = predict(batch.inputs)
    assert float((found - (first @ head["weight"].T + head["bias"])).detach().abs().max()) < 1e-14
    assert float(head["weight"].detach().abs().max()) > 0
    problem.progress = 0.7
    with rule.predictor() as predict, torch.no_grad():
        assert torch.equal(predict(batch.inputs), problem.outputs(batch))


def test_every_hidden_layer_has_an_equal_share_of_the_budget():
    problem, _ = toy((5, 7, 6, 4, 3))
    rule = set_up(GreedyLayerwise(sgd()), problem)
    stages = []
    for progress in (0.0, 0.3, 0.34, 0.66, 0.67, 1.0):
        problem.progress = progress
        stages.append(rule.stage)
    assert stages == [0, 0, 1, 1, 2, 2]
