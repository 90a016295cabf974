"""A grid over an option is drawn over that option, by whatever path the option reaches its learner."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from altprop.report.build import build
from altprop.report.grids import _common, grids
from altprop.report.model import Report
from altprop.report.reading import read

GRID = [(lr, hidden) for lr in (0.1, 0.001, 0.01) for hidden in (8, 32)]


@pytest.fixture
def swept(synthetic: ModuleType, tmp_path: Path) -> Path:
    """Six settings of one learner, another learner and a control, on one task."""
    for place, (lr, hidden) in enumerate(GRID):

        def change(record: dict[str, Any], trace: list[Any], clock: list[Any]) -> None:
            settings = {"optimizer": {"lr": lr}, "algorithm": {"lr": lr}, "model": {"hidden": [hidden]}}  # noqa: B023
            record["config"] |= settings
            record["cell"], record["key"] = f"{place:016x}", f"{place}{record['seed']:031x}"  # noqa: B023

        one = synthetic.Learner("backprop", "sgd", share=0.5 + place / 20)
        synthetic.write(tmp_path / "runs", [one], synthetic.TASKS[:1], 2, change=change)
    others = [synthetic.Learner("dfa"), synthetic.Learner("null", control=True)]
    return Path(synthetic.write(tmp_path / "runs", others, synthetic.TASKS[:1], 2))


def texts(report: Report) -> list[list[str]]:
    return [[text for _, _, text, *_ in one.canvas._texts] for one in grids(report, report.tables[0])]


def test_each_option_has_a_figure_and_each_setting_of_the_others_a_line(swept: Path, tmp_path: Path) -> None:
    over_lr, over_hidden = texts(read([swept], "x"))
    assert "lr, log scale" in over_lr
    assert {"0.001", "0.01", "0.1"} < set(over_lr)
    assert len([text for text in over_lr if "hidden=[" in text]) == 2
    assert {"hidden", "8", "32"} < set(over_hidden)
    assert len([text for text in over_hidden if "lr=0" in text]) == 3
    assert not [text for text in over_lr + over_hidden if text.startswith(("dfa", "null"))]
    page = build([swept], tmp_path / "out", formats=["md"]).read_text()
    assert page.count("](figures/grid-") == 2


def test_points_stand_at_their_values_and_join_in_their_order(swept: Path) -> None:
    report = read([swept], "x")
    canvas = grids(report, report.tables[0])[0].canvas
    lines = [path for path in canvas._paths if path[3] > 1.8 and len(path[0]) == 3]
    assert len(lines) == 2
    for points, *_ in lines:
        assert points[1, 0] - points[0, 0] == pytest.approx(points[2, 0] - points[1, 0])  # decades on a log axis


def test_two_learners_are_no_grid(synthetic: ModuleType, tmp_path: Path) -> None:
    report = read([synthetic.write(tmp_path, synthetic.LEARNERS[:3], synthetic.TASKS[:1], 2)], "x")
    assert grids(report, report.tables[0]) == []


@pytest.mark.parametrize(
    ("name", "option", "left"),
    [
        ("a+sgd(lr=0.1)·hidden=[8]", "lr", "a+sgd·hidden=[8]"),
        ("a+sgd(lr=0.1)·hidden=[8, 4]", "hidden", "a+sgd(lr=0.1)"),
        ("a [lr=0.1, width=3]", "lr", "a [width=3]"),
        ("a [width=3, lr=0.1]", "lr", "a [width=3]"),
        ("lr=0.1", "lr", "lr=0.1"),
    ],
)
def test_a_line_is_named_by_what_its_learners_share(name: str, option: str, left: str) -> None:
    class One:
        pass

    one: Any = One()
    one.name = name
    assert _common(option, one) == left
