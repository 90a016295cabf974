"""JSON as the records need it: strict, deterministic, and with a place for NaN and the infinities."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def plain(value: Any, where: str = "", canonical: bool = False) -> Any:
    """Return `value` as dicts, lists, strings, numbers, booleans and None, which JSON can hold.

    Non-finite floats become the strings "NaN", "Infinity" and "-Infinity"; scalars of NumPy and torch become Python
    numbers, enumeration members their values.

    Args:
        value: What a run reports.
        where: The dotted path of `value`, for the error message.
        canonical: Whether equal values must give equal texts: -0.0 becomes 0.0, and keys must be strings.

    Raises:
        TypeError: `value` holds something else, such as a tensor with more than one element.

    >>> plain({"loss": float("inf"), "step": (1, 2)})
    {'loss': 'Infinity', 'step': [1, 2]}
    """
    if isinstance(value, Enum):
        return plain(value.value, where, canonical)
    if value is None or isinstance(value, (bool, int, str)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value) + 0.0 if canonical else float(value)  # -0.0 + 0.0 is 0.0.
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        if canonical and not all(isinstance(key, str) for key in value):
            raise TypeError(f"a configuration needs names as keys, not {sorted(map(repr, value))}")
        return {
            str(key): plain(entry, f"{where}.{key}" if where else str(key), canonical) for key, entry in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain(entry, f"{where}[{index}]", canonical) for index, entry in enumerate(value)]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return plain(value.item(), where, canonical)
    raise TypeError(f"a record cannot hold {type(value).__name__} at {where or 'its top'}")


def canonical_json(value: Any) -> str:
    """Return the one spelling of a configuration: equal values give equal text, in any process and key order.

    Keys are sorted, and floats written by `repr`, the shortest text that reads back equal; 1 and 1.0 and true stay
    apart. What it takes and refuses is told at `plain`.

    >>> canonical_json({"lr": 1e-3, "betas": (0.9, -0.0), "clip": float("inf")})
    '{"betas":[0.9,0.0],"clip":"Infinity","lr":0.001}'
    """
    return json.dumps(plain(value, canonical=True), sort_keys=True, separators=(",", ":"), allow_nan=False)


def revive(value: Any) -> Any:
    """Undo the strings that `plain` wrote for non-finite floats.

    >>> revive({"loss": ["Infinity", 1.5]})
    {'loss': [inf, 1.5]}
    """
    if isinstance(value, str):
        return NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: revive(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [revive(entry) for entry in value]
    return value


def dump_record(record: Mapping[str, Any]) -> bytes:
    """Return a record as indented JSON, fields in the order given, for people to read."""
    return (json.dumps(plain(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(errors="replace")


def dump_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return rows as JSON lines with sorted keys: equal rows give equal bytes."""
    lines = [
        json.dumps(plain(row), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        for row in rows
    ]
    return "".join(line + "\n" for line in lines).encode(errors="replace")


def load_lines(data: bytes) -> list[dict[str, Any]]:
    """Read what `dump_lines` wrote.

    Raises:
        ValueError: A line is not JSON.
    """
    # One call of the parser for the whole file is several times faster than one a line.
    rows: list[dict[str, Any]] = json.loads(b"[" + b",".join(data.splitlines()) + b"]")
    return [revive(row) for row in rows] if has_non_finite(data) else rows


def has_non_finite(data: bytes) -> bool:
    """Return whether `data` may hold a string that is a non-finite number; a quick look before a slow walk."""
    return b'"NaN"' in data or b'Infinity"' in data
