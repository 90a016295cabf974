"""The few file operations on which the promises of the store rest, with errors that a user can act on."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from altprop.errors import AltpropError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,127}")
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def check_name(name: str, what: str = "run name") -> str:
    """Return `name` if it can only mean an entry of the folder in which it is used.

    Raises:
        AltpropError: It is empty, too long, or holds anything but letters, digits and `._+=-`: so no path separator,
            no `..`, no NUL.

    >>> check_name("../../etc/passwd")
    Traceback (most recent call last):
    altprop.errors.AltpropError: run name '../../etc/passwd' is not allowed: use letters, digits and ._+=-, at most 128
    """
    if not _NAME.fullmatch(name) or ".." in name:
        shown = repr(name) if len(repr(name)) <= 80 else repr(name)[:77] + "..."
        raise AltpropError(f"{what} {shown} is not allowed: use letters, digits and ._+=-, at most 128")
    return name


@contextlib.contextmanager
def readable_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError of the body into one line that says what is wrong with `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            text = f"the disk that holds {folder} is full: free some space, or choose another place with runs_dir="
        elif error.errno in _FORBIDDEN:
            text = f"{folder} cannot be written: {error.strerror}; change its rights, or choose another with runs_dir="
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            text = f"{folder} cannot hold records: a file of that name is in the way; choose another with runs_dir="
        else:
            text = f"{folder} cannot be used: {error.strerror or error}"
        raise AltpropError(text) from error


def sync_folder(folder: Path) -> None:
    """Make renames and new names inside `folder` survive a power failure."""
    if os.name == "nt":  # Windows opens no folders, and its renames are journalled.
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, data: bytes) -> None:
    """Replace the content of `path` in one step: a reader, also after a crash, sees the old bytes or the new ones.

    The bytes are on the disk when this returns; the name is once `sync_folder` was called on the parent.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        write_new(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_new(path: Path, data: bytes) -> None:
    """Write `data` to a file that must not exist yet, and has them on the disk when it returns."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents; the new names are on the disk when this returns."""
    if folder.is_dir():
        return
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    folder.mkdir(parents=True, exist_ok=True)
    for created in missing:
        sync_folder(created.parent)


def sweep(folder: Path, name: str, before: float = math.inf) -> None:
    """Remove temporary files for `name` that killed processes left.

    Args:
        folder: Where they lie.
        name: What they were to become.
        before: Only those last written before this time of the file system, in seconds, where somebody may be at it.
    """
    for leftover in folder.glob(f".{name}.*.tmp"):
        with contextlib.suppress(OSError):
            if leftover.stat().st_mtime < before:
                leftover.unlink()
