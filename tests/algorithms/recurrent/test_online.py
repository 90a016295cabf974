"""What all rules share that learn while a sequence runs: pieces, masks, streams, noise, books and refusals."""

from dataclasses import replace

import pytest
import torch

from altprop.algorithms.recurrent import rtrl
from altprop.algorithms.recurrent.bptt import BPTT
from altprop.algorithms.recurrent.eprop import EProp
from altprop.algorithms.recurrent.kf_rtrl import KFRTRL
from altprop.algorithms.recurrent.rflo import RFLO
from altprop.algorithms.recurrent.rtrl import RTRL
from altprop.algorithms.recurrent.snap import SnAp
from altprop.algorithms.recurrent.truncated_bptt import TruncatedBPTT
from altprop.algorithms.recurrent.uoro import UORO
from altprop.data import Batch
from altprop.errors import AltpropError, Refused
from altprop.noise import MultiplicativeNoise
from altprop.optim import OptimizerFactory
from altprop.testing import relative_error, set_up, sgd, toy, toy_sequence

CELLS = ("rnn", "gru", "lstm")
LENGTHS = [7, 3, 5, 1]


class Everywhere(MultiplicativeNoise):
    """Multiplies by U(.5, 1.5) at each site."""

    sites = frozenset({"input", "unit", "weight", "state"})

    def _mask(self, like, shape, site, layer):
        return 0.5 + self.clock.uniform(shape, site, layer, 0, like)

    def penalty(self):
        return 0.01 * sum(p.square().sum() for p in self._penalised)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
def test_exact_under_masks_labels_noise_and_its_penalty(cell, per_step, noisy):
    noise = Everywhere() if noisy else None
    problem, batch = toy_sequence(cell, width=3, per_step=per_step, lengths=LENGTHS, noise=noise)
    if noisy:
        noise._penalised = list(problem.model.cell.parameters())
    problem.begin_step(4)
    batch = replace(batch, labelled=torch.tensor([True, True, False, True]))
    with problem.same_noise():
        expected_loss, expected = problem.gradient(batch)
        loss, found = set_up(RTRL(sgd()), problem).direction(batch)
    assert relative_error(found, expected) < 1e-13
    assert abs(loss - expected_loss) < 1e-14


@pytest.mark.parametrize("cell", [*CELLS, "leaky_rnn"])
def test_units_followed_one_by_one_give_what_differentiation_gives(cell, monkeypatch):
    problem, batch = toy_sequence(cell, width=3, per_step=True, lengths=LENGTHS)
    found = set_up(RTRL(sgd()), problem).direction(batch)[1]
    monkeypatch.setattr(rtrl, "follows_units", lambda problem: False)
    assert relative_error(set_up(RTRL(sgd()), problem).direction(batch)[1], found) < 1e-13


