"""The board that the cells of a command share, and the progress that is printed from it."""

from pathlib import Path

import pytest

from altprop.harness.sweep import SWEEP_VARIABLE, Board, Relay


def test_a_line_that_is_being_written_counts_once_it_is_whole(tmp_path: Path) -> None:
    board = Board(tmp_path / "board")
    assert board.behind(0) == ([], 0)
    board.write({"kind": "cell", "name": "één"})
    first, place = board.behind(0)
    assert (first, place) == (board.rows(), board.path.stat().st_size)
    with board.path.open("a") as file:
        file.write('{"kind": "li')
    assert board.behind(place) == ([], place)
    assert board.rows() == first
    with board.path.open("a") as file:
        file.write('ne"}\n')
    assert board.behind(place) == ([{"kind": "line"}], board.path.stat().st_size)


def test_progress_is_printed_once_also_when_the_board_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board = Board(tmp_path / "board")
    monkeypatch.setenv(SWEEP_VARIABLE, str(board.path))
    relay = Relay()
    board.write({"kind": "command", "text": "altprop"})
    board.write({"kind": "line", "text": "one"})
    relay._show()
    (tmp_path / "moved").write_bytes(board.path.read_bytes())
    monkeypatch.setenv(SWEEP_VARIABLE, str(tmp_path / "moved"))
    with relay:
        Board(tmp_path / "moved").write({"kind": "line", "text": "two"})
    assert capsys.readouterr().err == "one\ntwo\n"
