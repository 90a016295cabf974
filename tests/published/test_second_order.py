"""The published study of second-order learners: fair by its own records, and its figures are those of the README."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from altprop.records.compare import compare
from altprop.records.frame import load

FOLDER = Path(__file__).parents[2] / "reports" / "second_order"
RECORDS = FOLDER / "records.tar.xz"
TRIALS, SEEDS = 4, 12
TO_CHOOSE_FROM = {"bfgs": 0, "nonlinear_cg": 3}
"""Choices of those that have fewer than there were trials."""
ENDED = {"completed", "non_finite", "diverged", "refused"}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return load(RECORDS)


def test_everyone_had_the_same_trials_and_seeds(frame: pd.DataFrame) -> None:
    assert set(frame.status) <= ENDED
    tried = frame[frame.status != "refused"]
    names = tried.label.str.partition("·")[0]
    for place, cell in tried.groupby([names, tried.workload]):
        trials = TO_CHOOSE_FROM.get(place[0], TRIALS)
        expected = {"run": SEEDS, "trial": trials, "tuned": SEEDS} if trials else {"run": SEEDS}
        assert Counter(cell.role) == expected, place
    runs = tried[tried.role != "trial"]
    for kind in ("split", "initial_weights"):
        found = runs.assign(value=runs.identity.map(lambda identity, kind=kind: identity[kind]))
        assert (found.groupby(["workload", "seed"]).value.nunique() == 1).all(), kind
    over = tried.budget_spent / tried.budget_amount - 1
    # One run of nonlinear_cg went 2.9 % over: its last search took over four times as long as any before it.
    assert (over > 0.01001).sum() == 1
    assert over.max() < 0.03


def test_it_says_what_the_readme_says(frame: pd.DataFrame) -> None:
    runs = frame[frame.role != "trial"].set_index(["label", "workload", "seed"]).sort_index()
    tuned_adam = "backprop+adam·tuned"

    def behind(one: str, other: str, workload: str) -> "pd.Series[float]":
        return (runs.loc[one, workload].test - runs.loc[other, workload].test).astype(float)

    for name in ("newton", "gauss_newton", "bfgs", "lbfgs"):
        assert (runs.loc[name, "rosenbrock"].test < 1e-12).all(), name
        assert runs.loc[name, "quadratic"].test.median() < 1e-18, name
    assert runs.loc[tuned_adam, "rosenbrock"].test.median() > 1
    medians = frame[(frame.role != "trial") & (frame.workload == "digits_autoencoder")].groupby("label").test.median()
    assert medians.idxmin() == "kfac"
    for other in ("backprop+nesterov·tuned", tuned_adam):
        gain = -behind("kfac", other, "digits_autoencoder")
        assert gain.mean() > 3 * gain.sem(), other
    assert (behind("newton", "lbfgs·tuned", "diabetes") > 0).all()


@pytest.mark.slow
def test_a_cell_reruns_as_published(tmp_path: Path) -> None:
    from altprop.cli.run import run

    cell = ["-m", "+experiment=second_order", "+second_order=ellipsoid", "algorithm=newton", "optimizer=adam"]
    assert run([*cell, "tune=null", "reference=null", f"runs_dir={tmp_path}", "report=false"]) == 0
    comparison = compare(RECORDS, tmp_path)
    mine = [r for r in comparison.runs if r.label == "newton"]
    assert len(mine) == SEEDS
    if comparison.bitwise_expected:
        assert all(r.bitwise for r in mine), [r.differing for r in mine]
    assert all(str(f.verdict) != "different" for f in comparison.figures if f.label == "newton")
