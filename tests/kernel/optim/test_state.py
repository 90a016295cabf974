"""State: exact resume in weights_only-safe types, and parameters that are replaced or grow."""

from typing import Any

import pytest
import torch
from recipes import FOREIGN, TORCH, Run, recipe
from torch import nn

from altprop.errors import AltpropError
from altprop.models.base import Dense
from altprop.optim import OptimizerFactory
from altprop.randomness import generator_for
from altprop.testing import toy


@pytest.mark.parametrize("name", [*TORCH, *FOREIGN])
def test_resume_is_exact(name: str) -> None:
    """Interrupted before the first step, in the middle, and past 10 steps, where preconditioners are made anew."""
    changes: dict[str, Any] = {} if name == "rprop" else {"schedule": "cosine", "warmup": 0.1}
    factory = recipe(name, clip_norm=1.0, **changes)
    whole = Run(factory, dtype=torch.float32)
    end = whole.take(24)
    for at in (0, 5, 13):
        first = Run(factory, dtype=torch.float32)
        first.take(at)
        second = Run(factory, dtype=torch.float32, seed=0)
        second.take(2)  # its own state must give way
        second.load(first.save())
        assert torch.equal(second.take(24 - at), end), f"resumed at {at}"
    assert second.problem.ledger.flops == whole.problem.ledger.flops


def test_attributes_of_somebodys_own_optimizer_are_state_too() -> None:
    factory = OptimizerFactory("recipes.Halving", lr=0.1)
    states = torch.get_rng_state()
    end = Run(factory).take(8)
    first, second = Run(factory), Run(factory)
    first.take(3)
    second.load(first.save())
    assert torch.equal(second.take(5), end)
    assert torch.equal(torch.get_rng_state(), states)


def test_the_state_matters() -> None:
    """The negative control of the test above: without the optimizer's state, the end is another."""
    factory = recipe("adam")
    end = Run(factory).take(12)
    first, second = Run(factory), Run(factory)
    first.take(6)
    second.load(first.save())
    second.rule.load_state_dict(Run(factory).rule.state_dict())
    assert not torch.equal(second.take(6), end)


def test_a_state_of_other_parameters_is_refused() -> None:
    small, large = Run(recipe("adam")), Run(recipe("adam"), sizes=(5, 8, 6, 3))
    with pytest.raises(AltpropError, match="saved state of optimizer Adam is of other parameters"):
        large.rule.load_state_dict(small.rule.state_dict())


def replace(module: nn.Module, name: str, value: torch.Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, nn.Parameter(value))


def test_a_replaced_parameter_keeps_its_state_and_is_the_one_that_moves() -> None:
    """A raw optimizer silently steps the old tensor."""
    ours, theirs = Run(recipe("adam")), Run(recipe("adam"))
    assert torch.equal(ours.take(5), theirs.take(5))
    model = ours.problem.model
    raw = torch.optim.Adam(model.parameters())
    replace(model, "blocks.1.weight", model.blocks[1].weight.detach().clone())
    ours.rule.updater.rebind()
    assert torch.equal(ours.take(5), theirs.take(5))
    before = model.blocks[1].weight.detach().clone()
    model.blocks[1].weight.grad = torch.ones_like(before)
    raw.step()
    model.blocks[1].weight.grad = None
    assert torch.equal(model.blocks[1].weight.detach(), before)


def test_a_grown_layer_starts_anew_and_the_others_go_on() -> None:
    run = Run(recipe("momentum"))
    run.take(4)
    state = run.rule.updater.state_dict()["parts"][0]["state"]
    model = run.problem.model
    for index, rows, columns in ((1, 9, 7), (2, 3, 9)):
        replace(model, f"blocks.{index}.weight", torch.zeros(rows, columns, dtype=torch.float64))
    replace(model, "blocks.1.bias", torch.zeros(9, dtype=torch.float64))
    run.rule.updater.rebind()
    grown = run.rule.updater.state_dict()["parts"][0]
    assert sorted(grown["state"]) == ["blocks.0.bias", "blocks.0.weight", "blocks.2.bias"]
    assert all(str(grown["state"][name]) == str(state[name]) for name in grown["state"])
    assert grown["shapes"]["blocks.1.weight"] == [9, 7]
    assert bool(run.take(3).isfinite().all())


