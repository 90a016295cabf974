"""altprop-time: what it prints and writes, exit codes, one-line errors, and no heavy import before the arguments."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from altprop.cli.timing import main
from altprop.records.timing import load_timings

Command = Callable[..., Any]


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0)


def test_a_sweep_is_timed(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    runs = command("-m", "algorithm=backprop,'null'").runs
    capfd.readouterr()
    assert call(str(runs), "--rounds", "5") == 0
    captured = capfd.readouterr()
    assert "digits[20 steps]: 2 learners, 5 rounds" in captured.err
    lines = captured.out.splitlines()
    assert lines[0].startswith("digits[20 steps]")
    assert "ratio to backprop+adam" in lines[1]
    assert lines[2].split()[0] == "backprop+adam"
    assert lines[2].endswith("1.00    [1.00, 1.00]")
    (timing,), _ = load_timings(runs)
    assert [len(one.cpu) for one in timing.learners] == [5, 5]
    assert call(str(runs), "--missing") == 0
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no folder of records 'nowhere'"),
        (["empty"], "there are no records in "),
        (["empty", "--rounds", "2"], "a timing pass takes 5 rounds or more; got 2"),
    ],
)
def test_mistakes_cost_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert call(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"altprop-time: {message}")
    assert error.count("\n") == 1


def test_help_imports_nothing_heavy() -> None:
    source = (
        "import sys\n"
        "from altprop.cli.timing import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('numpy', 'pandas', 'torch', 'hydra', 'jinja2') if n in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
