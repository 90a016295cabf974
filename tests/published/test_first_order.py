"""The published comparison of first-order optimizers: whole, fair by its own records, and its page is theirs."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from altprop.records.compare import compare
from altprop.records.frame import load
from altprop.records.oracle_checks import load_oracle_checks
from altprop.records.timing import load_timings

FOLDER = Path(__file__).parents[2] / "reports" / "first_order"
RECORDS = FOLDER / "records.tar.xz"
TRIALS, SEEDS = 16, 12


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return load(RECORDS)


def test_every_learner_had_the_same_number_of_trials_and_seeds(frame: pd.DataFrame) -> None:
    ran = frame[frame.status != "refused"]
    for (task, optimizer), cell in ran.groupby(["task", "optimizer"]):
        assert Counter(cell.role) == {"run": SEEDS, "trial": TRIALS, "tuned": SEEDS}, (task, optimizer)
        assert sorted(cell[cell.role == "run"].seed) == sorted(cell[cell.role == "tuned"].seed) == list(range(SEEDS))
    assert frame.task.nunique() == 5
    assert frame.optimizer.nunique() == 17


def test_all_started_and_were_split_alike(frame: pd.DataFrame) -> None:
    ran = frame[frame.status != "refused"]
    for name in ("split", "initial_weights", "batch_order"):
        each = ran.assign(value=ran.identity.map(lambda found, name=name: found[name]))
        assert (each.groupby(["task", "seed"]).value.nunique() == 1).all(), name


def test_trials_never_saw_the_test_data(frame: pd.DataFrame) -> None:
    assert frame[frame.role == "trial"].test.isna().all()


@pytest.mark.slow
def test_a_tuned_cell_reruns_as_published(frame: pd.DataFrame, tmp_path: Path) -> None:
    from altprop.cli.run import run

    here = tmp_path / "runs"
    cell = ["optimizer=adam", "task=breast_cancer", "seeds=2"]
    sweep = ["-m", "+experiment=first_order", *cell, f"runs_dir={here}", "report=false"]
    assert run(sweep) == 0
    comparison = compare(RECORDS, here)
    mine = [r for r in comparison.runs if "adam" in r.label and r.workload.startswith("breast_cancer")]
    assert len(mine) == 2 + 2 + TRIALS
    if comparison.bitwise_expected:
        assert all(r.bitwise for r in mine), [r.differing for r in mine]


def test_the_archive_holds_the_oracle_checks_and_timings_of_what_ran() -> None:
    oracle_checks, unreadable = load_oracle_checks(RECORDS)
    assert unreadable == []
    assert {oracle_check.data["algorithm"] for oracle_check in oracle_checks} == {"backprop"}
    assert {timing.workload for timing in load_timings(RECORDS)[0]} == set(load(RECORDS).workload)
