"""The echo state network: its readout against scikit-learn's ridge, batches, masks, radius, breakdowns and refusals."""

from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import Ridge

from altprop.algorithms.recurrent.reservoir import Reservoir
from altprop.data import Batch
from altprop.errors import AltpropError, Refused
from altprop.testing import set_up, toy, toy_sequence


def part(batch, rows):
    targets = batch.targets[:, rows] if batch.per_step else batch.targets[rows]
    return Batch(batch.inputs[:, rows], targets, rows)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_readout_is_scikit_learns_ridge(per_step, loss):
    problem, batch = toy_sequence("rnn", rows=30, per_step=per_step, loss=loss)
    rule = set_up(Reservoir(ridge=0.1), problem)
    for rows in (torch.arange(10), torch.arange(10, 30)):
        rule.step(part(batch, rows))
    states = problem.unroll(batch, problem.model.initial_state(30), 0, 7)
    seen = states.flatten(0, 1) if per_step else states[-1]
    targets = torch.nn.functional.one_hot(batch.targets, 3).double() if loss == "cross_entropy" else batch.targets
    alpha = 0.1 * float(seen.square().mean()) * len(seen)
    twin = Ridge(alpha=alpha, solver="cholesky").fit(seen.numpy(), targets.reshape(len(seen), 3).numpy())
    assert (problem.params["readout.weight"] - torch.from_numpy(twin.coef_)).abs().max() < 1e-10
    assert (problem.params["readout.bias"] - torch.from_numpy(twin.intercept_)).abs().max() < 1e-10
    assert problem.ledger.updates == 2
    assert problem.ledger.backwards == 0


def test_padding_and_hidden_targets_are_never_read():
    ends = []
    for padding in (0.0, float("nan")):
        problem, batch = toy_sequence("gru", lengths=[7, 3, 5, 1], per_step=True)
        hidden = batch.mask & torch.tensor([True, True, False, True])
        targets = torch.where(hidden[..., None], batch.targets, padding)
        given = replace(batch, targets=targets, labelled=torch.tensor([True, True, False, True]))
        set_up(Reservoir(), problem).step(given)
        ends.append(problem.flat())
    assert ends[0].isfinite().all()
    assert torch.equal(ends[0], ends[1])


def test_each_gate_has_the_radius_once():
    problem, batch = toy_sequence("lstm")
    others = {name: p.detach().clone() for name, p in problem.params.items() if name.startswith("cell.")}
    before = others.pop("cell.weight_state")
    rule = set_up(Reservoir(spectral_radius=0.7), problem)
    rule.step(batch)
    weight = problem.params["cell.weight_state"].detach().clone()
    radii = torch.linalg.eigvals(weight.reshape(4, 5, 5)).abs().amax(1)
    assert (radii - 0.7).abs().max() < 1e-12
    factors = (weight / before).reshape(4, 25)
    assert (factors - factors[:, :1]).abs().max() < 1e-12
    assert all(torch.equal(problem.params[name].detach(), value) for name, value in others.items())
    rule.step(batch)
    assert torch.equal(problem.params["cell.weight_state"].detach(), weight)


def test_a_dead_reservoir_says_the_mean():
    problem, batch = toy_sequence("rnn")
    with torch.no_grad():
        for p in problem.model.cell.parameters():
            p.zero_()
    set_up(Reservoir(ridge=0.0), problem).step(batch)
    assert problem.flat().isfinite().all()
    assert (problem.outputs(batch) - batch.targets.mean(0)).abs().max() < 1e-12


def test_refusals():
    with pytest.raises(Refused, match="Reservoir needs a recurrent model; task toy with model mlp offers none"):
        set_up(Reservoir(), toy()[0])
    with pytest.raises(AltpropError, match=r"algorithm.spectral_radius must be a number above 0; got 0"):
        Reservoir(spectral_radius=0)
    with pytest.raises(AltpropError, match=r"algorithm.ridge must be a number of at least 0; got -1"):
        Reservoir(ridge=-1)
