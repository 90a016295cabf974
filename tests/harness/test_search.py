"""A sweeper that searches: what it is told of a cell, and Optuna's, where the extra `tune` is installed."""

import json
from pathlib import Path

import pytest

from altprop.harness.cell import make_cell
from altprop.harness.commands import run_cell
from altprop.harness.composition import compose_cell
from altprop.harness.planning import Outcome

from .commands import finish, start

SMALL = ("budget.currency=steps", "budget.amount=40", "budget.grid=2", "budget.block=10", "probes=off")


def outcomes(folder: Path, *overrides: str) -> list[Outcome]:
    from omegaconf import OmegaConf

    given = (*SMALL, f"runs_dir={folder}", *overrides)
    return run_cell(make_cell(OmegaConf.to_container(compose_cell(given), resolve=True), given))


@pytest.mark.parametrize(("task", "sign"), [("iris", -1), ("diabetes", 1)])
def test_a_search_minimises_the_validation_metric_or_what_is_below_it(tmp_path: Path, task: str, sign: int) -> None:
    (outcome,) = outcomes(tmp_path, f"task={task}")
    (path,) = tmp_path.glob("*/record.json")
    assert outcome.objective == sign * json.loads(path.read_text())["result"]["validation"]
    (again,) = outcomes(tmp_path, f"task={task}")
    assert not again.executed
    assert again.objective == outcome.objective


def test_what_fails_has_no_objective(tmp_path: Path) -> None:
    (broken,) = outcomes(tmp_path, "task=iris", "optimizer=sgd", "optimizer.lr=1e30")
    assert broken.status in ("diverged", "non_finite")
    assert broken.objective is None


@pytest.mark.slow
def test_optuna_searches(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="extra `tune` is not installed")
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=1"]
    space = ["+hydra.sweeper.sampler.seed=1", "optimizer.lr=tag(log, interval(0.0001, 0.1))"]
    code, out, err = finish(start(tmp_path, "-m", *search, *space, *SMALL, "task=iris", "runs_dir=runs"))
    assert code == 0, err
    assert "[4/4]" in err
    assert "4 runs, 4 executed" in out
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/record.json")]
    rates = {record["config"]["algorithm"]["optimizer"]["lr"] for record in records}
    assert len(rates) == 4
    assert all(0.0001 <= rate <= 0.1 for rate in rates)
