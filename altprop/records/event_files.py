"""TensorBoard's event files, read without TensorBoard: records of protocol buffers, of which the scalars are taken."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from altprop.errors import AltpropError

EVENTS = "*tfevents*"
"""Pattern of the files' names."""
_Field = tuple[int, int | bytes]


@dataclass(frozen=True)
class Event:
    """A scalar.

    Attributes:
        time: seconds since 1970.
        step: of the run.
        tag: its name.
        value: of it.
    """

    time: float
    step: int
    tag: str
    value: float


def read_events(path: Path) -> list[Event]:
    """Return the scalars of a file in their order; a record that is cut off at its end is left out.

    Raises:
        AltpropError: for a file that holds something else.
    """
    try:
        return [event for record in _records(path.read_bytes()) for event in _events(record)]
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise AltpropError(f"{path} is no event file that can be read: {error}") from error


def _records(data: bytes) -> Iterator[bytes]:
    """Yield records: 8 bytes of length, 4 of a checksum, the content, 4 of a checksum."""
    place = 0
    while place + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        end = place + 12 + length
        if end + 4 > len(data):
            return
        yield data[place + 12 : end]
        place = end + 4


def _events(record: bytes) -> Iterator[Event]:
    """Yield the scalars of an `Event`: 1 is its time, 2 its step, 5 its summary."""
    time, step, summaries = 0.0, 0, []
    for number, content in _fields(record):
        if number == 1 and isinstance(content, bytes):
            (time,) = struct.unpack("<d", content)
        elif number == 2 and isinstance(content, int):
            step = content
        elif number == 5 and isinstance(content, bytes):
            summaries.append(content)
    for summary in summaries:
        for number, content in _fields(summary):
            if number == 1 and isinstance(content, bytes):
                tag, value = _scalar(content)
                if value is not None:
                    yield Event(time, step, tag, value)


def _scalar(content: bytes) -> tuple[str, float | None]:
    """Return tag and value of a `Summary.Value`: 1 is its tag, 2 a float, 8 a tensor of one float."""
    tag, value = "", None
    for number, part in _fields(content):
        if number == 1 and isinstance(part, bytes):
            tag = part.decode()
        elif number == 2 and isinstance(part, bytes) and len(part) == 4:
            (value,) = struct.unpack("<f", part)
        elif number == 8 and isinstance(part, bytes):
            value = _tensor(part)
    return tag, value


def _tensor(content: bytes) -> float | None:
    """Return the value of a `TensorProto` of one float or double (type 1 or 2), None for any other."""
    fields = dict(_fields(content))
    layout = "<f" if fields.get(1) == 1 else "<d" if fields.get(1) == 2 else None
    for number in (4, 5, 6):  # bytes, floats, doubles
        part = fields.get(number)
        if layout is not None and isinstance(part, bytes) and len(part) == struct.calcsize(layout):
            return float(struct.unpack(layout, part)[0])
    return None


def _fields(data: bytes) -> Iterator[_Field]:
    """Yield (number, content) of a protocol buffer: numbers as such, everything else as its bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield number, value
            continue
        if kind == 2:
            length, place = _varint(data, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of the unknown kind {kind}")
        if place + length > len(data):
            raise ValueError("a field is cut off")
        yield number, data[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
