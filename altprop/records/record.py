"""One committed run, read back and checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from altprop.errors import AltpropError
from altprop.records import artefacts as kept
from altprop.records import encode
from altprop.records.status import RunStatus

SCHEMA = 1
PACKED_TRACE = "packed_trace_sha256"
"""Field of a record whose archive thinned its trace: the hash of what is left; `result` has that of the whole."""
_FIELDS: dict[str, type] = {
    "label": str,
    "workload": str,
    "axes": dict,
    "seed": int,
    "reason": str,
    "config": dict,
    "result": dict,
    "measured": dict,
    "provenance": dict,
}


class UnreadableRecordError(AltpropError):
    """A record that cannot be read, with the folder and what is wrong with it."""


@dataclass(frozen=True)
class Record:
    """A committed run.

    Args:
        folder: Where it lies.
        data: The content of `record.json`, non-finite numbers revived.
    """

    folder: Path
    data: dict[str, Any]

    @property
    def key(self) -> str:
        """The run's key: the name of its folder."""
        return str(self.data["key"])

    @property
    def label(self) -> str:
        """The learner's name in tables, such as "backprop+adam"."""
        return str(self.data["label"])

    @property
    def workload(self) -> str:
        """The name of the task with its model."""
        return str(self.data["workload"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.data["seed"])

    @property
    def data_digest(self) -> str:
        """SHA-256 of what the task loaded, empty where it loaded nothing."""
        digest = str((self.data["provenance"].get("sources") or {}).get("data") or "")
        return digest if len(digest) == 64 else ""

    @cached_property
    def status(self) -> RunStatus:
        """How the run ended."""
        return RunStatus(self.data["status"])

    @property
    def result(self) -> dict[str, Any]:
        """What is equal bit for bit on an equal fingerprint."""
        return dict(self.data["result"])

    @property
    def measured(self) -> dict[str, Any]:
        """Times, memory, host and date: never compared bitwise."""
        return dict(self.data["measured"])

    def trace(self) -> list[dict[str, Any]]:
        """Return the rows of `trace.jsonl`: evaluations, training losses and probes."""
        return self._lines("trace.jsonl")

    def clock(self) -> list[dict[str, Any]]:
        """Return the rows of `clock.jsonl`: the learner's seconds at the points of the evaluation grid."""
        return self._lines("clock.jsonl")

    def artefacts(self) -> dict[str, Path]:
        """Return name -> file of what the learner left; `artefacts.read` opens one."""
        return kept.found(self.folder)

    def _lines(self, name: str) -> list[dict[str, Any]]:
        try:
            data = (self.folder / name).read_bytes()
            whole = self.data["result"].get("trace_sha256")
            expected = self.data.get(PACKED_TRACE, whole) if name == "trace.jsonl" else None
            if expected is not None and hashlib.sha256(data).hexdigest() != expected:
                raise ValueError("it does not belong to the record beside it")
            return encode.load_lines(data)
        except (OSError, ValueError) as error:
            raise UnreadableRecordError(f"{self.folder / name} cannot be read: {error}") from error


def read_record(folder: Path) -> Record | None:
    """Return the record in a run's folder, or None if none was committed.

    Raises:
        UnreadableRecordError: There is one, but it is torn, of another schema, or lies in a folder not its own.
    """
    path = folder / "record.json"
    try:
        raw = path.read_bytes()
        data: Any = json.loads(raw)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableRecordError(f"{path} cannot be read: {error}") from error
    if problem := problem_of(data, folder.name):
        raise UnreadableRecordError(f"{path} cannot be used: {problem}")
    if encode.has_non_finite(raw):
        for block in ("config", "result", "measured"):
            data[block] = encode.revive(data[block])
    return Record(folder, data)


def problem_of(data: Any, key: str) -> str | None:
    """Return what is wrong with the content of a `record.json` in the folder called `key`, or None."""
    if not isinstance(data, dict):
        return "it holds no JSON object"
    if data.get("schema") != SCHEMA:
        return f"its schema is {data.get('schema')!r}, and this version of altprop reads {SCHEMA}"
    if data.get("key") != key:
        return f"its key {data.get('key')!r} is not the name of its folder"
    if data.get("status") not in set(RunStatus):
        return f"its status {data.get('status')!r} is none of {', '.join(RunStatus)}"
    for field, kind in _FIELDS.items():
        if not isinstance(data.get(field), kind):
            return f"its field {field!r} is {'not ' + kind.__name__ if field in data else 'missing'}"
    return None


def committed(runs_dir: Path) -> Iterator[Path]:
    """Yield the folders below `runs_dir` that hold a record, in no particular order."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        yield from (folder for folder in runs_dir.iterdir() if (folder / "record.json").is_file())
