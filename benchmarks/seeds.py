"""What many seeds at once cost over the loop over seeds: whole cells, 32 seeds x 480 steps, records included.

A second table is the whole of a comparison, four learners x 32 seeds x 480 steps, from the command line with all
imports, against the same runs as a Hydra multirun over Lightning's defaults. Where torch sees a GPU, a third one shows
1 to 1,024 seeds of a step there, beside the CPU.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

import altprop
from benchmarks import stacking
from benchmarks.timing import Table, interleave

SEEDS, STEPS = 32, 480
OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam")
SAME = ("task=digits", "task.batch_size=64", "budget.currency=steps", f"budget.amount={STEPS}", f"seeds={SEEDS}")
CELLS = {
    "64-32-10, sgd": ("model.hidden=[32]", "optimizer=sgd"),
    "64-32-10, adam": ("model.hidden=[32]", "optimizer=adam"),
    "64-128-128-10, adam": ("model.hidden=[128,128]", "optimizer=adam"),
}
MANY = (1, 32, 256, 1024)
PEER = Path(__file__).with_name("peers") / "multirun.py"


def cell(*overrides: str) -> Callable[[], float]:
    """Return a function that runs a cell into a new folder."""

    def go() -> float:
        with tempfile.TemporaryDirectory() as folder:
            altprop.run([*SAME, *overrides, "probes=off", f"runs_dir={folder}"])
        return SEEDS

    return go


def command(*arguments: str) -> Callable[[], float]:
    """Return a function that runs a program in a new folder."""

    def go() -> float:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=folder,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
        return SEEDS * len(OPTIMIZERS)

    return go


def run(rounds: int) -> list[Table]:
    """Measure; see the module. A round is minutes long, so a fifth of the rounds is done, and at least three."""
    torch.set_num_threads(1)
    rounds = max(3, rounds // 5)
    tables = []
    for name, overrides in CELLS.items():
        loop, once = f"{name}: one by one", f"{name}: at once"
        ways = {loop: cell(*overrides, "stack_seeds=false"), once: cell(*overrides)}
        title = f"seeds: {SEEDS} seeds x {STEPS} steps of MLP {name}, batch 64, digits; {rounds} rounds"
        tables.append(Table(title, loop, "seconds a seed", interleave(ways, rounds, warm=1)))
    sweep = ["-m", "altprop.cli.run", "-m", *SAME, "model.hidden=[32]", f"optimizer={','.join(OPTIMIZERS)}"]
    peer = "Hydra multirun, Lightning's defaults"
    ways = {
        peer: command(str(PEER), "-m", f"optimizer={','.join(OPTIMIZERS)}", f"seed=range({SEEDS})", f"steps={STEPS}"),
        "altprop, no probes, no page": command(*sweep, "probes=off", "report=false"),
        "altprop as it comes": command(*sweep),
    }
    title = f"comparison: {len(OPTIMIZERS)} learners x {SEEDS} seeds x {STEPS} steps, MLP 64-32-10, end to end"
    tables.append(Table(title, peer, "seconds a run", interleave(ways, max(1, rounds // 3), warm=0)))
    return [*tables, *devices(rounds)] if torch.cuda.is_available() else tables


def devices(rounds: int) -> list[Table]:
    """Measure a step of so many seeds at once, on the CPU with one thread and on the GPU."""
    tables = []
    for name in ("64-32-10, adam", "64-128-128-10, adam"):
        ways = {
            f"{device}, {seeds} seeds": stacking.ways(
                ("task=digits", "task.batch_size=64", *CELLS[name], f"trainer={device}"), seeds
            )["stacked"]
            for device in ("cpu", "gpu")
            for seeds in MANY
        }
        title = f"devices: MLP {name}, batch 64, digits, seeds at once; {rounds} rounds"
        tables.append(Table(title, "cpu, 1 seeds", "a step of one seed", interleave(ways, rounds, warm=1)))
    return tables
