"""The published study of evolution: fair by its own records, and its figures are those of the README."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from altprop.records.compare import compare
from altprop.records.frame import load

FOLDER = Path(__file__).parents[2] / "reports" / "evolution"
RECORDS = FOLDER / "records.tar.xz"
TRIALS, JUDGES, SEEDS = 4, 3, 12
WITHOUT_CHOICE = {"null"}
NO_DERIVATIVE = {"backprop+adam", "memetic", "random_direction+adam"}
TOO_LARGE = {"cma_es"}
BROKE_OFF = ("memetic", "rosenbrock")
"""Its gradient steps, of rates from .01 on, leave the valley for infinity."""
PURE = {
    "genetic",
    "deep_ga",
    "sbx_genetic",
    "mu_lambda_es",
    "evolution_strategy",
    "cma_es",
    "separable_cma_es",
    "differential_evolution",
    "particle_swarm",
    "openai_es+adam",
    "snes",
    "pgpe+adam",
    "cross_entropy",
}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return load(RECORDS)


def test_everyone_had_the_same_trials_seeds_and_flops(frame: pd.DataFrame) -> None:
    tried = frame[frame.status != "refused"]
    assert set(tried.status) == {"completed", "non_finite"}
    names = tried.label.str.partition("·")[0]
    for place, cell in tried.groupby([names, tried.workload]):
        trials = 0 if place[0] in WITHOUT_CHOICE else TRIALS * JUDGES
        expected = {"run": SEEDS, "trial": trials, "tuned": SEEDS} if trials else {"run": SEEDS}
        if place == BROKE_OFF:
            assert (cell.status == "non_finite").all()
            del expected["tuned"]  # every trial broke off too: there is nothing to choose
        assert Counter(cell.role) == expected, place
    assert (tried.groupby("workload").budget_amount.nunique() == 1).all()
    assert (tried.budget_spent / tried.budget_amount).max() < 1.02


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


def test_it_says_what_the_readme_says(frame: pd.DataFrame) -> None:
    runs = frame[frame.role != "trial"].set_index(["workload", "label", "seed"]).test.astype(float).sort_index()
    tuned_adam, evolved = "backprop+adam·tuned", PURE | {f"{name}·tuned" for name in PURE}
    medians = runs.groupby(level=[0, 1]).median()

    def best(workload: str, *, least: bool) -> str:
        own = medians[workload]
        own = own[own.index.isin(evolved)]
        return str(own.idxmin() if least else own.idxmax())

    behind = runs["digits", tuned_adam] - runs["digits", "snes·tuned"]
    assert best("digits", least=False) == best("threshold_digits", least=False) == "snes·tuned"
    assert (round(behind.mean(), 3), round(half_width(behind), 3)) == (0.138, 0.014)
    assert round(medians["threshold_digits", "snes·tuned"], 2) == 0.70
    refined = runs["digits", tuned_adam] - runs["digits", "memetic·tuned"]
    assert (round(refined.mean(), 3), round(half_width(refined), 3)) == (0.034, 0.011)
    for place, (mean, half) in {"digits": (0.18, 0.05), "threshold_digits": (0.28, 0.03)}.items():
        without = runs[place, "openai_es+adam·tuned"] - runs[place, "deep_ga·tuned"]
        assert (round(without.mean(), 2), round(half_width(without), 2)) == (mean, half), place
    assert (round(medians["diabetes", tuned_adam], 2), round(medians["diabetes", "snes·tuned"], 2)) == (0.27, 0.45)
    assert abs(medians["diabetes", "backprop+adam"] - medians["diabetes", "snes"]) < 0.005
    assert best("rosenbrock", least=True) == "cma_es·tuned"
    assert medians["rosenbrock", tuned_adam] < medians["rosenbrock", "cma_es·tuned"] < 2
    assert best("multimodal", least=True) == "evolution_strategy·tuned"
    assert (round(medians["multimodal", "evolution_strategy·tuned"]), round(medians["multimodal", tuned_adam])) == (
        9,
        97,
    )


def half_width(values: "pd.Series[float]") -> float:
    """Return half the width of the 95 % interval of the mean."""
    return float(values.sem() * stats.t.ppf(0.975, len(values) - 1))


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
