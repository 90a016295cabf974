"""Documents beside the runs, such as oracle checks and timing passes: one JSON file each, in a folder for each kind.

They lie below the folder of records, so that whoever copies it copies them with it.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, TypeVar, final

from altprop.records import encode, files
from altprop.records.folders import Folders, record_folders
from altprop.records.record import UnreadableRecordError

SCHEMA = 1


@dataclass(frozen=True)
class Document(ABC):
    """Abstract document.

    Attributes:
        path: The file.
        data: Its content.

    Class attributes:
        folder: Name of the folder in which all documents of the kind lie.
        fields: Name -> type of what the content must have.
    """

    path: Path
    data: dict[str, Any]
    folder: ClassVar[str]
    fields: ClassVar[Mapping[str, type]]

    @property
    @abstractmethod
    def identity(self) -> tuple[str, ...]:
        """What the document is of; of two documents of one thing the one that was measured last counts."""

    @classmethod
    @abstractmethod
    def problem_of(cls, data: Mapping[str, Any]) -> str | None:
        """Return what is wrong with content that has all fields, or None."""

    @property
    @final
    def finished(self) -> str:
        """When it was measured, as text that sorts."""
        return str(self.data["measured"].get("finished") or "")

    @property
    @final
    def digest(self) -> str:
        """A name for the content, which does not depend on where it lies."""
        return hashlib.sha256(json.dumps(self.data, sort_keys=True).encode()).hexdigest()


Kind = TypeVar("Kind", bound=Document)


def write_document(runs_dir: str | PathLike[str], kind: type[Kind], name: str, data: Mapping[str, Any]) -> Kind:
    """Make a document permanent, in place of an older one of its name: a crash leaves the old or the new.

    Args:
        runs_dir: The folder of records.
        kind: Of document.
        name: Of the file.
        data: The content; `schema` is filled in here.

    Raises:
        AltpropError: The disk is full or the folder cannot be written, in one line.
    """
    folder = Path(runs_dir) / kind.folder
    with files.readable_errors(Path(runs_dir)):
        files.make_folder(folder)
        files.write_durably(folder / name, encode.dump_record({"schema": SCHEMA, **data}))
        files.sync_folder(folder)
    return read_document(kind, folder / name)


def read_document(kind: type[Kind], path: Path) -> Kind:
    """Return the document in a file.

    Raises:
        UnreadableRecordError: The file cannot be read, or holds something else.
    """
    try:
        data: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableRecordError(f"{path} cannot be read: {error}") from error
    try:
        problem = _problem_of(kind, data)
    except (TypeError, ValueError) as error:
        problem = str(error)
    if problem:
        raise UnreadableRecordError(f"{path} cannot be used: {problem}")
    return kind(path, data)


def _problem_of(kind: type[Document], data: Any) -> str | None:
    if not isinstance(data, dict):
        return "it holds no JSON object"
    if data.get("schema") != SCHEMA:
        return f"its schema is {data.get('schema')!r}, and this version of altprop reads {SCHEMA}"
    for name, wanted in kind.fields.items():
        if not isinstance(data.get(name), wanted):
            return f"its field {name!r} is {'not ' + wanted.__name__ if name in data else 'missing'}"
    return kind.problem_of(data)


def load_documents(kind: type[Kind], runs: Folders = "runs") -> tuple[list[Kind], list[str]]:
    """Return the merged documents of folders of records, and a sentence for each that is unreadable.

    Args:
        kind: Of document.
        runs: A folder of records, one run's folder, or several of these.

    Returns:
        One document of each identity, sorted by identity.
    """
    merged: dict[tuple[str, ...], Kind] = {}
    unreadable: dict[str, None] = {}
    for place in (folder.absolute() for folder in record_folders(runs)):
        below = place.parent if (place / "record.json").is_file() else place
        for path in sorted((below / kind.folder).glob("*.json")):
            try:
                document = read_document(kind, path)
            except UnreadableRecordError as error:
                unreadable[str(error)] = None
                continue
            known = merged.setdefault(document.identity, document)
            if known.finished <= document.finished:
                merged[document.identity] = document
    return [merged[identity] for identity in sorted(merged)], list(unreadable)
