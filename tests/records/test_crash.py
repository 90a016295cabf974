"""Writers are killed at 200 random moments: no acknowledged record is lost, none is unreadable, the work resumes."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from altprop.records.lease import chain
from altprop.records.record import committed
from altprop.records.store import RunStore

from .conftest import RECORD

KILLS = 200
ROWS = 60
ENDLESS = 10**6
NURSERY = f"""
import os, signal, sys, traceback
from altprop.records.store import RunStore
store, record, log = RunStore(sys.argv[1]), {RECORD!r}, os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
trace = [{{"kind": "train", "step": step, "loss": 1.0 / (step + 1)}} for step in range({ROWS})]

def work(first, end):
    # All writers want the same runs in the same order; every third run fails at first and is run again.
    for number in range(first, end):
        key = f"run-{{number:05d}}"
        while store.settled(key) is None:
            lease = store.claim(key)
            if lease is None:
                break
            with lease:
                earlier = store.read(key)
                if earlier is not None and earlier.status.final:
                    continue
                status = "failed" if earlier is None and number % 3 == 0 else "completed"
                store.commit(key, {{**record, "status": status}}, trace, [], "lr: 0.1", {{"note": "x" * 5000}})
                os.write(log, f"{{key}} {{status}}\\n".encode())

for line in sys.stdin:
    order, *numbers = line.split()
    if order == "start":
        answer = os.fork()
        if answer == 0:
            try:
                work(*map(int, numbers))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
    else:
        if order == "kill":
            os.kill(int(numbers[0]), signal.SIGKILL)
        answer = os.waitstatus_to_exitcode(os.waitpid(int(numbers[0]), 0)[1])
    print(answer, flush=True)
"""


class Nursery:
    """A small process that forks writers and buries them: a new one costs milliseconds."""

    def __init__(self, store, log):
        command = [sys.executable, "-c", NURSERY, str(store.runs_dir), str(log)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def __call__(self, order, *numbers):
        """Gives an order and returns the answer: of `start` a process, of `kill` and `wait` its exit code."""
        self.process.stdin.write(" ".join(map(str, (order, *numbers))) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


def seconds_of_a_run(store):
    """Returns how long one run takes here, so that the kills fall everywhere within it on any disk."""
    trace = [{"kind": "train", "step": step, "loss": 1.0 / (step + 1)} for step in range(ROWS)]
    before = time.perf_counter()
    for number in range(10):
        with store.claim(f"try-{number}"):
            store.commit(f"try-{number}", RECORD, trace, [], "lr: 0.1", {"note": "x" * 5000})
    return (time.perf_counter() - before) / 10


def check(store, log, sound):
    """Every acknowledgement stands, and all that is committed can be read, a final run's trace and artefact included.

    Args:
        sound: keys of final runs that were looked at before; those of this time are added.

    Returns:
        The acknowledgements: pairs of key and status.
    """
    said = [tuple(line.split()) for line in log.read_text().splitlines()] if log.exists() else []
    for folder in committed(store.runs_dir):
        if folder.name not in sound:
            record = store.read(folder.name)
            if record.status.final:
                assert len(record.trace()) == ROWS
                assert record.artefacts()["note"].read_text() == "x" * 5000
                sound.add(folder.name)
    for key, status in said:
        if key not in sound:
            assert store.read(key) is not None, f"{key} was acknowledged and is lost"
            assert status == "failed"
    return said


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("writers", [1, 4])
def test_killed_writers_lose_nothing_and_the_work_resumes(tmp_path, writers):
    moments, store, log = random.Random(2024 + writers), RunStore(tmp_path / "runs"), tmp_path / "log"
    pace = seconds_of_a_run(RunStore(tmp_path / "tries"))
    sound, first, amid = set(), 0, 0
    with Nursery(store, log) as nursery:
        living = [nursery("start", 0, ENDLESS) for _ in range(writers)]
        for _ in range(KILLS):
            time.sleep(moments.uniform(0.0, 2 * pace))
            victim = living.pop(moments.randrange(writers))
            assert nursery("kill", victim) == -signal.SIGKILL, "a writer ended by itself, with an error"
            check(store, log, sound)
            while f"run-{first:05d}" in sound:
                first += 1
            owners = {owner.pid for path in store.runs_dir.glob("*/lease.json") for _, owner in chain(path.parent)}
            amid += victim in owners
            living.append(nursery("start", first, ENDLESS))
        for writer in living:
            assert nursery("kill", writer) == -signal.SIGKILL
        begun = len(list(store.runs_dir.iterdir()))
        before = len(check(store, log, sound))
        resumed = [nursery("start", 0, begun) for _ in range(writers)]
        assert [nursery("wait", writer) for writer in resumed] == [0] * writers
    said = check(store, log, set())
    keys = [f"run-{number:05d}" for number in range(begun)]
    assert store.keys() == keys
    assert all(store.settled(key) is not None for key in keys)
    assert len(set(said)) == len(said), "a run was done twice"
    assert not list(store.runs_dir.rglob("record.unreadable-*"))
    assert amid > KILLS // 4, f"only {amid} kills fell into the middle of a run"
    print(f"{writers} writers, {KILLS} kills, {amid} amid a run: {before} acknowledged, {len(said)} at the end")
