"""Telling one process from another, also after a reboot and when the system uses a number again."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path


@functools.cache
def host() -> str:
    """Return the name of this machine."""
    return platform.node() or "unknown"


@functools.cache
def boot() -> str:
    """Return what is equal for just those processes that see each other's numbers, or "" where none is known.

    On Linux: the identity of this boot and of the namespace of process numbers, so that a container, or the machine
    after a reboot, is not mistaken for this one. Elsewhere process numbers are trusted within a host name.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + "/" + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def start_of(pid: int) -> str | None:
    """Return when the process `pid` of this machine began, as a token, or None if there is no such process.

    A process that has ended but was not collected by its parent (a zombie) counts as ended.
    """
    if boot():
        try:
            # The name, in parentheses, may hold anything; behind it come the state and, 20th, the start in ticks.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZXx" else fields[19]
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return None


def is_alive(pid: int, start: str) -> bool:
    """Return whether the process `pid` of this machine that began at `start` still runs."""
    return start_of(pid) == start
