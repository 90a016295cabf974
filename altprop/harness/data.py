"""The digest of the data that a cell's task loads, which stands in the key of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from altprop.errors import UnusableData
from altprop.harness.settings import Settings
from altprop.records import data_digests
from altprop.records.source import source_hash
from altprop.resolve import build

UNAVAILABLE = "unavailable"
"""In place of the digest where the data could not be loaded: each run then meets the reason itself and records it."""


def data_digest(task: Mapping[str, Any], settings: Settings) -> str:
    """Return the SHA-256 of what a task loads, from the folder of records where the files are what they were.

    Args:
        task: Its configuration.
        settings: Of the cell; an isolated one loads its data in a child.
    """
    name = data_digests.name_of(task, source_hash([str(task["_target_"]).rpartition(".")[0]]))
    known = data_digests.known_digest(settings.runs_dir, name)
    if known is not None:
        return known
    if not (settings.isolate or settings.ranks > 1):
        return _loaded(task, settings.runs_dir, name)
    from altprop.harness.children import call_isolated

    answer = call_isolated(_loaded, (dict(task), settings.runs_dir, name), settings)
    return UNAVAILABLE if answer is None else str(answer)


def _loaded(task: Mapping[str, Any], runs_dir: Path, name: str) -> str:
    """Load the data, keep their digest and return it."""
    from altprop.task import Task

    try:
        data = build(task, Task, "task").data()  # type: ignore[type-abstract]
    except UnusableData:
        raise
    except (Exception, SystemExit):
        return UNAVAILABLE
    if data.files is not None:
        data_digests.keep_digest(runs_dir, name, data.digest, data.files)
    return data.digest
