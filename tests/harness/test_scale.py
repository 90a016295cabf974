"""Eight workers on one sweep of 200 cells, all in the same order: each cell runs once, and nobody waits for another."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from altprop.cli.application import cell_of
from altprop.harness.composition import compose_cell
from altprop.records.store import RunStore

WORKERS, CELLS = 8, 200
WORKER = """
import dataclasses, os, pickle, sys, types
from datetime import UTC, datetime
import altprop.harness
import altprop.harness.planning
from altprop.harness.commands import run_cell

log = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def run_seed(run, store, measured):
    '''In place of training: leave a line, and a record.'''
    cell = run.cell
    os.write(log, f"{run.key} {os.getpid()}\\n".encode())
    parts = {"label": cell.label, "workload": cell.workload, "axes": cell.axes, "seed": run.seed, "config": cell.config}
    record = {"status": "completed", "reason": "", "result": {}, "measured": {"pid": os.getpid()}, "provenance": {}}
    return store.commit(run.key, {**parts, **record}, [], [], "", {}).data

altprop.harness.planning.data_digest = lambda task, settings: ""  # it would load the data, and torch
sys.modules["altprop.harness.runner"] = altprop.harness.runner = types.SimpleNamespace(run_seed=run_seed)
cell = pickle.load(open(sys.argv[1], "rb"))
print("ready", flush=True)
sys.stdin.readline()
ended = []
for number in range(int(sys.argv[3])):
    one = dataclasses.replace(cell, config={**cell.config, "budget": {**cell.config["budget"], "amount": number + 1}})
    ended += run_cell(one)
print([outcome.status for outcome in ended].count("completed"), sum(outcome.executed for outcome in ended))
assert {outcome.status for outcome in ended} <= {"completed", "running"}
assert "torch" not in sys.modules
"""


@pytest.mark.slow
def test_no_cell_runs_twice_and_none_is_left_out(tmp_path: Path) -> None:
    overrides = ["seeds=1", f"runs_dir={tmp_path / 'runs'}"]
    (tmp_path / "cell").write_bytes(pickle.dumps(cell_of(compose_cell(overrides), overrides)))
    command = [sys.executable, "-c", WORKER, str(tmp_path / "cell"), str(tmp_path / "log"), str(CELLS)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(WORKERS)
    ]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * WORKERS
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    answers = [worker.communicate()[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * WORKERS
    ran = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert len(ran) == CELLS
    assert sorted(key for key, _ in ran) == RunStore(tmp_path / "runs").keys()
    assert len({pid for _, pid in ran}) > 1, "one worker did it all"
    assert sum(int(executed) for _, executed in answers) == CELLS
    assert not list((tmp_path / "runs").glob("*/lease*"))
