"""What tasks loaded, as digests beside the records: a command that finds all its runs need not load the data again.

A digest is believed while every file that was read has the size and the times that it had then. It is kept only where
all files are older than the process that read them: what changed since may not be what the process has in its memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from altprop.errors import AltpropError
from altprop.records import files
from altprop.records.encode import canonical_json

FOLDER = "data_digests"
_STARTED = time.time_ns()


def name_of(task: Mapping[str, Any], sources: str) -> str:
    """Return the name under which a digest is kept: of all on which the data depend but the content of files.

    Args:
        task: Its configuration.
        sources: The hash of its code.
    """
    parts = [task, sources, sys.version, _installed(), os.getcwd()]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:32]


@cache
def _installed() -> list[str]:
    """Return the names of all installed distributions with their versions, as the folders of their metadata say."""
    found: set[str] = set()
    for place in dict.fromkeys(sys.path):
        with contextlib.suppress(OSError):
            found |= {entry for entry in os.listdir(place or ".") if entry.endswith((".dist-info", ".egg-info"))}
    return sorted(found)


def known_digest(runs_dir: Path, name: str) -> str | None:
    """Return a digest that was kept, None where there is none or a file is not what it was."""
    try:
        kept = json.loads((runs_dir / FOLDER / f"{name}.json").read_bytes())
        return str(kept["sha256"]) if kept["files"] == _stamps(kept["files"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_digest(runs_dir: Path, name: str, digest: str, read: Sequence[str]) -> None:
    """Keep a digest where that is safe and possible; one that is not kept costs the next command a load.

    Args:
        runs_dir: The folder of records.
        name: From `name_of`.
        digest: SHA-256 of what was loaded.
        read: The paths of the files that it was loaded from.
    """
    with contextlib.suppress(OSError, AltpropError):
        stamps = _stamps([os.path.abspath(path) for path in read])
        if any(max(times) >= _STARTED for _, *times in stamps.values()):
            return
        content = json.dumps({"sha256": digest, "files": stamps}, indent=1) + "\n"
        files.make_folder(runs_dir / FOLDER)
        files.write_durably(runs_dir / FOLDER / f"{name}.json", content.encode())


def _stamps(paths: Sequence[str] | Mapping[str, Any]) -> dict[str, list[int]]:
    """Return path -> size in bytes, time of the last change of content and of the file's state, in nanoseconds."""
    status = {path: os.stat(path) for path in paths}
    return {path: [one.st_size, one.st_mtime_ns, one.st_ctime_ns] for path, one in status.items()}
