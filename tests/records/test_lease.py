import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from altprop.records import lease as leases
from altprop.records import process

KEY = "k" * 32
CLAIM = """
import sys, time
from altprop.records.store import RunStore
store = RunStore(sys.argv[1])
"""


@contextlib.contextmanager
def python(code, *arguments):
    """Runs a program beside the test; it is killed at the end if it still lives."""
    child = subprocess.Popen(
        [sys.executable, "-c", CLAIM + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def holder(store):
    """Returns a program that claims the key, says so and waits."""
    code = f"lease = store.claim({KEY!r}); print(lease is not None, flush=True); sys.stdin.readline()"
    return python(code, store.runs_dir)


def alien(store, age, **changes):
    """Writes a lease of another machine that was last touched `age` seconds ago."""
    folder = store.path(KEY)
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"mark": "abc", "host": "elsewhere", "pid": 1, "boot": "b", "start": "1", "heartbeat": 15.0, **changes}
    path = folder / "lease.json"
    path.write_text(json.dumps(fields))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_one_claim_at_a_time_and_another_after_the_release(store):
    with store.claim(KEY) as lease:
        assert lease.held
        assert store.claim(KEY) is None
        assert store.claim("other").held
    assert not lease.held
    assert list(store.path(KEY).iterdir()) == [], "a released run leaves no file"
    again = store.claim(KEY)
    assert again is not None
    lease.release()  # A second release of the first lease must not touch the second lease.
    assert again.held
    again.release()


def test_a_lease_says_who_has_it(store):
    with store.claim(KEY):
        owner = json.loads((store.path(KEY) / "lease.json").read_text())
    assert (owner["host"], owner["pid"], owner["boot"]) == (process.host(), os.getpid(), process.boot())
    assert owner["start"] == process.start_of(os.getpid())


def test_a_claim_is_given_back_when_the_work_raises(store):
    with pytest.raises(ZeroDivisionError), store.claim(KEY):
        raise ZeroDivisionError
    assert store.claim(KEY) is not None


def test_another_process_is_kept_out_until_it_is_killed(store):
    with holder(store) as child:
        assert child.stdout.readline() == "True\n"
        assert store.claim(KEY) is None
        child.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        assert store.claim(KEY, stale=0.01) is None, "a process that sleeps on this machine is not dead"
        child.kill()
        child.wait()
        lease = store.claim(KEY)
        assert lease is not None
        assert lease.held
        lease.release()
    assert list(store.path(KEY).iterdir()) == []


def test_a_killed_process_that_nobody_collected_is_dead(store):
    with holder(store) as child:
        child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while (lease := store.claim(KEY)) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease is not None
        assert child.returncode is None, "the child was collected, so this test shows nothing"


def test_a_number_used_again_is_not_mistaken_for_the_owner(store):
    alien(store, 0, host=process.host(), boot=process.boot(), pid=os.getpid(), start=process.start_of(os.getpid()))
    assert store.claim(KEY) is None
    alien(store, 0, host=process.host(), boot=process.boot(), pid=os.getpid(), start="12345")
    assert store.claim(KEY) is not None


@pytest.mark.parametrize(("age", "free"), [(0, False), (50, False), (70, True)])
def test_a_lease_of_another_machine_lives_by_its_heartbeat(store, age, free):
    alien(store, age)
    assert (store.claim(KEY, stale=60) is not None) == free


@pytest.mark.parametrize("changes", [{"boot": "another boot"}, {"host": "another name"}])
def test_after_a_reboot_or_from_another_container_only_the_heartbeat_counts(store, changes):
    fields = {"host": process.host(), "boot": process.boot(), "pid": 2**22 + 1, **changes}
    alien(store, 0, **fields)
    assert store.claim(KEY) is None
    alien(store, 1000, **fields)
    assert store.claim(KEY) is not None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"mark": "../../x", "host": "h", "pid": 1, "boot": "b", "start": "1"}']
)
def test_a_torn_lease_lives_by_its_age(store, content):
    path = alien(store, 0)
    path.write_text(content)
    assert store.claim(KEY, stale=60) is None
    os.utime(path, (1, 1))
    lease = store.claim(KEY, stale=60)
    assert lease.held
    lease.release()
    assert list(store.path(KEY).iterdir()) == []


def test_the_heartbeat_refreshes_by_itself_and_by_calls(store):
    with store.claim(KEY, heartbeat=0.02) as lease:
        path = store.path(KEY) / "lease.json"
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime < 1000 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1000
    with store.claim(KEY) as lease:
        os.utime(path, (1, 1))
        lease.refresh()
        assert path.stat().st_mtime > 1000


