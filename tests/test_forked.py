"""A forked command is what a fresh interpreter would be: its arguments, folder, environment, search path and end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from . import forked

pytestmark = pytest.mark.slow  # it imports torch
SEEN = """
import json, os, random, sys
names = ["argv", "executable", "prefix"]
path = [os.path.abspath(entry) for entry in sys.path]
print(json.dumps({"path": path, "cwd": os.getcwd(), "env": dict(os.environ), **{n: getattr(sys, n) for n in names}}))
print("altprop" in sys.modules, sys.modules["__main__"].SEEN, file=sys.stderr)
SEEN = 1
"""


@pytest.mark.parametrize("way", ["-c", "-m", "script"])
def test_it_sees_what_a_fresh_interpreter_sees(tmp_path: Path, way: str) -> None:
    (tmp_path / "beside").mkdir()
    script = tmp_path / ("seen.py" if way == "-m" else "beside/seen.py")
    script.write_text(f"SEEN = 0{SEEN}")
    called = {"-c": ["-c", script.read_text()], "-m": ["-m", "seen"], "script": [str(script)]}[way]
    command = [sys.executable, *called, "one", "--two"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "beside"), "OF_MINE": "1"}
    env.pop("OMP_NUM_THREADS", None)
    fresh = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    fork = forked.run(command, tmp_path, env)
    seen: list[dict[str, Any]] = [json.loads(done.stdout) for done in (fresh, fork)]
    assert seen[1].pop("path")[: len(seen[0]["path"])] == seen[0].pop("path")
    assert seen[0] == seen[1]
    assert (fork.returncode, fork.stderr) == (0, "False 0\n") == (fresh.returncode, fresh.stderr)


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("raise SystemExit(3)", 3),
        ("1 / 0", 1),
        ("import os; os._exit(9)", 9),
        ("import os; os.kill(os.getpid(), 11)", -signal.SIGSEGV),
        ("raise KeyboardInterrupt", -signal.SIGINT),
    ],
)
def test_its_end_is_told(tmp_path: Path, code: str, end: int) -> None:
    assert forked.run([sys.executable, "-c", code], tmp_path, os.environ).returncode == end


def test_it_can_be_interrupted_and_killed(tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        waits = [sys.executable, "-c", "import os, time; os.mkdir('began'); time.sleep(60)"]
        command = forked.Command(waits, tmp_path, os.environ)
        with pytest.raises(subprocess.TimeoutExpired):
            command.wait(0.1)
        while not (tmp_path / "began").exists():
            assert command.poll() is None
        (tmp_path / "began").rmdir()
        command.send_signal(number)
        assert command.wait(30) == -number
