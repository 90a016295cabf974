"""The published study of acting: fair by its own records, and its figures are those of the README."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from altprop.records.compare import compare
from altprop.records.frame import load

RECORDS = Path(__file__).parents[2] / "reports" / "control" / "records.tar.xz"
TRIALS, SEEDS, SOLVED = 4, 12, 475.0
EPISODES = {"cartpole": 2000, "mountain_car": 4000}
WHOLE = 0.9
"""A generation of NEAT's 150 networks, four episodes each, is 600 episodes: it ends after 1,800."""


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return load(RECORDS)


def test_everyone_had_the_same_trials_seeds_and_episodes(frame: pd.DataFrame) -> None:
    tried = frame[frame.status != "refused"]
    assert set(tried.status) == {"completed"}
    names = tried.label.str.partition("·")[0]
    for (name, workload), cell in tried.groupby([names, tried.workload]):
        tuned = workload == "cartpole" and name != "null"
        expected = {"run": SEEDS, "trial": TRIALS, "tuned": SEEDS} if tuned else {"run": SEEDS}
        assert Counter(cell.role) == expected, (name, workload)
        assert set(cell.budget_amount) == {EPISODES[workload]}
        assert (cell.episodes / EPISODES[workload]).between(WHOLE, 1.01).all(), name
    assert set(frame[frame.status == "refused"].label) == {"backprop+adam"}


def test_it_says_what_the_readme_says(frame: pd.DataFrame) -> None:
    runs = frame[(frame.role != "trial") & (frame.status == "completed")]
    pole, car = (runs[runs.workload == name].groupby("label").test for name in EPISODES)
    medians = pole.median()
    assert set(medians[medians >= SOLVED].index) == {
        "cma_es·tuned",
        "deep_ga",
        "deep_ga·tuned",
        "evolution_strategy·tuned",
        "genetic",
        "genetic·tuned",
        "map_elites·tuned",
        "neat",
        "neat·tuned",
        "novelty_search·tuned",
        "snes·tuned",
    }
    assert (pole.get_group("genetic") >= SOLVED).all()
    assert medians[["openai_es+adam·tuned", "pgpe+adam·tuned"]].round().tolist() == [149, 131]
    assert round(max(medians["cross_entropy"], medians["cross_entropy·tuned"])) == 100
    arrived = car.apply(lambda returns: (returns > 0).sum())
    assert arrived[arrived > 0].to_dict() == {"map_elites": 9, "novelty_search": 8, "genetic": 3, "cosyne": 2}
    assert len(arrived) == 10
    each = runs.set_index(["workload", "label", "seed"]).test.astype(float).sort_index()
    mutations = each["cartpole", "deep_ga·tuned"] - each["cartpole", "openai_es+adam·tuned"]
    novelty = each["mountain_car", "novelty_search"] - each["mountain_car", "genetic"]
    assert (round(mutations.mean()), round(half_width(mutations))) == (333, 63)
    assert (round(novelty.mean(), 2), round(half_width(novelty), 2)) == (0.27, 0.44)
    elites = each["cartpole", "map_elites"] - each["cartpole", "genetic"]
    assert (round(elites.mean()), round(half_width(elites))) == (-102, 80)


def half_width(values: "pd.Series[float]") -> float:
    """Return half the width of the 95 % interval of the mean."""
    return float(values.sem() * stats.t.ppf(0.975, len(values) - 1))


@pytest.mark.slow
def test_a_cell_reruns_as_published(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium", reason="extra `rl` is not installed")
    from altprop.cli.run import run

    cell = ["-m", "+experiment=control", "algorithm=neat", "tune=null", "reference=null", "seeds=2"]
    assert run([*cell, "hydra/launcher=basic", f"runs_dir={tmp_path}", "report=false"]) == 0
    comparison = compare(RECORDS, tmp_path)
    mine = [r for r in comparison.runs if r.label == "neat"]
    assert len(mine) == 2
    if comparison.bitwise_expected:
        assert all(r.bitwise for r in mine), [r.differing for r in mine]
    assert all(str(f.verdict) != "different" for f in comparison.figures if f.label == "neat")
