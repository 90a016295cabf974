"""Two writers are killed at random moments: no acknowledged record is lost, none is unreadable, the work resumes."""

import random
import signal
import subprocess
import sys
import time

import pytest

from altprop.records.record import committed
from altprop.records.store import RunStore

from .conftest import RECORD

KEYS = [f"run-{number:03d}" for number in range(240)]
WRITER = f"""
import os, sys
from altprop.records.store import RunStore
store, keys, record = RunStore(sys.argv[1]), {KEYS!r}, {RECORD!r}
log = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
trace = [{{"kind": "train", "step": step, "loss": 1.0 / (step + 1)}} for step in range(300)]
print("ready", flush=True)
# From both ends, so that the writers meet; every third run fails at first and is run again.
for key in keys if sys.argv[3] == "0" else keys[::-1]:
    while store.settled(key) is None:
        with_lease = store.claim(key)
        if with_lease is None:
            break
        with with_lease:
            earlier = store.read(key)
            if earlier is not None and earlier.status.final:
                continue
            status = "failed" if earlier is None and int(key[-3:]) % 3 == 0 else "completed"
            store.commit(key, {{**record, "status": status}}, trace, [], "lr: 0.1", {{"note": "x" * 5000}})
            os.write(log, f"{{key}} {{status}}\\n".encode())
            os.fsync(log)
"""


def seconds_of_a_commit(store):
    """Returns how long one run takes here, so that the kills fall everywhere within it on any disk."""
    trace = [{"kind": "train", "step": step, "loss": 1.0 / (step + 1)} for step in range(300)]
    before = time.perf_counter()
    for number in range(10):
        with store.claim(f"try-{number}"):
            store.commit(f"try-{number}", RECORD, trace, [], "lr: 0.1", {"note": "x" * 5000})
    return (time.perf_counter() - before) / 10


def acknowledged(logs):
    lines = [line.split() for log in logs if log.exists() for line in log.read_text().splitlines()]
    return [(key, status) for key, status in lines]


def check(store, logs):
    """Every acknowledgement stands, and everything committed can be read, a final run's trace included."""
    said = acknowledged(logs)
    for key, status in said:
        record = store.read(key)
        assert record is not None, f"{key} was acknowledged and is lost"
        assert status == "failed" or record.status.final
    for folder in committed(store.runs_dir):
        record = store.read(folder.name)
        if record.status.final:
            assert len(record.trace()) == 300
            assert record.artefacts()["note"].read_text() == "x" * 5000
    return len(said)


@pytest.mark.slow
def test_killed_writers_lose_nothing_and_the_work_resumes(tmp_path):
    moments = random.Random(2024)
    store, logs, writers = RunStore(tmp_path / "runs"), [], {}

    pace = seconds_of_a_commit(RunStore(tmp_path / "tries"))

    def start(number):
        log = tmp_path / f"log-{number}-{len(logs)}"
        logs.append(log)
        command = [sys.executable, "-c", WRITER, str(store.runs_dir), str(log), str(number)]
        writers[number] = subprocess.Popen(command, stdout=subprocess.PIPE)
        writers[number].stdout.readline()

    progress = []
    try:
        for number in (0, 1):
            start(number)
        for _ in range(50):
            time.sleep(moments.uniform(0.0, 2 * pace))
            number = moments.randrange(2)
            assert writers[number].poll() is None, "a writer ended by itself: with an error, or for want of work"
            writers[number].kill()
            writers[number].communicate()
            # The other writer stands still, perhaps in the middle of a commit, while the dead one is replaced.
            writers[1 - number].send_signal(signal.SIGSTOP)
            progress.append(check(store, logs))
            start(number)
            writers[1 - number].send_signal(signal.SIGCONT)
        for writer in writers.values():
            assert writer.wait(timeout=120) == 0
    finally:
        for writer in writers.values():
            writer.kill()
            writer.communicate()
    check(store, logs)
    assert progress[0] < progress[-1] < len(KEYS) * 4 // 3, "the kills did not fall into the middle of the work"
    assert store.keys() == KEYS
    assert all(store.settled(key) is not None for key in KEYS)
    said = acknowledged(logs)
    assert len(set(said)) == len(said), "a run was done twice"
    assert not list(tmp_path.rglob("record.unreadable-*"))
    print(f"{len(progress)} kills, {len(said)} acknowledgements, progress {progress[::10]}")
