"""Child processes that can be killed without harm to this one: how they start, are waited for and end."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from altprop.harness.memory import limited
from altprop.harness.settings import Settings

GRACE = 5.0
"""Seconds between the request to stop and the kill."""


def call_isolated(function: Callable[..., Any], arguments: tuple[Any, ...], settings: Settings) -> Any:
    """Call a function in a child under the limits of a run.

    Returns:
        What it returned; None where the child raised, died or did not end in time.
    """
    context = context_for(settings)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(sender, settings.memory, function, arguments), daemon=False)
    with as_default(context.get_start_method()):
        child.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(settings.timeout) else None
    except EOFError:
        return None
    finally:
        receiver.close()
        kill([child])


def _answer(sender: Any, memory: int | None, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Call the function in the child and send what it returns; whatever it raises is told by silence."""
    threading.Thread(target=follow_parent, name="follow the parent", daemon=True).start()
    with contextlib.suppress(Exception), limited(memory):
        sender.send(function(*arguments))


def context_for(settings: Settings) -> Any:
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
    with as_default(context.get_start_method()):
        child.start()
    child.join()


@contextlib.contextmanager
def as_default(method: str) -> Iterator[None]:
    """Make a start method the default for the moment: children adopt it, and know nothing of joblib's own, "loky"."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(method, force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


def wait(children: list[Any], timeout: float | None) -> bool:
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


def follow_parent() -> None:
    """End with the process that holds the lease: once it is gone, another worker may take the run over."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def kill(children: list[Any]) -> None:
    """End what still runs."""
    for child in children:
        if child.is_alive():
            child.terminate()
    for child in children:
        child.join(GRACE)
        if child.is_alive():
            child.kill()
            child.join()
