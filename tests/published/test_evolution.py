"""The published study of evolution: fair by its own records, and its figures are those of the README."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from altprop.records.compare import compare
from altprop.records.frame import load

FOLDER = Path(__file__).parents[2] / "reports" / "evolution"
RECORDS = FOLDER / "records.tar.xz"
TRIALS, JUDGES, SEEDS = 4, 3, 12
WITHOUT_CHOICE = {"null"}
NO_DERIVATIVE = {"backprop+adam", "memetic", "random_direction+adam"}
TOO_LARGE = {"cma_es"}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return load(RECORDS)


def test_everyone_had_the_same_trials_seeds_and_flops(frame: pd.DataFrame) -> None:
    tried = frame[frame.status != "refused"]
    assert set(tried.status) <= {"completed", "diverged", "non_finite"}
    names = tried.label.str.partition("·")[0]
    for place, cell in tried.groupby([names, tried.workload]):
        trials = 0 if place[0] in WITHOUT_CHOICE else TRIALS * JUDGES
        expected = {"run": SEEDS, "trial": trials, "tuned": SEEDS} if trials else {"run": SEEDS}
        assert Counter(cell.role) == expected, place
    assert (tried.groupby("workload").budget_amount.nunique() == 1).all()
    assert (tried.budget_spent / tried.budget_amount).max() < 1.05


def test_backprop_is_refused_where_there_is_no_derivative(frame: pd.DataFrame) -> None:
    refused = frame[frame.status == "refused"]
    thresholds = refused[refused.workload.str.startswith("threshold_digits")]
    assert set(thresholds.label) == NO_DERIVATIVE | TOO_LARGE
    told = thresholds[thresholds.label == "backprop+adam"].reason.unique().tolist()
    assert told == [
        "backprop needs a differentiable objective; task threshold_digits with model threshold_mlp offers none; "
        "try model=mlp"
    ]
    assert set(refused[~refused.workload.str.startswith("threshold_digits")].label) == TOO_LARGE


@pytest.mark.slow
def test_a_cell_reruns_as_published(tmp_path: Path) -> None:
    from altprop.cli.run import run

    cell = ["-m", "+experiment=evolution", "+evolution=many_minima", "algorithm=snes", "tune=null", "reference=null"]
    assert run([*cell, f"runs_dir={tmp_path}", "report=false"]) == 0
    comparison = compare(RECORDS, tmp_path)
    mine = [r for r in comparison.runs if r.label == "snes"]
    assert len(mine) == SEEDS
    if comparison.bitwise_expected:
        assert all(r.bitwise for r in mine), [r.differing for r in mine]
    assert all(str(f.verdict) != "different" for f in comparison.figures if f.label == "snes")