def test_who_was_taken_over_knows_it_and_takes_nothing_back(store, monkeypatch):
    first = store.claim(KEY)
    monkeypatch.setattr(process, "is_alive", lambda pid, start: False)
    second = store.claim(KEY)
    monkeypatch.undo()
    assert not first.held
    first.release()
    assert second.held
    assert store.claim(KEY) is None
    second.release()
    assert list(store.path(KEY).iterdir()) == []


def test_a_taker_that_comes_too_late_has_lost(store, monkeypatch):
    """The owner was dead when the late taker looked; since then the run was taken over, released and claimed afresh."""
    dead = alien(store, 0, host=process.host(), boot=process.boot(), pid=os.getpid(), start="1")
    seen_then = leases.chain(dead.parent)
    store.claim(KEY).release()
    fresh = store.claim(KEY)
    real, answers = leases.chain, [seen_then]
    monkeypatch.setattr(leases, "chain", lambda folder: answers.pop() if answers else real(folder))
    assert store.claim(KEY) is None
    assert fresh.held
    fresh.release()
    assert list(dead.parent.iterdir()) == []


def test_a_file_system_without_hard_links_serves_too(store, monkeypatch):
    def no_links(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    lease = store.claim(KEY)
    assert lease.held
    assert store.claim(KEY) is None
    lease.release()
    assert store.claim(KEY) is not None


def test_a_child_does_not_give_back_what_its_parent_claimed(store):
    lease = store.claim(KEY)
    child = os.fork()
    if child == 0:
        lease.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert lease.held
    lease.release()


def test_a_circle_of_leases_ends(store):
    path = alien(store, 1000, mark="abc")
    (path.parent / "lease.abc.json").write_text(path.read_text())
    assert len(leases.chain(path.parent)) == 1
    assert store.claim(KEY) is None


def race(store, processes, rounds, prepare):
    """Lets processes claim the same keys at the same moments; returns how many won each round and held to its end."""
    code = """
from altprop.records import lease
for number in range(int(sys.argv[2])):
    line = sys.stdin.readline().split()
    while time.time() < float(line[1]):
        pass
    won = store.claim(line[0], heartbeat=1000, stale=60)
    print(int(won is not None), flush=True)
    sys.stdin.readline()
    print(int(won is not None and won.held), flush=True)
"""
    winners = []
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(python(code, store.runs_dir, rounds)) for _ in range(processes)]
        for number in range(rounds):
            key = f"round-{number}"
            prepare(key)
            moment = time.time() + 0.02
            for child in children:
                child.stdin.write(f"{key} {moment}\n")
                child.stdin.flush()
            won = sum(int(child.stdout.readline()) for child in children)
            for child in children:
                child.stdin.write("\n")
                child.stdin.flush()
            winners.append((won, sum(int(child.stdout.readline()) for child in children)))
    return winners


def stale_lease(store, generations):
    def prepare(key):
        folder = store.path(key)
        folder.mkdir(parents=True)
        name = "lease.json"
        for mark in range(generations):
            fields = {
                "mark": f"m{mark}",
                "host": process.host(),
                "pid": 2**22 + 1,
                "boot": process.boot(),
                "start": "1",
            }
            (folder / name).write_text(json.dumps(fields))
            name = f"lease.m{mark}.json"

    return prepare


@pytest.mark.parametrize("generations", [0, 1, 3])
def test_of_eight_takers_exactly_one_wins(store, generations):
    assert race(store, 8, 25, stale_lease(store, generations)) == [(1, 1)] * 25


@pytest.mark.slow
def test_of_eight_takers_exactly_one_wins_four_hundred_times(store):
    assert race(store, 8, 400, stale_lease(store, 1)) == [(1, 1)] * 400


def test_workers_that_claim_release_and_die_never_overlap(store):
    """Each holder creates a file by O_EXCL and removes it before it ends: two holders at once would collide."""
    code = """
import os
inside = os.path.join(sys.argv[1], "inside")
deadline = time.time() + 60
for left in range(20, 0, -1):
    while (lease := store.claim("k")) is None and time.time() < deadline:
        pass
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
    os.unlink(inside)
    if left > 1:
        lease.release()
print("done", flush=True)
os._exit(0)  # Dies with its last lease, which another takes over.
"""
    store.path("k").mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(python(code, store.runs_dir)) for _ in range(6)]
        outputs = [child.communicate(timeout=120)[0].strip() for child in children]
    assert outputs == ["done"] * 6
    store.claim("k").release()
    assert list(store.path("k").iterdir()) == []
