"""A game of two players against its closed form: f = x y under gradient descent."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import kinds
import pytest
import torch
from omegaconf import OmegaConf

import altprop
from altprop.errors import AltpropError, Refused
from altprop.harness.building import Parts, build_parts
from altprop.harness.cell import make_cell
from altprop.harness.composition import compose_cell
from altprop.probes.basic import BasicProbes

RATE = 0.1
SHORT = ["budget.currency=steps", "budget.amount=20", "budget.grid=2", "budget.block=5", "report=false"]
LEARNER = ["algorithm=custom", "algorithm._target_=games.Descent", "optimizer=sgd", f"optimizer.lr={RATE}"]
GAME = ["task=planted", "model._target_=games.TwoNumbers", "~model.hidden", "~model.initialisation", "dtype=float64"]


def options(tmp_path: Path, *more: str) -> tuple[list[str], Path]:
    folder = kinds.plant(tmp_path, "games.Bilinear")
    return [*SHORT, *GAME, *LEARNER, *more], folder


def parts(tmp_path: Path, *more: str) -> Parts:
    given, folder = options(tmp_path, *more)
    plain: Any = OmegaConf.to_container(compose_cell(given, folder), resolve=True)
    return build_parts(make_cell(plain, given), 0)


def norm(made: Parts) -> float:
    return float(made.problem.flat().norm())


def test_simultaneous_descent_grows_by_a_closed_factor(tmp_path: Path) -> None:
    """(x, y) <- (x - r y, y + r x) is a rotation times sqrt(1 + r^2)."""
    made = parts(tmp_path)
    for step in range(50):
        assert norm(made) == pytest.approx(5 * math.sqrt(1 + RATE**2) ** step, rel=1e-13)
        made.algorithm.step(made.feed.batch(step))


def test_alternating_descent_stays_on_an_ellipse(tmp_path: Path) -> None:
    """x <- x - r y, then y <- y + r x keeps x^2 + y^2 - r x y, so that the norm stays within sqrt((2+r)/(2-r))."""
    made = parts(tmp_path, "+algorithm.alternating=true")

    def invariant() -> float:
        x, y = made.problem.flat().tolist()
        return float(x * x + y * y - RATE * x * y)

    start, longest = invariant(), 0.0
    for step in range(300):
        made.algorithm.step(made.feed.batch(step))
        longest = max(longest, norm(made))
    assert invariant() == pytest.approx(start, rel=1e-12)
    assert longest <= 5 * math.sqrt((2 + RATE) / (2 - RATE))


def test_each_player_is_probed_against_its_own_loss(tmp_path: Path) -> None:
    made = parts(tmp_path)
    probes = BasicProbes(made.problem, made.probe_batch, 0)
    stream = made.problem.random.state_dict()["generator"]
    probes.before()
    made.algorithm.step(made.feed.batch(0))
    row = probes.after(False)
    assert row["layers"].keys() == {"x", "y"}
    assert row["layers"]["x"]["gradient_rms"] == 4.0
    assert row["layers"]["y"]["gradient_rms"] == 3.0
    for layer in row["layers"].values():
        assert layer["alignment"] == pytest.approx(1.0, abs=1e-12)
    assert row["values"]["descent_efficiency"] is None
    assert torch.equal(stream, made.problem.random.state_dict()["generator"])


def test_a_player_that_goes_uphill_is_seen(tmp_path: Path) -> None:
    """Where y is moved against its own interest, its row alone says so."""
    made = parts(tmp_path)
    probes = BasicProbes(made.problem, made.probe_batch, 0)
    probes.before()
    for player, sign in (("x", 1), ("y", -1)):
        _, grads = made.problem.gradient(made.probe_batch, of=player)
        made.algorithm.updaters[player].apply({name: sign * grad for name, grad in grads.items()})  # type: ignore[attr-defined]
    layers = probes.after(False)["layers"]
    assert (layers["x"]["alignment"], layers["y"]["alignment"]) == (1.0, -1.0)


def test_passes_are_counted_and_players_have_rates_of_their_own(tmp_path: Path) -> None:
    made = parts(tmp_path)
    for step in range(5):
        made.algorithm.step(made.feed.batch(step))
    ledger = made.problem.ledger
    assert (ledger.forwards, ledger.backwards, ledger.updates, ledger.samples) == (10, 10, 10, 5)
    assert ledger.calls("forward of y") == 5
    assert ledger.residual == 0


def test_a_player_has_its_own_names_and_losses(tmp_path: Path) -> None:
    made = parts(tmp_path)
    problem, batch = made.problem, made.probe_batch
    assert list(problem.players) == ["x", "y"]
    assert [list(problem.gradient(batch, of=name)[1]) for name in "xy"] == [["value"], ["value"]]
    assert [float(problem.objective(batch, of=name)) for name in "xy"] == [12.0, -12.0]
    with pytest.raises(AltpropError, match="z is no player of model TwoNumbers"):
        problem.gradient(batch, of="z")
    with pytest.raises(Refused, match="no loss of outputs"):
        problem.objective(batch)


def test_a_game_runs_resumes_and_is_judged_by_its_metric(tmp_path: Path) -> None:
    given, folder = options(tmp_path, "probes=basic", f"runs_dir={tmp_path / 'runs'}")
    row = altprop.run(given, config_dir=folder).iloc[0]
    assert (row.status, row.metric, row.predictor) == ("completed", "distance", "model")
    assert row.test == pytest.approx(5 * math.sqrt(1 + RATE**2) ** 20, rel=1e-12)
    trace = altprop.load_trace(tmp_path / "runs")
    aligned = trace[(trace.kind == "probe") & (trace.name == "alignment")]
    assert set(aligned.layer.dropna()) >= {"x", "y"}


@pytest.mark.parametrize("learner", ["backprop", "dfa", "genetic"])
def test_who_knows_no_players_is_refused_or_told(tmp_path: Path, learner: str) -> None:
    given, folder = options(tmp_path, f"algorithm={learner}", f"runs_dir={tmp_path / 'runs'}")
    kept = [option for option in given if option not in LEARNER]
    row = altprop.run(kept, config_dir=folder).iloc[0]
    assert row.status == "refused"


def test_draws_of_a_loss_repeat_under_one_noise(tmp_path: Path) -> None:
    made = parts(tmp_path)
    problem, batch = made.problem, made.probe_batch
    problem.player_loss = lambda player, model, fed, random: random.normal(1).sum() + 0 * model(fed.inputs).sum()
    with problem.same_noise():
        first, again = problem.objective(batch, of="x"), problem.gradient(batch, of="x")[0]
    assert first == again
    assert problem.objective(batch, of="x") != first
    assert problem.objective(batch, of="x").dtype == torch.float64
