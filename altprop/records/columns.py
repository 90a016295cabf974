"""JSON rows of many files as columns: all values of one field stand side by side, which packs several times better."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from altprop.records import encode
from altprop.records.files import check_name

FOLDER = "columns"
"""Where an archive has its columns, one file for each of `FILES`."""
Rows = Sequence[Any]
_WRITERS: dict[str, Callable[[Any], bytes]] = {
    "record.json": lambda rows: encode.dump_record(rows[0]),
    "trace.jsonl": encode.dump_lines,
    "clock.jsonl": encode.dump_lines,
    "config.yaml": lambda rows: str(rows[0]).encode(),
}
FILES = tuple(_WRITERS)
"""The files that every run has."""


def read_rows(path: Path) -> list[Any] | None:
    """Return the JSON rows of one of a run's files, a configuration as one text; None where it cannot be read."""
    try:
        data = path.read_bytes()
        if path.suffix == ".yaml":
            return [data.decode()]
        rows: list[Any] = json.loads(b"[" + (data if path.suffix == ".json" else b",".join(data.splitlines())) + b"]")
        return rows
    except (OSError, ValueError):
        return None


def expand(folder: Path) -> None:
    """Make the folders of the runs from an archive's columns, below the folder that the archive was unpacked to.

    Raises:
        ValueError: A file holds no columns.
        AltpropError: The name of a run would leave the folder.
    """
    for kind, dumped in _WRITERS.items():
        path = folder / FOLDER / kind
        if path.is_file():
            for key, rows in from_columns(path.read_bytes()):
                run = folder / check_name(key, "run key")
                run.mkdir(exist_ok=True)
                (run / kind).write_bytes(dumped(rows))
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def to_columns(files: Sequence[tuple[str, Rows]]) -> bytes:
    """Return named files of JSON rows as one JSON document.

    Rows that differ in their values alone share a shape: the row with None in place of every value. The document holds
    the shapes, a column of values for each None of each shape, and the shapes of each file's rows in their order.

    Args:
        files: Name and rows of each.

    >>> to_columns([("a", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}])])
    b'{"files":{"a":[0,0]},"shapes":[{"step":null,"loss":null}],"columns":[[[1,2],[0.5,0.25]]]}'
    """
    places: dict[str, int] = {}
    columns: list[list[list[Any]]] = []
    order: dict[str, list[int]] = {}
    for name, rows in files:
        order[name] = []
        for row in rows:
            values: list[Any] = []
            shape = _dump(_stripped(row, values))
            place = places.setdefault(shape, len(places))
            if place == len(columns):
                columns.append([[] for _ in values])
            for column, value in zip(columns[place], values, strict=True):
                column.append(value)
            order[name].append(place)
    return _dump({"files": order, "shapes": [json.loads(shape) for shape in places], "columns": columns}).encode()


def from_columns(data: bytes) -> Iterator[tuple[str, list[Any]]]:
    """Yield name and rows of each file in what `to_columns` wrote, fields in their order.

    Raises:
        ValueError: `data` is no such document.
    """
    try:
        document = json.loads(data)
        shapes = document["shapes"]
        values = [zip(*columns, strict=True) if columns else None for columns in document["columns"]]
        for name, order in document["files"].items():
            rows = []
            for place in order:
                row = values[place]
                rows.append(_filled(shapes[place], iter(() if row is None else next(row))))
            yield name, rows
    except (KeyError, IndexError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(f"it holds no columns: {error!r}") from error


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _stripped(value: Any, values: list[Any]) -> Any:
    """Return `value` with None in place of what is neither object nor list, which goes to `values`."""
    if isinstance(value, dict):
        return {name: _stripped(entry, values) for name, entry in value.items()}
    if isinstance(value, list):
        return [_stripped(entry, values) for entry in value]
    values.append(value)
    return None


def _filled(shape: Any, values: Iterator[Any]) -> Any:
    """Undo `_stripped`."""
    if isinstance(shape, dict):
        return {name: _filled(entry, values) for name, entry in shape.items()}
    if isinstance(shape, list):
        return [_filled(entry, values) for entry in shape]
    return next(values)
