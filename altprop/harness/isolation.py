"""A run in a child process, which can hang, crash or be killed without harm to the others."""

from __future__ import annotations

import os
import signal
import socket
import threading
from datetime import UTC, datetime
from typing import Any

from altprop.errors import AltpropError
from altprop.harness import runner
from altprop.harness.children import GRACE, as_default, context_for, follow_parent, kill, wait
from altprop.harness.memory import in_words
from altprop.harness.planning import RunIdentity
from altprop.harness.run_end import RunEnd, commit
from altprop.records.status import RunStatus
from altprop.records.store import RunStore


def run_isolated(run: RunIdentity, store: RunStore) -> dict[str, Any]:
    """Run one seed in a child and commit its record here where the child could not.

    On the CPU the child comes from a fork server that has imported torch once: a fork of this very process, which has
    threads (a lease's heartbeat), hung once in a few hundred. With a GPU it is spawned, because CUDA survives no fork.

    Args:
        run: which.
        store: where the record goes; the caller holds the lease.

    Returns:
        The committed record.
    """
    settings = run.cell.settings
    context = context_for(settings)
    places = _places(settings.ranks)
    work = [(run, str(store.runs_dir), place) for place in places]
    children = [context.Process(target=_child, args=given, daemon=False) for given in work]
    before = store.read(run.key)
    with as_default(context.get_start_method()):
        for child in children:
            child.start()
    try:
        in_time = wait(children, settings.timeout)
    except KeyboardInterrupt:
        children[0].join(GRACE)  # the terminal sent Ctrl-C to the children too: they save and end
        kill(children)
        raise
    kill(children)
    if not in_time:
        limit = settings.timeout
        reason = f"The run took longer than timeout={limit:g} s and was killed."
        return _commit(run, store, RunStatus.TIMED_OUT, reason)
    record = store.read(run.key)
    fresh = record is not None and (before is None or record.data["measured"] != before.data["measured"])
    if record is not None and fresh:
        return record.data
    status, reason = _death(children[0].exitcode, settings.memory)
    return _commit(run, store, status, reason)


def _places(ranks: int) -> list[dict[str, str]]:
    """Return the environment of each process that shares the run; Lightning finds its peers by it."""
    if ranks == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": str(ranks)}
    return [{**common, "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def _child(run: RunIdentity, runs_dir: str, place: dict[str, str]) -> None:
    """Run in the child; an AltpropError of the store is told by the exit code alone."""
    threading.Thread(target=follow_parent, name="follow the parent", daemon=True).start()
    os.environ.update(place)
    try:
        runner.run_seed(run, RunStore(runs_dir))
    except AltpropError as error:
        raise SystemExit(f"altprop: {error}") from error


def _death(code: int | None, memory: int | None) -> tuple[RunStatus, str]:
    """Say what an exit code means."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL:
            reason = "The run's process was killed (SIGKILL), as the system does when memory is short."
            return RunStatus.OUT_OF_MEMORY, reason
        hint = f", perhaps of an allocation beyond memory={in_words(memory)}" if memory is not None else ""
        return RunStatus.FAILED, f"The run's process died of {name}{hint}."
    return RunStatus.FAILED, f"The run's process ended with exit code {code} and left no record."


def _commit(run: RunIdentity, store: RunStore, status: RunStatus, reason: str) -> dict[str, Any]:
    return commit(run, RunEnd(status, reason, datetime.now(UTC)), store)
