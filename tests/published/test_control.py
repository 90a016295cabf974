"""The published study of acting: fair by its own records, and its figures are those of the README."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

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
        assert (cell.episodes / EPISODES[workload]).between(WHOLE, 1).all(), name
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
    arrived = (car.apply(lambda returns: (returns > 0).sum())).to_dict()
    assert arrived == {}
