"""The name of a run: a hash of everything that its result depends on, so that the same command finds its record."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

KERNEL = 2
"""Bump it by one when a change of the harness or the records changes any `result` block or trace row.

Code that `altprop.records.source` follows (contracts, models, losses, probes) needs no bump: its syntax trees are in
the key. What needs one: block cutting, evaluation grid, budget arithmetic, random streams' seeding by the harness,
trace fields.
"""

_DESCRIPTIVE = frozenset({"search", "paper", "irrelevant"})
"""Options of a part that describe it and no result depends on."""


def canonical_json(value: Any) -> str:
    """Return the one spelling of a configuration: equal values give equal text, in any process and key order.

    Keys are sorted, floats written by `repr` (the shortest text that reads back equal), -0.0 as 0.0, non-finite
    floats as "NaN", "Infinity", "-Infinity"; 1 and 1.0 and true stay apart.

    Args:
        value: Nested mappings with string keys, lists, tuples, strings, numbers, booleans, None, enumeration members.

    Raises:
        TypeError: Anything else, or a key that is no string.

    >>> canonical_json({"lr": 1e-3, "betas": (0.9, -0.0), "clip": float("inf")})
    '{"betas":[0.9,0.0],"clip":"Infinity","lr":0.001}'
    """
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _canonical(value: Any) -> Any:
    if isinstance(value, Enum):
        return _canonical(value.value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value) + 0.0  # -0.0 + 0.0 is 0.0.
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"a configuration needs names as keys, not {sorted(map(repr, value))}")
        return {key: _canonical(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(entry) for entry in value]
    raise TypeError(f"a configuration cannot hold {type(value).__name__}")


def relevant(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a cell's configuration on which a result depends.

    A part's own `irrelevant` names options that do not matter, such as where files lie: the data are in the key.

    >>> relevant({"task": {"name": "mnist", "path": "here", "irrelevant": ["path"]}, "dtype": "float32"})
    {'task': {'name': 'mnist'}, 'dtype': 'float32'}
    """
    return {name: _relevant(part) if isinstance(part, Mapping) else part for name, part in config.items()}


def _relevant(part: Mapping[str, Any]) -> dict[str, Any]:
    left_out = _DESCRIPTIVE | set(part.get("irrelevant") or ())
    return {
        name: _relevant(value) if isinstance(value, Mapping) and "_target_" in value else value
        for name, value in part.items()
        if name not in left_out
    }


def cell_key(
    config: Mapping[str, Any],
    sources: str,
    data: str,
    device_type: str = "cpu",
    precision: str = "32",
    threads: int = 1,
    kernel: int = KERNEL,
) -> str:
    """Return the key (16 hex digits) that all seeds of a cell share.

    Args:
        config: The resolved configuration of the cell; what is not `relevant` in it changes nothing.
        sources: The hash of the code, from `source_hash`.
        data: The digest of what the task loaded.
        device_type: Such as "cpu" or "cuda".
        precision: The trainer's precision, such as "32" or "bf16-mixed".
        threads: The number of torch's threads, which changes the bits.
        kernel: The number of the harness's results, `KERNEL`.
    """
    return _digest([relevant(config), sources, data, device_type, precision, threads, kernel])[:16]


def run_key(cell: str, seed: int) -> str:
    """Return the key (32 hex digits) of one run: a cell, by its key, with a seed."""
    return _digest([cell, seed])[:32]


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()
