"""Leases: at most one living process works on a run, also when workers are killed and others take over.

A run folder's lease is a chain of files. `lease.json` is the first; the successor of the lease with the mark N is
`lease.N.json`. A lease is *held* while it is the last of the chain that starts at `lease.json` and its owner is alive.
To claim is to add one link, by a creation that fails if the name exists: so each lease has at most one successor, and
of any number of takers that find the same dead owner one wins. Releasing removes the chain, its first link first; a
taker that comes too late finds that the chain from `lease.json` does not reach its own link, and has lost. No step
reads a file and then replaces it, which is where two takers could both win.

An owner on this machine (same boot, same namespace) is alive while its process is, by number and start time, however
long it sleeps. Any other owner is alive while it touches its file: the file's age is measured against a file that the
taker has just written, by the clock of the file system, so clocks of hosts need not agree.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from altprop.errors import AltpropError
from altprop.records import files, process

HEARTBEAT = 15.0
"""Seconds between two touches of a lease."""
STALE = 120.0
"""Seconds without a touch after which a lease of another machine counts as abandoned."""


@dataclass(frozen=True)
class Owner:
    """Who wrote a lease.

    Args:
        mark: The random name of the lease.
        host: The machine's name.
        pid: The process.
        boot: See `process.boot`.
        start: See `process.start_of`.
    """

    mark: str
    host: str
    pid: int
    boot: str
    start: str

    @classmethod
    def this(cls) -> Self:
        """Return this process as an owner, with a fresh mark."""
        start = process.start_of(os.getpid()) or ""
        return cls(secrets.token_hex(8), process.host(), os.getpid(), process.boot(), start)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return the owner named in the file, or None where the file does not exist.

        A torn file (its writer died, or the file system has no hard links and the writer is at it) has an owner that
        nobody knows: it lives by the age of the file.
        """
        try:
            data: Any = json.loads(path.read_bytes())
            return cls(
                files.check_name(data["mark"]), str(data["host"]), int(data["pid"]), data["boot"], str(data["start"])
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AltpropError):
            return cls("torn" + hashlib.sha256(path.name.encode()).hexdigest()[:8], "unknown", 0, "", "")

    def alive(self, path: Path, now: float, stale: float) -> bool:
        """Return whether the owner of the lease file `path` still works, at file system time `now`, in seconds."""
        if self.host == process.host() and self.boot == process.boot() and self.pid:
            return process.is_alive(self.pid, self.start)
        try:
            return now - path.stat().st_mtime < stale
        except FileNotFoundError:
            return True  # Released this moment: whoever asks again will find no lease at all.

    def encode(self, heartbeat: float) -> bytes:
        """Return the content of the lease file."""
        return (json.dumps({**self.__dict__, "heartbeat": heartbeat}) + "\n").encode()


def chain(folder: Path) -> list[tuple[Path, Owner]]:
    """Return the links of the folder's lease, first to last; empty if there is none."""
    links: list[tuple[Path, Owner]] = []
    path = folder / "lease.json"
    while (owner := Owner.read(path)) is not None and all(owner.mark != earlier.mark for _, earlier in links):
        links.append((path, owner))
        path = folder / f"lease.{owner.mark}.json"
    return links


class Lease:
    """The right to work on one run, kept alive by a thread until it is released.

    Use it as a context manager, or call `release`. A process that ends without releasing, however it ends, is found
    dead by the next claim.

    Args:
        folder: The run's folder.
        path: This lease's file, already written.
        owner: This process.
        heartbeat: Seconds between touches.
    """

    def __init__(self, folder: Path, path: Path, owner: Owner, heartbeat: float = HEARTBEAT) -> None:
        self.folder = folder
        self._path = path
        self._owner = owner
        self._ended = threading.Event()
        thread = threading.Thread(target=self._beat, args=(heartbeat,), name=f"lease of {folder.name}", daemon=True)
        thread.start()

    @property
    def held(self) -> bool:
        """Whether this process still has the run: not released, and nobody took over (after a suspension, say)."""
        if self._ended.is_set() or self._owner.pid != os.getpid():
            return False
        links = chain(self.folder)
        return bool(links) and links[-1][1] == self._owner

    def refresh(self) -> None:
        """Show other machines that this process lives; the thread does the same every `heartbeat` seconds."""
        with contextlib.suppress(OSError):
            os.utime(self._path)

    def release(self) -> None:
        """Give the run back. Does nothing if it was released, taken over, or claimed by the parent of this process."""
        if self.held:
            with contextlib.suppress(OSError):  # A lease that cannot be removed ends with this process at the latest.
                self.refresh()  # Candidates of other claims live for milliseconds: what is a minute old was left.
                files.sweep(self.folder, "lease", before=self._path.stat().st_mtime - 60)
                for path, _ in chain(self.folder):
                    path.unlink(missing_ok=True)
        self._ended.set()

    def _beat(self, heartbeat: float) -> None:
        while not self._ended.wait(heartbeat):
            self.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def claim(folder: Path, heartbeat: float = HEARTBEAT, stale: float = STALE) -> Lease | None:
    """Return the lease of the run in `folder`, or None while somebody else has it.

    Args:
        folder: The run's folder, which exists.
        heartbeat: Seconds between touches of the lease.
        stale: Seconds after which an owner on another machine that touched nothing counts as dead.
    """
    owner = Owner.this()
    candidate = folder / f".lease.{owner.mark}.tmp"
    try:
        files.write_new(candidate, owner.encode(heartbeat))
        now = candidate.stat().st_mtime
        links = chain(folder)
        if links and links[-1][1].alive(links[-1][0], now, stale):
            return None
        path = folder / (f"lease.{links[-1][1].mark}.json" if links else "lease.json")
        if not _create(candidate, path):
            return None
        if chain(folder)[-1:] != [(path, owner)]:
            path.unlink(missing_ok=True)
            return None
        return Lease(folder, path, owner, heartbeat)
    finally:
        candidate.unlink(missing_ok=True)


def _create(candidate: Path, path: Path) -> bool:
    """Give the finished file `candidate` the name `path` too, unless that exists; returns whether it did."""
    link: Callable[[Path, Path], None] | None = getattr(os, "link", None)
    try:
        if link is None:
            raise OSError
        link(candidate, path)
        return True
    except FileExistsError:
        return False
    except OSError:  # No hard links here (FAT, some network shares): the file appears empty and then filled.
        try:
            files.write_new(path, candidate.read_bytes())
            return True
        except FileExistsError:
            return False
        except OSError:
            path.unlink(missing_ok=True)
            raise
