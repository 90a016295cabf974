"""The published studies of other ways to assign credit: fair by their own records, and the README's table is theirs."""

import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from altprop.records.compare import compare
from altprop.records.frame import load

ROOT = Path(__file__).parents[2]
STUDIES = ("alternatives", "mnist1d_alternatives", "conv_alternatives")
TRIALS, JUDGES, SEEDS = 8, 3, 12
REFERENCE = "backprop+adam·tuned"
CONTROLS = {"frozen_features", "random_direction", "shuffled_labels", "null"}
COLUMNS = (
    ("digits[hidden=2x32]", "digits[hidden=4x32]", "digits[hidden=8x32]"),
    ("mnist1d[hidden=2x32]", "mnist1d[hidden=4x32]", "mnist1d[hidden=8x32]"),
    ("conv_digits", "digits"),
)
"""Workloads of the columns of the table in the README; the fifth of the digits stands alone in its study, unnamed."""


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return pd.concat([load(ROOT / "reports" / name / "records.tar.xz") for name in STUDIES], ignore_index=True)


def test_every_rule_had_the_same_trials_and_seeds(frame: pd.DataFrame) -> None:
    ran = frame[frame.status != "refused"]
    assert set(ran.status) == {"completed"}
    for place, cell in ran[ran.algorithm != "null"].groupby(["workload", "algorithm"]):
        assert Counter(cell.role) == {"run": SEEDS, "trial": TRIALS * JUDGES, "tuned": SEEDS}, place
    assert set(frame[frame.status == "refused"].algorithm) == {"target_propagation"}
    assert set(frame[frame.status == "refused"].workload) == {"conv_digits"}
    assert frame.algorithm.nunique() == 22
    each = ran[(ran.role != "trial") & (ran.algorithm != "null")]
    for kind in ("split", "batch_order"):
        found = each.assign(value=each.identity.map(lambda identity, kind=kind: identity[kind]))
        assert (found.groupby(["workload", "seed"]).value.nunique() == 1).all(), kind
    assert (each.groupby("workload").budget_amount.nunique() == 1).all()


def test_the_readmes_table_is_that_of_the_records(frame: pd.DataFrame) -> None:
    runs = frame[frame.role == "tuned"].set_index(["workload", "label", "seed"]).test.astype(float).sort_index()
    text = (ROOT / "README.md").read_text().partition("| tuned rule |")[2].partition("\n\n")[0]
    rows = [[cell.strip().strip("*") for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    assert {row[0] for row in rows} == set(frame.algorithm) - {"backprop"} - CONTROLS | {"frozen_features"}
    for name, *told in rows:
        for workloads, words in zip(COLUMNS, told, strict=False):
            ours = [
                f"{100 * (runs[workload, f'{name}+adam·tuned'] - runs[workload, REFERENCE]).mean():+.0f}"
                if (workload, f"{name}+adam·tuned") in runs.index.droplevel("seed")
                else "refused"
                for workload in workloads
            ]
            assert re.findall(r"[^ ,]+", words) == [re.sub(r"^[+-]0$", "0", value) for value in ours], name


@pytest.mark.slow
def test_a_cell_reruns_as_published(tmp_path: Path) -> None:
    from altprop.cli.run import run

    cell = ["-m", "+experiment=alternatives", "+alternatives=digits_2", "algorithm=drtp", "tune=null", "reference=null"]
    assert run([*cell, "hydra/launcher=basic", f"runs_dir={tmp_path}", "report=false"]) == 0
    comparison = compare(ROOT / "reports" / "alternatives" / "records.tar.xz", tmp_path)
    mine = [r for r in comparison.runs if r.label == "drtp+adam"]
    assert len(mine) == SEEDS
    if comparison.bitwise_expected:
        assert all(r.bitwise for r in mine), [r.differing for r in mine]
