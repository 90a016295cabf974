"""Noise of recurrent nets: what stands still over time and what does not, and expectations over all masks."""

import itertools
import math

import pytest
import torch
from linear_unit import DROP, KEEP, bernoulli, expectation, objective, outputs

from altprop.algorithms.dropout.recurrent import RecurrentDropout
from altprop.algorithms.dropout.standard import StandardDropout
from altprop.algorithms.dropout.variational import VariationalDropout
from altprop.algorithms.dropout.zoneout import Zoneout
from altprop.errors import Refused
from altprop.models.recurrent import STATE
from altprop.noise import NoiseClock
from altprop.testing import toy, toy_sequence


@pytest.mark.parametrize("site", ["input", "unit"])
def test_variational_masks_stand_still_and_standard_ones_do_not(site):
    x = torch.ones(9, 40, 30)
    for noise, still in ((VariationalDropout(0.5, 0.5), True), (StandardDropout(0.5, 0.5), False)):
        noise.bind(NoiseClock(3))
        y = noise.over_time(x, site, 0)
        assert bool((y == y[0]).all()) == still
        # A window sees the masks of the whole, and rows, units and phases have masks of their own.
        assert torch.equal(noise.over_time(x[4:], site, 0, 4), y[4:])
        assert y[0].mean(0).unique().numel() > 1
        assert y[0].mean(1).unique().numel() > 1
        noise.clock.phase = 1
        assert not torch.equal(noise.over_time(x, site, 0), y)


def test_each_site_has_its_rate_and_its_mask():
    noise = VariationalDropout(p=0.5, p_input=0.2, p_state=0.7)
    noise.bind(NoiseClock(3))
    masks = {site: noise.mask(torch.ones(400, 50), site, 1) for site in ("unit", "input", "state")}
    for site, p in (("unit", 0.5), ("input", 0.2), ("state", 0.7)):
        assert float((masks[site] == 0).float().mean()) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 20_000))
        assert float(masks[site].max()) == pytest.approx(1 / (1 - p))
    for a, b in itertools.combinations(masks.values(), 2):
        assert abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) < 4 / math.sqrt(20_000)


@pytest.mark.parametrize("p", [0.3])
def test_all_masks_of_a_readout(p):
    """One mask for 7 times: each time's loss gains p/(1-p)/2 sum w^2 h_t^2. Seen: 9e-16."""
    problem, batch = toy_sequence(rows=1, per_step=True, noise=VariationalDropout(p, 0.0, 0.0))
    quiet, _ = toy_sequence(rows=1, per_step=True)
    states = quiet.model.unroll(batch.inputs, quiet.model.initial_state(1))[0].detach()[:, 0]
    w = quiet.model.readout.weight.detach()
    ridge = p / (1 - p) / 2 * (states.square() @ w.square().T).sum(1).mean()
    key = ("unit", STATE, 0, 0, "uniform")
    assert (
        abs(expectation(objective, problem, batch, bernoulli(p, (1, 5)), key) - quiet.objective(batch) - ridge) < 1e-14
    )
    off = expectation(outputs, problem, batch, bernoulli(p, (1, 5)), key) - quiet.outputs(batch).detach()
    assert off.abs().max() < 1e-14
    assert ridge > 1e-3


def test_variational_dropout_of_a_cell_is_what_is_written():
    noise = VariationalDropout(0.3, 0.4, 0.5)
    problem, batch = toy_sequence("gru", noise=noise, per_step=True)
    model, cell = problem.model, problem.model.cell
    x_mask = noise.mask(batch.inputs[0], "input", 0)
    h = model.initial_state(4)
    h_mask, y_mask = noise.mask(h, "state", STATE), noise.mask(h, "unit", STATE)
    found = model(batch.inputs)
    for t, x in enumerate(batch.inputs):
        a, back = (x * x_mask) @ cell.weight_input.T + cell.bias, (h * h_mask) @ cell.weight_state.T
        r, z = (a[:, :10] + back[:, :10]).sigmoid().chunk(2, -1)
        n = torch.tanh(a[:, 10:] + r * (back[:, 10:] + cell.bias_state))
        h = (1 - z) * n + z * h
        assert (found[t] - (h * y_mask) @ model.readout.weight.T - model.readout.bias).abs().max() < 1e-14


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_all_masks_of_a_zoned_out_step(cell):
    """Evaluation is the expectation over all 2^5 masks of a step, and each mask chooses value by value."""
    noise = Zoneout(p=0.3, p_cell=0.6)
    problem, batch = toy_sequence(cell, rows=1, steps=2, noise=noise)
    model, width = problem.model, problem.model.cell.state_size
    h = torch.linspace(-1, 1, width, dtype=torch.float64)[None]
    with problem.evaluating():
        expected = model.unroll(batch.inputs[:1], h)[1].detach()
        after = model.cell(batch.inputs[0], h).detach()
    mean = 0.0
    for kept in itertools.product((False, True), repeat=5):
        # The masks of the memory go along with those of the units: only the mean of each value counts.
        chosen = (*kept, *kept)[:width]
        for memory_kept, share in ((True, 0.6), (False, 0.4)):
            full = torch.tensor([*chosen[:5], *[memory_kept] * (width - 5)])[None]
            draws = torch.where(full, DROP, KEEP).double()
            with problem.clock.replay({("carry", STATE, 0, 0, "uniform"): draws}):
                state = model.unroll(batch.inputs[:1], h)[1].detach()
            assert torch.equal(state, torch.where(full, h, after))
            mean = mean + share * 0.3 ** sum(kept) * 0.7 ** (5 - sum(kept)) * state
    assert (mean - expected).abs().max() < 1e-14
    assert (expected - after).abs().max() > 1e-2


