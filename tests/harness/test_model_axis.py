"""What is swept in a model is an axis of comparison: a column of learners on one task, never several tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from altprop.cli.run import run
from altprop.report.across import across
from altprop.report.build import build
from altprop.report.data_sets import data_sets
from altprop.report.reading import read

SMALL = ["probes=off", "budget.currency=steps", "budget.amount=4", "report=false", "seeds=2"]
WIDTHS = {"backprop+adam·hidden=[4]", "backprop+adam·hidden=[6]", "backprop+adam·hidden=[8]"}


def test_a_grid_over_three_widths_is_one_table_of_three_learners(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert run(["-m", "task=iris", "model.hidden=[4],[6],[8]", f"runs_dir={runs}", *SMALL]) == 0
    report = read([runs], "Widths")
    (table,) = report.tables
    assert table.workload == "iris[4 steps]"
    assert set(table.runs) == WIDTHS
    assert {name: [one.seed for one in group] for name, group in table.runs.items()} == {
        name: [0, 1] for name in WIDTHS
    }
    assert len(data_sets(report.tables)) == 1
    assert across(report) is None
    page = build([runs], tmp_path / "report", formats=["md"]).read_text()
    assert "3 learners on 1 task, 6 runs" in page
    assert "There is one data set only" in page


@pytest.mark.parametrize(
    ("overrides", "label", "workload"),
    [
        ([], "backprop+adam", "iris"),
        (["model=linear"], "backprop+adam·model=linear", "iris"),
        (["model.activation=tanh", "model.hidden=[3]"], "backprop+adam·activation=tanh, hidden=[3]", "iris"),
        (["task.batch_size=8", "model.hidden=[3]"], "backprop+adam·hidden=[3]", "iris[batch_size=8, 4 steps]"),
        (["dtype=float64"], "backprop+adam", "iris[4 steps, dtype=float64]"),
    ],
)
def test_the_model_is_of_the_learner_and_the_data_are_of_the_task(
    overrides: list[str], label: str, workload: str, tmp_path: Path
) -> None:
    assert run(["task=iris", *overrides, f"runs_dir={tmp_path}", *SMALL]) == 0
    (table,) = read([tmp_path], "x").tables
    assert (list(table.runs), table.workload.replace("[4 steps]", "")) == ([label], workload)
