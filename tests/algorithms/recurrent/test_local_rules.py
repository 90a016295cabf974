"""Rules that follow each unit by itself, and UORO: masks, rows, memory, books, refusals and breakdowns."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from altprop.algorithms.dropout.standard import StandardDropout
from altprop.algorithms.recurrent.eprop import EProp
from altprop.algorithms.recurrent.kf_rtrl import KFRTRL
from altprop.algorithms.recurrent.rflo import RFLO
from altprop.algorithms.recurrent.snap import SnAp
from altprop.algorithms.recurrent.unbiased import copies_of_one, flat_cell
from altprop.algorithms.recurrent.uoro import UORO
from altprop.data import Batch
from altprop.errors import AltpropError, Refused
from altprop.testing import relative_error, set_up, sgd, toy, toy_sequence

LENGTHS = [7, 3, 5, 1]
RULES = {"eprop": EProp, "rflo": RFLO, "snap": SnAp, "uoro": UORO}
rules = pytest.mark.parametrize("name", RULES)


@rules
@pytest.mark.parametrize("cell", ["leaky_rnn", "lstm"])
def test_padding_is_never_read(name, cell):
    found = []
    for padding in (0.0, float("nan")):
        problem, batch = toy_sequence(cell, lengths=LENGTHS, per_step=True)
        padded = torch.where(batch.mask[..., None], batch.inputs, padding)
        rule = set_up(RULES[name](sgd()), problem)
        found.append(problem.flatten(rule.direction(replace(batch, inputs=padded))[1]))
    assert found[0].isfinite().all()
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("name", ["eprop", "rflo", "snap"])
def test_rows_under_masks_are_the_rows_by_themselves(name):
    problem, batch = toy_sequence("gru", lengths=LENGTHS, per_step=True)
    rule = set_up(RULES[name](sgd()), problem)
    together, apart = rule.direction(batch)[1], dict.fromkeys(problem.params, 0.0)
    for row, length in enumerate(LENGTHS):
        one = torch.tensor([row])
        alone = rule.direction(Batch(batch.inputs[:length, one], batch.targets[:length, one], one))[1]
        apart = {n: apart[n] + length / sum(LENGTHS) * value for n, value in alone.items()}
    assert relative_error(apart, together) < 1e-14


@rules
def test_memory_does_not_grow_with_the_length(name):
    kept = {}
    for steps in (10, 40):
        problem, batch = toy_sequence("gru", steps=steps, per_step=True)
        rule = set_up(RULES[name](sgd()), problem)
        rule.step(batch)
        kept[steps] = problem.ledger.saved_bytes, sum(one.numel() for one in rule.carried.values())
        assert problem.ledger.backwards == 0
        assert problem.ledger.flops_by_kind()["traces"] > 0
    assert kept[40] == kept[10]


@rules
def test_refusals(name):
    rule = RULES[name]
    with pytest.raises(Refused, match="needs a recurrent model; task toy with model mlp offers none"):
        set_up(rule(sgd()), toy()[0])
    with pytest.raises(Refused, match="follows each unit by itself, which noise on what enters it prevents"):
        set_up(rule(sgd()), toy_sequence(noise=StandardDropout(0.3, 0.3))[0])
    problem, _ = toy_sequence()
    problem.model.cell = torch.nn.RNNCell(2, 5)
    with pytest.raises(Refused, match="follows the units of one cell, and model=recurrentmodel is none"):
        set_up(rule(sgd()), problem)


def test_options_are_checked():
    for rule in (EProp, RFLO):
        with pytest.raises(AltpropError, match=r"unknown algorithm.feedback=exact"):
            rule(sgd(), feedback="exact")
    with pytest.raises(AltpropError, match=r"algorithm.n must be a whole number of at least 1; got 0"):
        SnAp(sgd(), n=0)


def test_rflo_of_a_gated_cell_is_eprop_with_random_feedback():
    found = []
    for rule in (RFLO(sgd()), EProp(sgd(), feedback="random"), EProp(sgd())):
        problem, batch = toy_sequence("gru", per_step=True)
        found.append(problem.flatten(set_up(rule, problem).direction(batch)[1]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_random_feedback_reaches_what_the_readout_sees_alone():
    problem, _ = toy_sequence("lstm", width=2000, outputs=4)
    feedback = set_up(RFLO(sgd()), problem).feedback
    assert feedback.shape == (4, 4000)
    assert not feedback[:, 2000:].any()
    # 8,000 draws of standard deviation 1/2: four standard errors.
    assert abs(float(feedback[:, :2000].std()) - 0.5) < 4 * 0.5 / (2 * 8000) ** 0.5


@pytest.mark.parametrize("make", [UORO, KFRTRL])
@pytest.mark.parametrize("size", [0.0, 1e150])
def test_products_survive_factors_of_no_size_and_of_a_great_one(make, size):
    """Nothing to divide by, in the state and in what enters it; or numbers whose squares have no room."""
    problem, batch = toy_sequence("rnn", per_step=True)
    with torch.no_grad():
        for p in problem.model.cell.parameters():
            p.zero_()
    rule = set_up(make(sgd()), problem)
    direction = rule.direction(replace(batch, inputs=batch.inputs * size))[1]
    assert all(value.isfinite().all() for value in direction.values())


@pytest.mark.parametrize("make", [UORO, KFRTRL])
def test_factors_rest_where_a_row_has_ended(make):
    ends = []
    for steps in (3, 7):
        problem, batch = toy_sequence("gru", lengths=LENGTHS, per_step=True)
        piece = replace(batch, inputs=batch.inputs[:steps], targets=batch.targets[:steps], mask=batch.mask[:steps])
        rule = set_up(make(sgd()), problem)
        rule.direction(piece)
        ends.append(rule.carried)
    for name, value in ends[0].items():
        assert torch.equal(value[[1, 3]], ends[1][name][[1, 3]])
        assert not torch.equal(value[[0, 2]], ends[1][name][[0, 2]])


def test_uoros_vectors_are_kept_equally_large():
    problem, batch = toy_sequence("gru", steps=40, per_step=True)
    rule = set_up(UORO(sgd()), problem)
    rule.direction(batch)
    on_state = rule.carried["onto state"].norm(dim=1)
    on_parameters = sum(v.square().sum(1) for n, v in rule.carried.items() if n.startswith("cell.")).sqrt()
    ratio = on_state / on_parameters
    assert ratio.min() > 0.2
    assert ratio.max() < 5.0


def test_kronecker_factors_are_kept_equally_large_and_vary_less_than_vectors():
    problem, batch = toy_sequence("gru", steps=40, per_step=True)
    rule = set_up(KFRTRL(sgd()), problem)
    rule.direction(batch)
    for group in {name.rpartition(" ")[0] for name in rule.carried} - {""}:
        ratio = rule.carried[f"{group} A"].flatten(1).norm(dim=1) / rule.carried[f"{group} u"].norm(dim=1)
        assert ratio.log().mean().exp() > 0.3
        assert ratio.log().mean().exp() < 3.0
    spread = []
    for make in (KFRTRL, UORO):
        problem, _, many = copies_of_one("gru", 1)
        rule, exact = set_up(make(sgd()), problem), flat_cell(problem, problem.gradient(many)[1])
        each = [flat_cell(problem, rule.direction(many)[1]) - exact for _ in range(40)]
        spread.append(torch.stack(each).square().sum(1).mean())
    assert spread[0] < 0.5 * spread[1]


@pytest.mark.parametrize("make", [EProp, partial(EProp, feedback="random"), SnAp, UORO, KFRTRL])
def test_the_readout_learns_its_own_gradient(make):
    problem, batch = toy_sequence("gru", per_step=True)
    exact = problem.gradient(batch)[1]
    found = set_up(make(sgd()), problem).direction(batch)[1]
    readout = {name: value for name, value in exact.items() if name.startswith("readout.")}
    assert relative_error(found, readout) < 1e-14
    assert set(found) == set(exact)
