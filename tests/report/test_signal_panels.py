"""What `initial_signal` measures reaches the page, and so does the map of who reaches the target where."""

from pathlib import Path

import pytest

from altprop.cli.run import run
from altprop.report.build import build
from altprop.report.identity import checks
from altprop.report.reached import reached
from altprop.report.reading import read

GRID = [
    "algorithm.activations=[sigmoid,relu]",
    "algorithm.initialisations=[he_normal,orthogonal]",
    "algorithm.normalisations=[none,batch]",
    "algorithm.depths=[3,4]",
    "algorithm.width=16",
    "algorithm.rows=16",
]
SMALL = ["budget.amount=2", "report=false", "probes=off", "task.width=4"]


def test_slopes_at_initialisation_stand_beside_those_of_theory(tmp_path: Path) -> None:
    runs = f"runs_dir={tmp_path / 'runs'}"
    assert run(["algorithm=initial_signal", "task=deep_digits", "seeds=2", runs, *GRID, *SMALL]) == 0
    page = build([tmp_path / "runs"], tmp_path / "page", formats=["md"]).read_text()
    assert page.count("#### Gradients at initialisation, measured and in theory") == 1
    assert page.count("Predicted probabilities on the test set") == 1  # a control that predicts is calibrated or not
    drawn = {path.name.split("-deep")[0]: path.read_text() for path in (tmp_path / "page/figures").glob("signal*")}
    assert set(drawn) == {"signal", "signal-theory"}
    for said in ("slope of ln ‖dL/dh‖ a layer, 4 layers", ">sigmoid, batch<", ">he normal<"):
        assert said in drawn["signal"]
    assert "8 nets; farthest from the line by" in drawn["signal-theory"]  # 2 activations, 2 initialisations, 2 depths


def test_the_map_shows_who_reaches_the_target_at_which_depth(tmp_path: Path) -> None:
    runs = f"runs_dir={tmp_path}"
    depths = ["-m", "task=deep_digits", "task.depth=2,3,10", "+recipe=relu_he,sigmoid_residual", "seeds=2", runs]
    assert run([*depths, *SMALL]) == 0
    report = read([tmp_path], "x")
    assert [table.workload.split("depth=")[1][0:2] for table in report.tables] == ["2,", "3,", "10"]
    (figure,) = reached(report)
    drawn = figure.canvas.file()
    assert "runs that reach the target 90%" in drawn
    assert drawn.count(">0 of 2 · 0.") == 6  # and the median of the two
    assert {one.name for one in report.learners} == {"relu_he", "sigmoid_residual"}
    # Recipes begin with other weights because they are other models: nothing unfair in that.
    weights = [check.state for check in checks(report) if check.what == "initial weights"]
    assert set(weights) == {"nothing to compare"}


@pytest.mark.parametrize("recipe", ["relu_he", "relu_large_clipped"])
def test_a_recipe_goes_by_its_name_and_what_was_added_by_hand(recipe: str, tmp_path: Path) -> None:
    runs = f"runs_dir={tmp_path}"
    assert run([f"+recipe={recipe}", "task=deep_digits", "optimizer.lr=0.01", runs, *SMALL]) == 0
    (table,) = read([tmp_path], "x").tables
    assert list(table.runs) == [f"{recipe}(lr=0.01)"]
    (one,) = table.runs[f"{recipe}(lr=0.01)"]
    assert one.record.data["axes"]["optimizer"] == "momentum"
    assert one.record.data["config"]["algorithm"]["optimizer"]["lr"] == 0.01
