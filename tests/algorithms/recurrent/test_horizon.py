"""How far back each rule sends credit: against automatic differentiation, and what the page draws of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from altprop.algorithms.recurrent.bptt import BPTT
from altprop.algorithms.recurrent.eprop import tie
from altprop.algorithms.recurrent.horizon import RULES, credit_by_time, horizon_table
from altprop.cli.run import run
from altprop.errors import Refused
from altprop.report.build import build
from altprop.testing import set_up, sgd, toy_sequence


def _by_hand(problem, batch) -> torch.Tensor:
    """The norm of dL/da_t of each row's own loss at the last time, (T, B)."""
    cell, h = problem.model.cell, problem.model.initial_state(batch.rows)
    entering = cell.project(batch.inputs).detach().requires_grad_()
    for a in entering:
        h = cell.advance(a, h)
    targets = batch.targets[-1] if batch.per_step else batch.targets
    loss = problem.output_loss(problem.model.readout(h), replace(batch, targets=targets))
    return batch.rows * torch.autograd.grad(loss, entering)[0].norm(dim=2)


@pytest.mark.parametrize(("cell", "per_step"), [("rnn", False), ("gru", True), ("lstm", False)])
def test_credit_is_the_gradient_in_what_enters_the_cell(cell, per_step) -> None:
    problem, batch = toy_sequence(cell, steps=15, width=4, per_step=per_step)
    before, exact = problem.flat(), _by_hand(problem, batch)
    found = credit_by_time(problem, batch, RULES)
    assert set(found) == {"bptt", *RULES}
    for name in ("bptt", "rtrl", "truncated_25"):  # 15 times lie within 25
        torch.testing.assert_close(found[name], exact, rtol=1e-10, atol=1e-14)
    assert torch.equal(found["truncated_10"][:5], torch.zeros(5, 4).double())
    torch.testing.assert_close(found["truncated_10"][5:], exact[5:], rtol=1e-10, atol=1e-14)
    for name in ("snap_1", "eprop"):  # exact at the last time, and less is known of those before
        torch.testing.assert_close(found[name][-1], exact[-1], rtol=1e-10, atol=1e-14)
        assert (found[name][:-1] - exact[:-1]).norm() > 0.05 * exact[:-1].norm()
    assert torch.equal(problem.flat(), before)


def test_units_apart_need_nothing_but_their_own_trace() -> None:
    problem, batch = toy_sequence("gru", steps=12, width=4)
    tie(problem, "none")
    found = credit_by_time(problem, batch, ("eprop", "snap_1"))
    for name in ("eprop", "snap_1"):
        torch.testing.assert_close(found[name], found["bptt"], rtol=1e-10, atol=1e-14)


def test_what_is_told_is_the_median_over_rows_by_lag() -> None:
    problem, batch = toy_sequence("gru", steps=6, rows=3)
    table, exact = horizon_table(problem, batch), _by_hand(problem, batch)
    assert table["lag"][:6] == list(range(6))
    assert table["rule"][:6] == ["bptt"] * 6
    assert table["credit"][:6] == pytest.approx(exact.median(1).values.flip(0).tolist(), rel=1e-3)


def test_sequences_of_unequal_length_are_refused_and_leave_no_table() -> None:
    problem, batch = toy_sequence("gru", lengths=[7, 3, 5, 6])
    with pytest.raises(Refused, match="sequences of equal length"):
        credit_by_time(problem, batch, ())
    whole = toy_sequence("gru")[1]
    for horizon, given, left in ((4, batch, 0), (0, whole, 0), (4, None, 0), (4, whole, 1)):
        problem, _ = toy_sequence("gru")
        problem.probe_batch = given
        assert len(set_up(BPTT(sgd(), horizon=horizon), problem).artefacts()) == left


@pytest.mark.parametrize("stacked", ["true", "false"])
def test_the_page_draws_a_line_for_each_rule(tmp_path: Path, stacked: str) -> None:
    small = ["task.length=8", "task.samples=40", "task.test_samples=10", "task.hidden=[4]", "budget.amount=5e5"]
    runs = [f"runs_dir={tmp_path / 'runs'}", "report=false", "budget.grid=2"]
    assert (
        run(
            ["task=adding", "algorithm=bptt", "algorithm.horizon=2", "seeds=2", f"stack_seeds={stacked}", *small, *runs]
        )
        == 0
    )
    page = build([tmp_path / "runs"], tmp_path / "page", formats=["md"]).read_text()
    assert page.count("How far back credit reaches") == 1
    (drawn,) = (tmp_path / "page" / "figures").glob("horizon-adding*.svg")
    for rule in ("bptt", *RULES):
        assert f">{rule}<" in drawn.read_text()
