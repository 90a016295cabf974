"""The published study of vanishing gradients: fair by its own records, and its page is theirs."""

import math
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from altprop.records.compare import compare
from altprop.records.frame import load
from altprop.report.reading import read
from altprop.report.signal_panels import _nets
from altprop.report.times import outcomes

FOLDER = Path(__file__).parents[2] / "reports" / "vanishing_gradients"
RECORDS = FOLDER / "records.tar.xz"
TITLE = "Vanishing and exploding gradients: eleven recipes at depths from 2 to 50"
REFERENCE = "relu_he·tuned"
TRIALS, SEEDS, DEPTHS = 4, 12, 4


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return load(RECORDS)


def recipe(label: str) -> str:
    """Return the name of a recipe without the mark of tuned runs and the values of a trial."""
    return label.partition("·")[0].partition("(")[0]


def test_every_recipe_had_the_same_trials_and_seeds_at_every_depth(frame: pd.DataFrame) -> None:
    trained = frame[frame.algorithm != "initial_signal"]
    assert trained.workload.nunique() == DEPTHS
    for (name, workload), cell in trained.groupby([trained.label.map(recipe), "workload"]):
        broken = (cell[cell.role == "trial"].status == "non_finite").all()  # then there is nothing to choose
        assert Counter(cell.role) == {"run": SEEDS, "trial": TRIALS, **({} if broken else {"tuned": SEEDS})}, (
            name,
            workload,
        )
    for name in ("split", "batch_order"):
        each = trained.assign(value=trained.identity.map(lambda found, name=name: found[name]))
        assert (each[each.role != "trial"].groupby("seed").value.nunique() == 1).all(), name


def test_it_says_what_the_readme_says() -> None:
    report = read([RECORDS], TITLE, None, REFERENCE)
    hits = {
        (name.removesuffix("·tuned"), depth): sum(one.hit for one in outcomes(table, name, "90%", "flops"))
        for depth, table in zip((2, 5, 15, 50), report.tables, strict=True)
        for name in table.runs
        if name.endswith("·tuned")
    }
    assert [hits["sigmoid", depth] for depth in (2, 5)] == [12, 0]
    assert [hits["sigmoid_adam", depth] for depth in (5, 15)] == [4, 0]
    assert [hits[name, 15] for name in ("selu", "tanh_critical", "relu_lsuv", "relu_he")] == [12, 10, 8, 2]
    assert max(hits, key=lambda place: hits[place] if place[1] == 50 else -1) == ("sigmoid_batch_norm", 50)
    assert hits["sigmoid_batch_norm", 50] == 8
    nets = _nets(report.tables[-1])
    known = [net for net in nets if math.isfinite(net.theory)]
    assert len(known) == 20
    assert max(abs(net.slope - net.theory) for net in known) < 0.02


@pytest.mark.slow
def test_a_cell_reruns_as_published(tmp_path: Path) -> None:
    from altprop.cli.run import run

    cell = ["+recipe=relu_he", "task=deep_digits", "task.depth=2", "seeds=12", "budget.grid=6"]
    assert run([*cell, f"runs_dir={tmp_path}", "report=false"]) == 0
    comparison = compare(RECORDS, tmp_path)
    mine = [r for r in comparison.runs if (r.label, r.workload) == ("relu_he", "deep_digits[depth=2]")]
    assert len(mine) == SEEDS
    if comparison.bitwise_expected:
        assert all(r.bitwise for r in mine), [r.differing for r in mine]
    figures = [f for f in comparison.figures if f.label == "relu_he" and f.workload == "deep_digits[depth=2]"]
    assert figures
    assert all(str(f.verdict) != "different" for f in figures)
