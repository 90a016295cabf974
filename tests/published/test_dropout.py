"""The published study of dropout: fair by its own records, and its page is theirs."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from altprop.records.compare import compare
from altprop.records.frame import load

FOLDER = Path(__file__).parents[2] / "reports" / "dropout"
RECORDS = FOLDER / "records.tar.xz"
TRIALS, SEEDS = 6, 12
SIZES = {
    100: "mnist1d[examples=100]",
    300: "mnist1d[examples=300]",
    1000: "mnist1d[examples=1000]",
    3200: "mnist1d[examples=all]",
}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    found = load(RECORDS)
    return found.assign(recipe=found.label.str.partition("·")[0].str.partition("(")[0])


def test_every_recipe_had_the_same_trials_and_seeds(frame: pd.DataFrame) -> None:
    assert set(frame.status) == {"completed"}
    for place, cell in frame.groupby(["recipe", "workload"]):
        assert Counter(cell.role) == {"run": SEEDS, "trial": TRIALS, "tuned": SEEDS}, place
    runs = frame[frame.role != "trial"]
    for name in ("split", "batch_order"):
        found = runs.assign(value=runs.identity.map(lambda identity, name=name: identity[name]))
        assert (found.groupby(["workload", "seed"]).value.nunique() == 1).all(), name


def test_dropout_stops_paying_between_1000_and_3200_examples(frame: pd.DataFrame) -> None:
    tuned = frame[frame.role == "tuned"].set_index(["recipe", "workload", "seed"]).test.sort_index()
    gains = {size: tuned["dropout", place] - tuned["plain", place] for size, place in SIZES.items()}
    errors = {size: float(gain.sem()) for size, gain in gains.items()}
    for size in (300, 1000):
        assert gains[size].mean() > 3 * errors[size], size
    assert gains[3200].mean() < -3 * errors[3200]


@pytest.mark.slow
def test_a_cell_reruns_as_published(tmp_path: Path) -> None:
    from altprop.cli.run import run

    cell = ["+recipe=dropout", "+few_examples=mnist1d_300", "+experiment=dropout", "tune=1", f"runs_dir={tmp_path}"]
    assert run([*cell, "report=false"]) == 0
    ours = load(tmp_path)
    theirs = load(RECORDS)
    theirs = theirs[(theirs.label == "dropout") & (theirs.workload == SIZES[300])].set_index("seed")
    ours = ours[(ours.role == "run")].set_index("seed")
    assert len(ours) == SEEDS
    # Bits are told by the comparison of whole experiments; a net of another rounding ends within half a point.
    assert (ours.test - theirs.test).abs().mean() < 0.005
    assert compare(RECORDS, tmp_path).figures is not None
