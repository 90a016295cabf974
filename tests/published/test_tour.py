"""The published report belongs to the records beside it, and its experiment still reruns to the same bits."""

import json
from pathlib import Path

import pytest

from altprop.records.compare import compare
from altprop.report.build import build

ROOT = Path(__file__).parents[2]
TOUR = ROOT / "reports" / "tour"
TITLE = "The tour: eight learners and four controls on three tasks, equal FLOPs"


def test_the_page_is_what_its_records_give(tmp_path: Path) -> None:
    build([TOUR / "records"], tmp_path, TITLE)
    for name in ("report.html", "report.md", "data.csv"):
        assert (tmp_path / name).read_text().replace(str(TOUR), "") == (TOUR / name).read_text(), name
    ours = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert ours == {path.name: path.read_bytes() for path in (TOUR / "figures").iterdir()}


def test_the_readme_shows_figures_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    shown = [part.split(")")[0] for part in text.split("](")[1:] if part.startswith("reports/")]
    assert shown
    assert all((ROOT / path).exists() for path in shown)


@pytest.mark.slow
def test_a_cell_of_the_tour_reruns_as_published(tmp_path: Path) -> None:
    from altprop.cli.run import run

    here = tmp_path / "runs"
    assert run(["algorithm=dfa", "task=digits", "seeds=3", f"runs_dir={here}", "report=false"]) == 0
    comparison = compare(TOUR / "records", here)
    mine = [r for r in comparison.runs if r.label == "dfa+adam" and r.workload == "digits"]
    assert len(mine) == 3
    if comparison.bitwise_expected:
        assert all(r.bitwise for r in mine), [r.differing for r in mine]
    figures = [f for f in comparison.figures if f.label == "dfa+adam" and f.workload == "digits"]
    assert figures
    assert all(str(f.verdict) != "different" for f in figures)


def test_the_tour_holds_what_it_says() -> None:
    records = [json.loads(path.read_text()) for path in TOUR.glob("records/*/record.json")]
    assert len(records) == 108
    assert {r["status"] for r in records} == {"completed"}
    assert len({r["label"] for r in records}) == 12
    identities = {(r["workload"], r["result"]["identity"]["split"]) for r in records}
    assert len(identities) == 3


def test_what_knows_no_labels_is_at_chance_and_flagged() -> None:
    verdicts = (TOUR / "report.md").read_text().split("## 1 ")[0].split("\n### ")[1:]
    assert len(verdicts) == 3
    for verdict in verdicts:
        for control in ("null", "random\\_direction+adam", "shuffled\\_labels+adam"):
            assert f"- {control}: at chance." in verdict, verdict[:40]
