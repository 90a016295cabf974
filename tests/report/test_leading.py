"""A page stays small: of a crowd it draws the leading learners, and says who is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from altprop.errors import AltpropError
from altprop.report import build as building
from altprop.report import model
from altprop.report.build import assemble, build
from altprop.report.leading import foremost, leading, undrawn
from altprop.report.model import Report
from altprop.report.reading import read


@pytest.fixture(scope="module")
def crowd(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference, the worst of all, and 14 learners, `rule_13` the best of them, on one task."""
    reference = replace(synthetic.LEARNERS[0], share=0.01)
    learners = [reference, *(synthetic.Learner(f"rule_{i:02d}", share=0.05 + i / 20, align=0.1) for i in range(14))]
    folder: Path = synthetic.write(tmp_path_factory.mktemp("crowd") / "runs", learners, synthetic.TASKS[:1], 2)
    return folder


@pytest.fixture(scope="module")
def report(crowd: Path) -> Report:
    return read([crowd], "A crowd")


def test_the_reference_and_the_best_are_drawn_in_their_order(report: Report) -> None:
    few = replace(report, drawn=4)
    names = [one.name for one in leading(few, report.tables[0])]
    assert names == ["backprop+adam", "rule_11", "rule_12", "rule_13"]
    assert "4 of 15 learners" in undrawn(few, report.tables[0])
    assert len(leading(report, report.tables[0])) == 12
    assert "12 of 15 learners" in undrawn(report, report.tables[0])
    assert undrawn(replace(report, drawn=15), report.tables[0]) == ""


def test_of_equals_the_earlier_one_leads(report: Report) -> None:
    assert [one.name for one in foremost(replace(report, drawn=2), report.learners[1:4], lambda _: 0.0)] == [
        "rule_00",
        "rule_01",
    ]


def test_a_published_page_draws_fewer_where_more_do_not_fit(
    crowd: Path, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {
        drawn: len(building.render(assemble(replace(report, drawn=drawn, published=True)), "html").encode())
        for drawn in (12, 9)
    }
    assert sizes[9] < sizes[12]
    monkeypatch.setattr(building, "PUBLISHED", sizes[9] + 100)
    page = build([crowd], tmp_path / "nine", "A crowd", ["html"], publish=True).read_text()
    assert "Drawn here are 9 of 15 learners" in page
    assert len(page.encode()) <= sizes[9] + 100
    monkeypatch.setattr(building, "DRAWN", (12,))
    with pytest.raises(AltpropError, match="more than a published report has room for"):
        build([crowd], tmp_path / "none", "A crowd", ["html"], publish=True)


def test_a_page_of_many_runs_leaves_single_runs_to_its_records(
    crowd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Every run on" in build([crowd], tmp_path / "few", publish=True).read_text()
    monkeypatch.setattr(model, "SINGLES", 10)
    page = build([crowd], tmp_path / "many", publish=True).read_text()
    assert "Every run on" not in page
    assert "Each run again" not in page
    assert "a page of each of the 30 runs" in page
    assert "Every run on" in build([crowd], tmp_path / "whole").read_text()
