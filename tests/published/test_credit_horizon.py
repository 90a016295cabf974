"""The published study of credit horizons: which rule reaches the target at which lag, as the README says it."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from altprop.records.frame import load
from altprop.report.reading import read
from altprop.report.times import outcomes

FOLDER = Path(__file__).parents[2] / "reports" / "credit_horizon"
RECORDS = FOLDER / "records.tar.xz"
LENGTHS = (10, 25, 50, 100)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return load(RECORDS)


def test_every_rule_had_the_same_trials_seeds_and_flops_at_every_lag(frame: pd.DataFrame) -> None:
    recipes = frame.label.map(lambda label: label.partition("·")[0].partition("(")[0])
    cells = frame.groupby([recipes, "workload"])
    assert len(cells) == 10 * len(LENGTHS)
    for place, cell in cells:
        assert Counter(cell.role) == {"run": 12, "tuned": 12, "trial": 4}, place
    assert set(frame.status) == {"completed"}
    assert (frame.groupby("workload").budget_amount.nunique() == 1).all()


def test_a_rule_reaches_the_target_where_its_horizon_holds_the_lag() -> None:
    """Of 12 tuned seeds; what counts lies .4 T to T times back."""
    hits: dict[str, list[int]] = {}
    report = read([RECORDS], "x")
    for length, table in zip(LENGTHS, report.tables, strict=True):
        assert f"length={length}," in table.workload
        for name in table.runs:
            hits.setdefault(name, []).append(sum(one.hit for one in outcomes(table, name, "90%", "flops")))
    assert min(hits["bptt·tuned"]) >= 11
    assert hits["truncated_10·tuned"] == [12, 0, 0, 0]
    assert hits["truncated_25·tuned"][:2] == [12, 12]
    assert hits["truncated_25·tuned"][3] == 0
    for local in ("eprop", "snap_1"):
        assert hits[f"{local}·tuned"][:2] == [12, 12]
    for costly in ("rtrl", "uoro", "kf_rtrl"):
        assert hits[f"{costly}·tuned"] == [0, 0, 0, 0]


@pytest.mark.slow
def test_a_cell_reruns_as_published(frame: pd.DataFrame, tmp_path: Path) -> None:
    from altprop.cli.run import run

    cell = ["+lag=adding_10", "+recipe=truncated_10", "tune=null", "hydra/launcher=basic", "report=false"]
    assert run(["-m", "+experiment=credit_horizon", *cell, f"runs_dir={tmp_path}"]) == 0
    ours = load(tmp_path).set_index("seed").sort_index()
    place = (frame.label == "truncated_10") & (frame.role == "run") & frame.workload.str.startswith("adding[length=10,")
    theirs = frame[place].set_index("seed").sort_index()
    assert len(ours) == len(theirs) == 12
    assert (ours.flops == theirs.flops).all()
    if (ours.fingerprint == theirs.fingerprint).all():
        assert (ours.test == theirs.test).all()
    else:
        assert abs(ours.test.median() - theirs.test.median()) < 0.002
