"""Adaptive gradient clipping, beside the rule written out unit by unit."""

import pytest
import torch

from altprop import OptimizerFactory
from altprop.data import Batch, ModelSpec
from altprop.models.cnn import CNN
from altprop.randomness import generator_for
from altprop.testing import make_problem, sgd, toy

BOUND = 0.02


def by_hand(weight: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Clip unit by unit, a vector as a whole."""
    if weight.dim() < 2:
        return by_hand(weight[None], direction[None])[0]
    found = direction.clone()
    for unit in range(len(weight)):
        most = BOUND * max(float(weight[unit].norm()), 1e-3)
        found[unit] *= min(1.0, most / float(direction[unit].norm()))
    return found


@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_a_units_direction_is_bounded_by_its_weights(kind: str) -> None:
    problem, batch = toy((5, 7, 6, 3), rows=16)
    if kind == "convolution":
        model = CNN(ModelSpec((36,), 3), [3, 4], stride=[1, 2], generator=generator_for("cnn")).double()
        x = torch.randn(6, 36, generator=generator_for("x"), dtype=torch.float64)
        problem, batch = make_problem(model, "cross_entropy"), Batch(x, torch.arange(6) % 3, torch.arange(6))
    with torch.no_grad():
        problem.model.blocks[0].weight[0] = 0.0  # a unit at 0 must be able to leave it
    direction = {name: 10 * g for name, g in problem.gradient(batch)[1].items()}
    kept = {name: g.clone() for name, g in direction.items()}
    before = {name: p.detach().clone() for name, p in problem.params.items()}
    problem.updater(OptimizerFactory("torch.optim.SGD", lr=1.0, clip_adaptive=BOUND)).apply(direction)
    last = f"blocks.{len(problem.model.blocks) - 1}."
    for name, old in before.items():
        wanted = direction[name] if name.startswith(last) else by_hand(old, direction[name])
        torch.testing.assert_close(old - problem.params[name].detach(), wanted, atol=1e-14, rtol=1e-10)
        assert torch.equal(direction[name], kept[name])
        assert torch.equal(wanted, direction[name]) == name.startswith(last), name


def test_a_wide_bound_is_none() -> None:
    ends = []
    for factory in (sgd(), OptimizerFactory("torch.optim.SGD", lr=0.1, clip_adaptive=1e9)):
        problem, batch = toy()
        problem.updater(factory).apply(problem.gradient(batch)[1])
        ends.append(problem.flat())
    torch.testing.assert_close(*ends, atol=0, rtol=1e-14)
