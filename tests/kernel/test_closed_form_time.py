"""The gradient of a plain recurrent network written out: automatic differentiation's, alone, in windows and stacked."""

import pytest
import torch
from torch import Tensor

from altprop import Window
from altprop.algorithms.recurrent.truncated_bptt import TruncatedBPTT, last_valid, lossy
from altprop.data import Batch
from altprop.models.parts import ACTIVATIONS
from altprop.problem import Problem
from altprop.testing import relative_error, set_up, sgd, toy_sequence
from altprop.vectorized import Members

LENGTHS = (None, [7, 3, 5, 1])


def made(activation: str = "tanh", **options: object) -> tuple[Problem, Batch]:
    problem, batch = toy_sequence("rnn", **options)
    problem.model.cell.activation = ACTIVATIONS[activation]
    return problem, batch


def watched(problem: Problem, batch: Batch, window: Window, piece: Batch, h: Tensor) -> tuple:
    """Return the same of a model whose readout is watched, which automatic differentiation serves."""
    hook = problem.model.readout.register_forward_hook(lambda *_: None)
    try:
        return problem.window_gradient(batch, window, piece, h)
    finally:
        hook.remove()


@pytest.mark.parametrize("lengths", LENGTHS, ids=["whole", "padded"])
@pytest.mark.parametrize("per_step", [False, True], ids=["final", "per_step"])
@pytest.mark.parametrize("activation", ["tanh", "relu", "silu", "elu"])
def test_it_is_automatic_differentiation(activation: str, per_step: bool, lengths: list[int] | None) -> None:
    problem, batch = made(activation, per_step=per_step, lengths=lengths)
    h = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(4, 5)
    ends = None if lengths is None or per_step else last_valid(batch.mask)
    for window in (Window(0, 0, 7), Window(0, 2, 4), Window(3, 4, 7)):
        piece = lossy(batch, window, ends)
        if piece is None:
            continue
        value, grads, states = problem.window_gradient(batch, window, piece, h)
        expected, reference, visited = watched(problem, batch, window, piece, h)
        assert float(value) == pytest.approx(float(expected), rel=1e-14)
        assert list(grads) == list(reference)
        assert relative_error(grads, reference) < 1e-13
        assert torch.allclose(states, visited, rtol=1e-13, atol=1e-14)
        assert not states.requires_grad


@pytest.mark.parametrize("per_step", [False, True], ids=["final", "per_step"])
@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_padding_changes_no_bit(cell: str, per_step: bool) -> None:
    problem, batch = toy_sequence(cell, per_step=per_step, lengths=[7, 3, 5, 1])
    value, grads = problem.gradient(batch)
    inputs = torch.where(batch.mask[..., None], batch.inputs, torch.nan)
    again, padded = problem.gradient(Batch(inputs, batch.targets, batch.index, batch.mask, batch.reset))
    assert float(value) == float(again)
    assert all(torch.equal(grads[name], padded[name]) for name in grads)


@pytest.mark.parametrize("per_step", [False, True], ids=["final", "per_step"])
def test_both_ways_cost_the_same(per_step: bool) -> None:
    found = []
    for on in (False, True):
        problem, batch = made(per_step=per_step, lengths=LENGTHS[1])
        if on:
            problem.model.cell.register_forward_hook(lambda *_: None)
        rule = set_up(TruncatedBPTT(sgd(), 3, 5, "sequence"), problem)
        for _ in range(3):
            rule.step(batch)
        found.append({k: v for k, v in problem.ledger.summary().items() if k in ("flops", "forwards", "backwards")})
    assert found[0] == found[1]


@pytest.mark.parametrize("where", ["readout", "readout before", "model", "parameter"])
def test_who_watches_by_a_hook_sees_every_pass(where: str) -> None:
    problem, batch = made()
    problem.gradient(batch)
    model, calls = problem.model, []
    register = {
        "readout": model.readout.register_forward_hook,
        "readout before": model.readout.register_forward_pre_hook,
        "model": model.register_forward_hook,
        "parameter": model.cell.weight_state.register_hook,
    }[where]
    register(lambda *_: calls.append(where))
    problem.gradient(batch)
    assert calls == [where]


@pytest.mark.parametrize("per_step", [False, True], ids=["final", "per_step"])
def test_stacked_it_is_each_learners_own(per_step: bool) -> None:
    learners = [made(seed=seed, per_step=per_step, lengths=LENGTHS[1]) for seed in range(3)]
    first, batch = learners[0]
    members = Members(3)
    stacks = {name: torch.stack([p.params[name].detach() for p, _ in learners]) for name in first.params}
    inputs, targets = (torch.stack([getattr(b, part) for _, b in learners]) for part in ("inputs", "targets"))
    with members.opened():
        for name, stacked in stacks.items():
            place, _, part = name.partition(".")
            getattr(first.model, place)._parameters[part] = members.one(stacked)
        first.look_up()
        seen = Batch(members.one(inputs), members.one(targets), batch.index, batch.mask)
        with members.inside():
            value, grads = first.gradient(seen)
            values, found = members.all(value), {name: members.all(g) for name, g in grads.items()}
    for place in (1, 2):
        problem, own = learners[place]
        expected, reference, _ = watched(problem, own, Window(0, 0, 7), own, problem.model.initial_state(4))
        assert float(values[place]) == pytest.approx(float(expected), rel=1e-14)
        assert relative_error({name: g[place] for name, g in found.items()}, reference) < 1e-13
