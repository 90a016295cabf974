"""The log that the cells of a command share, and the progress that is printed from it."""

import io
import re
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from altprop.harness.planning import Outcome
from altprop.harness.progress import Progress
from altprop.harness.sweep import SWEEP_VARIABLE, SweepLog, on_terminal


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
    relay = Progress()
    log.write({"kind": "command", "text": "altprop"})
    log.write({"kind": "line", "text": "one"})
    relay._show()
    (tmp_path / "moved").write_bytes(log.path.read_bytes())
    monkeypatch.setenv(SWEEP_VARIABLE, str(tmp_path / "moved"))
    with relay:
        SweepLog(tmp_path / "moved").write({"kind": "line", "text": "two"})
    assert capsys.readouterr().err == "one\ntwo\n"


class Terminal(io.StringIO):
    """A place to print to that says that somebody looks on."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_cells_stand_in_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    for name, value in ((SWEEP_VARIABLE, str(tmp_path / "log")), ("TERM", "xterm"), ("COLUMNS", "100"), ("LINES", "9")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr", screen)
    assert on_terminal()
    log = SweepLog(tmp_path / "log")
    with Progress():
        log.write({"kind": "start", "cells": 4, "time": time.time() - 60, "relayed": True})
        for label, task, status in (
            ("a[b]", "iris", "completed"),
            ("dfa", "iris", "failed"),
            ("a[b]", "digits", "refused"),
        ):
            outcome = Outcome(label, task, 0, status, "it broke", True, 0.5, "accuracy")
            log.write({"kind": "cell", "outcomes": [asdict(outcome)]})
            log.write({"kind": "line", "text": "a line for who cannot see the table"})
    last = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", screen.getvalue()).split("learner")[-1]
    assert re.search(r"iris +┃ digits", last)
    assert re.search(r"dfa +│ failed  accuracy 0.5 +│", last)
    assert re.search(r"a\[b\] +│ done  accuracy 0.5 +│ refused", last)
    assert "3 of 4 cells, 0:20 left" in last
    assert "dfa on iris: it broke" in last
    assert "a line" not in screen.getvalue()
