"""A run in a child process, which can hang, crash or be killed without harm to the others."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from altprop.errors import AltpropError
from altprop.harness import runner
from altprop.harness.cell import Cell
from altprop.harness.memory import in_words, limited
from altprop.harness.outcome import make_record
from altprop.harness.settings import Settings
from altprop.records.status import RunStatus
from altprop.records.store import RunStore

GRACE = 5.0
"""Seconds between the request to stop and the kill."""


def run_isolated(cell: Cell, seed: int, key: str, cell_key: str, store: RunStore) -> dict[str, Any]:
    """Run one seed in a child and commit its record here where the child could not.

    On the CPU the child comes from a fork server that has imported torch once: a fork of this very process, which has
    threads (a lease's heartbeat), hung once in a few hundred. With a GPU it is spawned, because CUDA survives no fork.

    Args:
        cell, seed: what to run.
        key, cell_key: names of the run and its cell.
        store: where the record goes; the caller holds the lease.

    Returns:
        The committed record.
    """
    context = _context(cell.settings)
    places = _places(cell.settings.ranks)
    work = (cell, seed, key, cell_key, str(store.runs_dir))
    children = [context.Process(target=_child, args=(*work, place), daemon=False) for place in places]
    before = store.read(key)
    with _as_default(context.get_start_method()):
        for child in children:
            child.start()
    try:
        in_time = _wait(children, cell.settings.timeout)
    except KeyboardInterrupt:
        children[0].join(GRACE)  # the terminal sent Ctrl-C to the children too: they save and end
        _kill(children)
        raise
    _kill(children)
    if not in_time:
        limit = cell.settings.timeout
        reason = f"The run took longer than timeout={limit:g} s and was killed."
        return _commit(cell, seed, key, cell_key, store, RunStatus.TIMED_OUT, reason)
    record = store.read(key)
    fresh = record is not None and (before is None or record.data["measured"] != before.data["measured"])
    if record is not None and fresh:
        return record.data
    status, reason = _death(children[0].exitcode, cell.settings.memory)
    return _commit(cell, seed, key, cell_key, store, status, reason)


def call_isolated(function: Callable[..., Any], arguments: tuple[Any, ...], settings: Settings) -> Any:
    """Call a function in a child under the limits of a run.

    Returns:
        What it returned; None where the child raised, died or did not end in time.
    """
    context = _context(settings)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(sender, settings.memory, function, arguments), daemon=False)
    with _as_default(context.get_start_method()):
        child.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(settings.timeout) else None
    except EOFError:
        return None
    finally:
        receiver.close()
        _kill([child])


def _answer(sender: Any, memory: int | None, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Call the function in the child and send what it returns; whatever it raises is told by silence."""
    threading.Thread(target=_follow, name="follow the parent", daemon=True).start()
    with contextlib.suppress(Exception), limited(memory):
        sender.send(function(*arguments))


def _context(settings: Settings) -> Any:
    """Return how children are started: by a fork server with torch imported, or spawned where there is a GPU."""
    serves = settings.device_type == "cpu" and "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if serves else "spawn")
    if serves:
        context.set_forkserver_preload(["altprop.harness.runner"])
        _warm(context)
    return context


@functools.cache
def _warm(context: Any) -> None:
    """Let the fork server finish its imports, so that no run's timeout pays for them."""
    child = context.Process(target=os.getpid)
    with _as_default(context.get_start_method()):
        child.start()
    child.join()


@contextlib.contextmanager
def _as_default(method: str) -> Iterator[None]:
    """Make a start method the default for the moment: children adopt it, and know nothing of joblib's own, "loky"."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(method, force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


def _places(ranks: int) -> list[dict[str, str]]:
    """Return the environment of each process that shares the run; Lightning finds its peers by it."""
    if ranks == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": str(ranks)}
    return [{**common, "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def _wait(children: list[Any], timeout: float | None) -> bool:
    """Wait for all children and say whether they ended in time; when one has ended, its peers soon must."""
    end = None if timeout is None else time.monotonic() + timeout
    while any(child.is_alive() for child in children):
        alive = [child for child in children if child.is_alive()]
        multiprocessing.connection.wait(
            [child.sentinel for child in alive], None if end is None else max(0.0, end - time.monotonic())
        )
        if end is not None and time.monotonic() >= end and any(child.is_alive() for child in children):
            return len(alive) < len(children)
        if len(children) > 1 and end is None:
            end = time.monotonic() + 6 * GRACE
    return True


def _child(cell: Cell, seed: int, key: str, cell_key: str, runs_dir: str, place: dict[str, str]) -> None:
    """Run in the child; an AltpropError of the store is told by the exit code alone."""
    threading.Thread(target=_follow, name="follow the parent", daemon=True).start()
    os.environ.update(place)
    try:
        runner.run_seed(cell, seed, key, cell_key, RunStore(runs_dir))
    except AltpropError as error:
        raise SystemExit(f"altprop: {error}") from error


def _follow() -> None:
    """End with the process that holds the lease: once it is gone, another worker may take the run over."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def _kill(children: list[Any]) -> None:
    """End what still runs."""
    for child in children:
        if child.is_alive():
            child.terminate()
    for child in children:
        child.join(GRACE)
        if child.is_alive():
            child.kill()
            child.join()


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


def _commit(
    cell: Cell, seed: int, key: str, cell_key: str, store: RunStore, status: RunStatus, reason: str
) -> dict[str, Any]:
    record = make_record(cell, seed, key, cell_key, None, status, reason, None, ({}, None), datetime.now(UTC))
    return store.commit(key, record, [], [], cell.full_yaml, {}).data