def test_zoneout_draws_anew_at_each_time_and_at_its_rates():
    noise = Zoneout(p=0.2, p_cell=0.7)
    problem, _ = toy_sequence("lstm", width=50, noise=noise)
    before, after = torch.zeros(200, 100).double(), torch.ones(200, 100).double()
    first, second = (noise.mix(after, before, STATE, t) for t in (0, 1))
    assert problem.clock.time == 0
    assert not torch.equal(first, second)
    for part, p in ((first[:, :50], 0.2), (first[:, 50:], 0.7)):
        assert float((part == 0).double().mean()) == pytest.approx(p, abs=0.02)
        assert part.mean(0).unique().numel() > 1
        assert part.mean(1).unique().numel() > 1


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_all_masks_of_an_update(cell):
    """The next state is linear in the mask of the candidate, so its mean is the quiet one; the old state is whole."""
    noise = RecurrentDropout(p=0.3)
    problem, batch = toy_sequence(cell, rows=1, noise=noise)
    model = problem.model
    h = torch.linspace(-1, 1, model.cell.state_size, dtype=torch.float64)[None]
    with problem.evaluating():
        quiet = model.unroll(batch.inputs[:1], h)[1].detach()
    memory = slice(0, 5) if cell == "gru" else slice(5, 10)
    mean, none = 0.0, None
    for draws, probability in bernoulli(0.3, (1, 5)):
        with problem.clock.replay({("update", STATE, 0, 0, "uniform"): draws}):
            state = model.unroll(batch.inputs[:1], h)[1].detach()
        none = state if none is None else none  # the first mask drops all
        mean = mean + probability * state
    assert (mean - quiet)[:, memory].abs().max() < 1e-14
    # Of an update that is dropped whole, a gate's share of the old memory is left, with its sign.
    share = none[:, memory] / h[:, memory]
    assert 0 < float(share[share.isfinite()].min()) <= float(share[share.isfinite()].max()) < 1


@pytest.mark.parametrize(("draws", "still"), [("step", False), ("sequence", True)])
def test_an_update_is_drawn_by_step_or_by_sequence(draws, still):
    noise = RecurrentDropout(p=0.5, draws=draws)
    problem, batch = toy_sequence("lstm", noise=noise)
    model = problem.model
    with problem.clock.record() as drawn, problem.same_noise():
        whole = model.unroll(batch.inputs, model.initial_state(4))[0]
    assert {key[3] for key in drawn} == ({0} if still else set(range(7)))
    with problem.same_noise():
        h = model.unroll(batch.inputs[:3], model.initial_state(4))[1]
        again = model.unroll(batch.inputs[3:], h, start=3)[0]
    problem.clock.phase = 0
    if not still:
        fresh = model.unroll(batch.inputs[3:], model.initial_state(4), start=3)[0]
        other = model.unroll(batch.inputs[3:], model.initial_state(4), start=2)[0]
        assert not torch.equal(fresh, other)
    assert whole.shape[0] == 3 + again.shape[0]


def test_models_without_the_place_are_refused():
    with pytest.raises(Refused, match="this model has no state; use dropout=standard"):
        toy(noise=VariationalDropout())
    with pytest.raises(Refused, match="RecurrentDropout acts at update, and model=recurrentmodel has other sites"):
        toy_sequence("rnn", noise=RecurrentDropout())
    with pytest.raises(Refused, match="Zoneout acts at carry and state, and model=mlp"):
        toy(noise=Zoneout())
