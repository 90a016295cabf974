"""What a command costs before and beside its training: imports, planning, the page.

Each way is a process of its own. The reference is the import of Lightning alone, the floor of a command that trains.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import Table, interleave

COMMAND = ("-m", "altprop.cli.run", "algorithm=backprop", "task=digits", "budget.currency=steps", "budget.amount=50")
FIRST_STEP = """
import os, sys
from altprop.algorithm import Algorithm
from altprop.cli.run import run
Algorithm.step = lambda *_: os._exit(0)
run(sys.argv[1:])
sys.exit("no step was taken")
"""


def process(folder: str, *arguments: str) -> Callable[[], float]:
    """Return a function that runs Python in a folder."""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}

    def go() -> float:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return 1.0

    return go


def first_step(folder: str) -> Callable[[], float]:
    """Return a function that goes from a command to its first step, into records that are new each time."""

    def go() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as runs:
            return process(folder, "-c", FIRST_STEP, *COMMAND[2:], f"runs_dir={runs}")()

    return go


def run(rounds: int) -> list[Table]:
    """Measure; see the module. A round takes some fifteen seconds, so a third of the rounds is done."""
    rounds = max(3, rounds // 3)
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "import pytorch_lightning": process(folder, "-c", "import pytorch_lightning"),
            "import torch": process(folder, "-c", "import torch"),
            "a command, to its first step": first_step(folder),
            "the same again, report=false": process(folder, *COMMAND, "report=false"),
            "the same again, with the report": process(folder, *COMMAND),
            "altprop-list": process(folder, "-m", "altprop.cli.listing"),
        }
        found = interleave(ways, rounds, warm=1)
    title = f"startup: whole processes; {rounds} rounds"
    return [Table(title, "import pytorch_lightning", "seconds a process", found)]