RULES = {
    "bptt": BPTT,
    "truncated_bptt": lambda optimizer: TruncatedBPTT(optimizer, 2, 3, "sequence"),
    "rtrl": RTRL,
    "snap": SnAp,
    "eprop": EProp,
    "rflo": RFLO,
    "uoro": UORO,
    "kf_rtrl": KFRTRL,
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("per_step", [False, True])
def test_padding_is_never_read(name, per_step):
    """Not even where it is NaN: no bit of the objective or of a direction changes (tasks fill targets up)."""
    found = []
    for filling in (0.0, torch.nan):
        problem, batch = toy_sequence("gru", lengths=LENGTHS, per_step=per_step)
        inputs = torch.where(batch.mask[..., None], batch.inputs, filling)
        loss, direction = set_up(RULES[name](sgd()), problem).direction(replace(batch, inputs=inputs))
        found.append({"loss": loss, **direction})
    assert all(torch.equal(found[1][key], value) for key, value in found[0].items())
    assert found[0]["loss"].isfinite()


@pytest.mark.parametrize("name", [name for name in RULES if name not in ("uoro", "kf_rtrl")])
def test_a_masked_batch_is_each_sequence_by_itself(name):
    """UORO and KF-RTRL draw for all rows at once, so that no row alone draws the same."""
    problem, batch = toy_sequence("lstm", lengths=LENGTHS, per_step=True)
    rule = set_up(RULES[name](sgd()), problem)
    expected = rule.direction(batch)[1]
    total = dict.fromkeys(expected, 0.0)
    for row, length in enumerate(LENGTHS):
        one = Batch(batch.inputs[:length, [row]], batch.targets[:length, [row]], batch.index[[row]])
        share = length / sum(LENGTHS)
        total = {key: total[key] + share * value for key, value in rule.direction(one)[1].items()}
    assert relative_error(total, expected) < 1e-13


@pytest.mark.parametrize("cell", CELLS)
def test_a_stream_goes_on_from_batch_to_batch(cell):
    """Two halves of a sequence give the gradient of the whole, although the error goes back over the seam."""
    problem, batch = toy_sequence(cell, width=3, per_step=True)
    expected = problem.gradient(batch)[1]
    rule = set_up(RTRL(sgd()), problem)
    total = dict.fromkeys(expected, 0.0)
    for piece, new in ((slice(0, 3), True), (slice(3, 7), False)):
        reset = torch.full((4,), new)
        half = Batch(batch.inputs[piece], batch.targets[piece], batch.index, reset=reset)
        share = half.samples / batch.samples
        total = {name: total[name] + share * value for name, value in rule.direction(half)[1].items()}
    assert relative_error(total, expected) < 1e-13
    with pytest.raises(AltpropError, match="a batch of 2 rows continues one of 4"):
        rule.direction(Batch(batch.inputs[:, :2], batch.targets[:, :2], batch.index[:2], reset=torch.zeros(2).bool()))


def test_pieces_update_in_between():
    ends = {}
    for every in (None, 7, 9, 3):
        problem, batch = toy_sequence("gru", per_step=True)
        rule = set_up(RTRL(sgd(), update_every=every), problem)
        results = [rule.step(batch) for _ in range(2)]
        ends[every] = problem.flat()
        assert problem.ledger.updates == (6 if every == 3 else 2)
        assert all((result.loss is None) == (every == 3) for result in results)
    assert torch.equal(ends[7], ends[None])
    assert torch.equal(ends[9], ends[None])
    assert (ends[3] - ends[None]).norm() > 1e-3
    # Where the target comes at the end, no earlier piece updates anything.
    problem, batch = toy_sequence("gru")
    assert set_up(RTRL(sgd(), update_every=3), problem).step(batch).loss is not None
    assert problem.ledger.updates == 1


def test_nothing_is_kept_of_the_times_before():
    """What BPTT keeps for the way back grows with T; the influence matrix does not."""
    kept = {}
    for rule in (BPTT, RTRL):
        for steps in (10, 40):
            problem, batch = toy_sequence("gru", steps=steps, per_step=True)
            set_up(rule(sgd()), problem).step(batch)
            kept[rule, steps] = problem.ledger.saved_bytes
    assert kept[RTRL, 40] == kept[RTRL, 10] < kept[BPTT, 10]
    assert kept[BPTT, 40] > 3.9 * kept[BPTT, 10]


def test_the_books():
    problem, batch = toy_sequence("rnn", per_step=True)
    rule = set_up(RTRL(sgd()), problem)
    for index in ([0, 1, 2, 3], [0, 1], [1, 2, 3]):
        rows = torch.tensor(index)
        rule.step(Batch(batch.inputs[:, rows], batch.targets[:, rows], rows))
    ledger = problem.ledger
    assert (ledger.forwards, ledger.backwards, ledger.steps, ledger.updates, ledger.samples) == (3, 0, 3, 3, 63)
    assert ledger.residual < 1e-9
    # 9 rows, 7 times, 2 S^2 D for J M with 5 units and 40 parameters of the cell.
    assert ledger.flops_by_kind()["influence matrix"] == 9 * 7 * 2 * 5 * 5 * 40


def test_refusals(monkeypatch):
    with pytest.raises(Refused, match="RTRL needs a recurrent model; task toy with model mlp offers none"):
        set_up(RTRL(sgd()), toy()[0])
    with pytest.raises(AltpropError, match=r"algorithm.update_every must be a whole number of at least 1; got 0"):
        RTRL(sgd(), update_every=0)
    with pytest.raises(Refused, match="LBFGS"):
        set_up(RTRL(OptimizerFactory("torch.optim.LBFGS", lr=0.1)), toy_sequence()[0])
    # 4 rows, 5 units, 40 parameters of the cell, 8 bytes.
    problem, batch = toy_sequence()
    monkeypatch.setattr("altprop.algorithms.recurrent.rtrl.MOST_BYTES", 4 * 5 * 40 * 8)
    set_up(RTRL(sgd()), problem).step(batch)
    monkeypatch.setattr("altprop.algorithms.recurrent.rtrl.MOST_BYTES", 4 * 5 * 40 * 8 - 1)
    with pytest.raises(Refused, match=r"the influence matrix of 4 rows takes 0.0 GiB, more than 4; lower task.batch_"):
        set_up(RTRL(sgd()), problem).step(batch)
