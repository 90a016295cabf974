"""Where records lie: folders, or archives of them, which are unpacked for as long as the process lives."""

from __future__ import annotations

import atexit
import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from functools import cache
from os import PathLike
from pathlib import Path

from altprop.errors import AltpropError

Folders = str | PathLike[str] | Iterable[str | PathLike[str]]
SUFFIX = ".tar.xz"


def record_folders(runs: Folders) -> list[Path]:
    """Return folders of records, an archive among them as the folder that it was unpacked to.

    Args:
        runs: a folder of records, one run's folder, an archive (`.tar.xz`) as `altprop-report --pack` writes it, or
            several of these.

    Raises:
        AltpropError: an archive cannot be read.
    """
    given = [runs] if isinstance(runs, (str, PathLike)) else list(runs)
    return [_unpacked(path.absolute()) if path.name.endswith(SUFFIX) else path for path in map(Path, given)]


@cache
def _unpacked(archive: Path) -> Path:
    """Unpack once; files outside the folder, links out of it and devices are refused by tarfile's `data` filter."""
    folder = Path(tempfile.mkdtemp(prefix="altprop-records-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    except (OSError, EOFError, tarfile.TarError) as error:
        raise AltpropError(f"the archive of records {str(archive)!r} cannot be read: {error}") from error
    return folder