@pytest.mark.parametrize("name", ["momentum", "adam", "shampoo"])
def test_blocks_behind_an_inserted_one_take_their_state_along(name: str) -> None:
    """They are called otherwise, and a new block of the same shape has no state; what goes away takes its own along."""
    run = Run(recipe(name), sizes=(5, 6, 6, 3))
    run.take(4)
    updater, model = run.rule.updater, run.problem.layered
    before = updater.state_dict()["parts"][0]["state"]
    model.insert_block(1, Dense(6, 6, activation="tanh", generator=generator_for(2)))
    updater.rebind()
    after = updater.state_dict()["parts"][0]["state"]
    assert sorted(after) == sorted(n for n in run.problem.params if not n.startswith("blocks.1"))
    for old, new in (("blocks.0", "blocks.0"), ("blocks.1", "blocks.2"), ("blocks.2", "blocks.3")):
        assert str(before[f"{old}.weight"]) == str(after[f"{new}.weight"])
    model.remove_block(2)
    updater.rebind()
    left = updater.state_dict()["parts"][0]["state"]
    assert "blocks.1.weight" not in left
    assert str(left["blocks.2.weight"]) == str(before["blocks.2.weight"])
    assert bool(run.take(3).isfinite().all())


def test_a_parameter_under_a_new_name_is_bound_and_moves() -> None:
    run = Run(recipe("momentum"))
    run.take(2)
    fresh = nn.Parameter(torch.ones(2, dtype=torch.float64))
    run.problem.model.register_parameter("fresh", fresh)
    run.rule.updater.rebind()
    grads = {name: torch.ones_like(p) for name, p in run.problem.params.items()}
    run.rule.updater.apply(grads)
    assert "fresh" in grads
    assert not torch.equal(fresh.detach(), torch.ones(2, dtype=torch.float64))


def test_lbfgs_forgets_when_its_vector_changes_length() -> None:
    run = Run(recipe("lbfgs"))
    run.take(2)
    assert run.rule.updater.state_dict()["parts"][0]["state"]
    replace(run.problem.model, "blocks.2.bias", torch.zeros(3, dtype=torch.float64))
    run.rule.updater.rebind()
    assert run.rule.updater.state_dict()["parts"][0]["state"], "same shapes: kept"
    replace(run.problem.model, "blocks.1.weight", torch.zeros(6, 7, dtype=torch.float64)[:, :])
    replace(run.problem.model, "blocks.0.weight", torch.zeros(7, 5, dtype=torch.float64))
    run.problem.model.register_parameter("extra", nn.Parameter(torch.zeros(2, dtype=torch.float64)))
    run.rule.updater.rebind()
    assert run.rule.updater.state_dict()["parts"][0]["state"] == {}


def test_rebind_of_nothing_new_keeps_the_very_optimizer() -> None:
    run = Run(recipe("adam"))
    optimizer = run.rule.updater._parts[0].optimizer
    run.rule.updater.rebind()
    assert run.rule.updater._parts[0].optimizer is optimizer


def test_saved_objects_are_built_from_their_own_library_alone() -> None:
    pytest.importorskip("pytorch_optimizer")
    run = Run(OptimizerFactory("pytorch_optimizer", lr=0.01, algorithm="conda"))
    run.take(2)
    state = run.rule.updater.state_dict()
    entries = state["parts"][0]["state"]["blocks.0.weight"]["items"]
    spoiled = [item for item in entries if isinstance(item[1], dict) and "object" in item[1]]
    assert spoiled
    spoiled[0][1]["object"][0] = "subprocess:Popen"
    with pytest.raises(AltpropError, match="subprocess:Popen, which is no class of its library"):
        run.rule.updater.load_state_dict(state)


def test_updaters_of_two_modules_do_not_share_state() -> None:
    problem, batch = toy()
    _, grads = problem.gradient(batch)
    one = problem.updater(recipe("adam"), problem.layered.blocks[0])
    two = problem.updater(recipe("adam"), problem.layered.blocks[1])
    one.apply({name: grads[f"blocks.0.{name}"] for name in ("weight", "bias")})
    assert sorted(one.state_dict()["parts"][0]["state"]) == ["bias", "weight"]
    assert two.state_dict()["parts"][0]["state"] == {}
