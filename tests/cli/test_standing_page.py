"""Which page a command makes: one that shows more is left, and one that is the same is not built again."""

import os
from pathlib import Path

import pytest

from altprop.cli.run import run
from altprop.report.standing import NAME, place_for, present, standing

SMALL = ["task=xor", "optimizer=sgd", "budget.currency=steps", "budget.amount=4", "budget.grid=2", "probes.tier=off"]


def go(runs: Path, *options: str) -> str:
    assert run(["-m", *SMALL, f"runs_dir={runs}", *options]) == 0
    return (runs / "report" / "report.html").read_text()


def test_a_smaller_command_leaves_the_larger_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    whole = go(runs, "algorithm=backprop,dfa", "seeds=2")
    capsys.readouterr()
    assert go(runs, "algorithm=dfa", "seeds=2") == whole
    said = capsys.readouterr().out
    assert "report-last/report.html; the larger page" in said
    last = (runs / "report-last" / "report.html").read_text()
    assert "dfa+sgd" in last
    assert "backprop+sgd" not in last
    # One that shows all that stood there takes its place; a page of somebody's choice is written where it was asked.
    assert go(runs, "algorithm=backprop,dfa", "seeds=3") != whole
    go(runs, "algorithm=dfa", "seeds=2", f"report_dir={tmp_path / 'own'}")
    assert (tmp_path / "own" / "report.html").is_file()


def test_a_page_is_built_again_where_something_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    go(runs, "algorithm=dfa", "seeds=2")
    page = runs / "report" / "report.html"
    os.utime(page, (1, 1))
    go(runs, "algorithm=dfa", "seeds=2")
    assert "report.html, as it was" in capsys.readouterr().out
    assert page.stat().st_mtime == 1
    record = next(runs.glob("*/record.json"))
    os.utime(record, (2, 2))
    go(runs, "algorithm=dfa", "seeds=2")
    assert page.stat().st_mtime > 1
    os.utime(page, (1, 1))
    go(runs, "algorithm=dfa", "seeds=2", "title=Another")
    assert page.stat().st_mtime > 1
    os.utime(page, (1, 1))
    claim = "claims=[{claim:Nobody is ahead.,source:Someone,learners:[dfa+sgd],than:dfa+sgd}]"
    go(runs, "algorithm=dfa", "seeds=2", "title=Another", claim)
    assert "Nobody is ahead." in page.read_text()  # kept beside the runs, from where any page of them has it


def test_what_stands_there_is_told_by_the_note_and_the_page(tmp_path: Path) -> None:
    assert standing(tmp_path) is None
    now = present(tmp_path, ["a", "b"], {"title": "x"})
    assert now != present(tmp_path, ["a", "b"], {"title": "y"})
    out = tmp_path / "report"
    out.mkdir()
    now.write(out)
    assert standing(out) is None  # no page
    (out / "report.html").touch()
    assert standing(out) == now
    assert place_for(tmp_path, ["a"]) == out  # the records of b are gone
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "record.json").touch()
    assert place_for(tmp_path, ["a"]) == tmp_path / "report-last"
    (out / NAME).write_text("[]")
    assert standing(out) is None
