"""The published study of credit through time: whole, its page is its records', and it says what the README says."""

from pathlib import Path

import pandas as pd
import pytest

from altprop.records.compare import compare
from altprop.records.frame import load

FOLDER = Path(__file__).parents[2] / "reports" / "through_time"
RECORDS = FOLDER / "records.tar.xz"
ANYWHERE, LATE, LONG = (f"adding[length={n}, quiet={q}]" for n, q in ((50, 0), (50, 20), (100, 20)))


@pytest.fixture(scope="module")
def medians() -> pd.DataFrame:
    """Median test metric, one row a workload, one column an algorithm."""
    frame = load(RECORDS)
    assert (frame.groupby(["workload", "algorithm"]).seed.count() == 12).all()
    assert set(frame.status) == {"completed"}
    return frame.pivot_table(index="workload", columns="algorithm", values="test", aggfunc="median")


def test_where_truncation_bites_and_where_it_does_not(medians: pd.DataFrame) -> None:
    """Always saying 1 has 1/6. The horizon of `truncated_bptt` is 10; what differs is where the last mark may stand."""
    assert medians.bptt[[ANYWHERE, LATE, LONG]].max() < 0.01
    assert medians.truncated_bptt[ANYWHERE] < 0.01
    assert (medians.truncated_bptt[[LATE, LONG]] > 0.16).all()
    assert (medians.truncated_bptt[[LATE, LONG]] < 0.18).all()
    assert medians.truncated_bptt["temporal_order"] < 0.3 < 0.99 < medians.bptt["temporal_order"]


def test_traces_of_single_units_carry_what_a_short_horizon_cuts_off(medians: pd.DataFrame) -> None:
    for rule in ("eprop", "snap", "rflo"):
        assert medians[rule][[ANYWHERE, LATE]].max() < 0.02
        assert medians[rule]["temporal_order"] > 0.9
    for rule in ("uoro", "rtrl", "reservoir"):
        assert medians[rule][[ANYWHERE, LATE, LONG]].min() > 0.15


def test_published_claims_at_this_scale(medians: pd.DataFrame) -> None:
    """What the papers say, on nets of 8 units and sequences of at most 100 times, where theirs have 100 and more.

    Bellec et al. 2020: e-prop comes close to BPTT where lags are short (their TIMIT and store-recall tasks spike).
    Menick et al. 2021: SnAp-1 learns where UORO does not (theirs is copy, by a curriculum of lengths, GRU of 128).
    """
    assert medians.eprop["temporal_order"] > medians.bptt["temporal_order"] - 0.01
    assert medians.eprop[ANYWHERE] < 3 * medians.bptt[ANYWHERE]
    assert (medians.snap[[ANYWHERE, LATE, LONG]] < 0.1 * medians.uoro[[ANYWHERE, LATE, LONG]]).all()
    assert medians.snap["copy"] > medians.uoro["copy"]


@pytest.mark.slow
def test_a_cell_reruns_as_published(tmp_path: Path) -> None:
    from altprop.cli.run import run

    here = tmp_path / "runs"
    cell = ["algorithm=bptt", "+through_time=temporal_order_30", "hydra/launcher=basic"]
    assert run(["-m", "+experiment=through_time", *cell, f"runs_dir={here}", "report=false"]) == 0
    comparison = compare(RECORDS, here)
    mine = [r for r in comparison.runs if r.label == "bptt+adam" and r.workload == "temporal_order"]
    assert len(mine) == 12
    if comparison.bitwise_expected:
        assert all(r.bitwise for r in mine), [r.differing for r in mine]
