"""The name of a run: a hash of everything that its result depends on, so that the same command finds its record."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from altprop.records.encode import canonical_json

KERNEL = 4
"""Bump it by one when a change of the harness or the records changes any `result` block or trace row.

Code that `altprop.records.source` follows (contracts, models, losses, probes) needs no bump: its syntax trees are in
the key. What needs one: block cutting, evaluation grid, budget arithmetic, random streams' seeding by the harness,
trace fields.
"""

_DESCRIPTIVE = frozenset({"search", "paper", "irrelevant", "equivalence_margin"})
"""Options of a part that describe it and no result depends on."""


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
