"""The log that the cells of a command share, and the progress that is printed from it."""

from pathlib import Path

import pytest

from altprop.harness.sweep import SWEEP_VARIABLE, ProgressPrinter, SweepLog


def test_a_line_that_is_being_written_counts_once_it_is_whole(tmp_path: Path) -> None:
    log = SweepLog(tmp_path / "log")
    assert log.behind(0) == ([], 0)
    log.write({"kind": "cell", "name": "één"})
    first, place = log.behind(0)
    assert (first, place) == (log.rows(), log.path.stat().st_size)
    with log.path.open("a") as file:
        file.write('{"kind": "li')
    assert log.behind(place) == ([], place)
    assert log.rows() == first
    with log.path.open("a") as file:
        file.write('ne"}\n')
    assert log.behind(place) == ([{"kind": "line"}], log.path.stat().st_size)


def test_progress_is_printed_once_also_when_the_board_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = SweepLog(tmp_path / "log")
    monkeypatch.setenv(SWEEP_VARIABLE, str(log.path))
    relay = ProgressPrinter()
    log.write({"kind": "command", "text": "altprop"})
    log.write({"kind": "line", "text": "one"})
    relay._show()
    (tmp_path / "moved").write_bytes(log.path.read_bytes())
    monkeypatch.setenv(SWEEP_VARIABLE, str(tmp_path / "moved"))
    with relay:
        SweepLog(tmp_path / "moved").write({"kind": "line", "text": "two"})
    assert capsys.readouterr().err == "one\ntwo\n"
