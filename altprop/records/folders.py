"""Where records lie: folders; archives and runs of other tools become folders for as long as the process lives."""

from __future__ import annotations

import atexit
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from functools import cache
from os import PathLike
from pathlib import Path

from altprop.errors import AltpropError
from altprop.records import foreign
from altprop.records.columns import expand

Folders = str | PathLike[str] | Iterable[str | PathLike[str]]
SUFFIX = ".tar.xz"
LEFT_OUT = "left_out.json"
"""In an archive: sentences on what it leaves out of the traces; absent where it leaves nothing out."""


def record_folders(runs: Folders) -> list[Path]:
    """Return folders of records, an archive among them as the folder that it was unpacked to.

    Args:
        runs: a folder of records, one run's folder, a published report or its archive (`.tar.xz`), a table of runs or a
            folder of event files (`altprop.records.foreign`), or several of these.

    Raises:
        AltpropError: an archive, a table or an event file cannot be read.
    """
    given = [runs] if isinstance(runs, (str, PathLike)) else list(runs)
    return [_folder(path) for path in map(Path, given)]


def _folder(path: Path) -> Path:
    packed = path / f"records{SUFFIX}"
    path = packed if packed.is_file() else path
    if path.name.endswith(SUFFIX):
        return _unpacked(path.absolute(), _version(path))
    return _converted(path.absolute(), foreign.version_of(path)) if foreign.is_foreign(path) else path


@cache
def _converted(path: Path, _: tuple[tuple[int, int], ...]) -> Path:
    folder = _temporary()
    foreign.convert(path, folder)
    return folder


def _temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="altprop-records-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _version(archive: Path) -> tuple[int, int] | None:
    """Return what tells an archive from one that took its place: when it was written and its size."""
    try:
        found = archive.stat()
    except OSError:
        return None  # Reading it says why.
    return found.st_mtime_ns, found.st_size


@cache
def _unpacked(archive: Path, _: tuple[int, int] | None) -> Path:
    """Unpack each version once; tarfile's `data` filter refuses devices and what would leave the folder."""
    folder = _temporary()
    try:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
        expand(folder)
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise AltpropError(f"the archive of records {str(archive)!r} cannot be read: {error}") from error
    return folder


def left_out(runs: Folders) -> list[str]:
    """Return what the archives among `runs` leave out of the traces, a sentence each."""
    found = [json.loads(path.read_bytes()) for folder in record_folders(runs) if (path := folder / LEFT_OUT).is_file()]
    return list(dict.fromkeys(str(sentence) for sentences in found for sentence in sentences))
