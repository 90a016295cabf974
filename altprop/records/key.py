"""The name of a run: a hash of everything that its result depends on, so that the same command finds its record."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from altprop.records.source import LIBRARIES, source_hash

__all__ = ["IRRELEVANT", "KERNEL", "LIBRARIES", "canonical_json", "cell_key", "relevant", "run_key", "source_hash"]

KERNEL = 1
"""Bump it by one when a change of the harness, the probes or the records changes any `result` block or trace row.

Code that algorithms and tasks import (contracts, models, losses) needs no bump: its syntax trees are in the key. What
needs one: block cutting, evaluation grid, budget arithmetic, random streams' seeding by the harness, trace fields.
"""

IRRELEVANT = (
    "hydra",
    "logger",
    "runs_dir",
    "report",
    "seeds",
    "seed",
    "stack_seeds",
    "timeout",
    "memory",
    "isolate",
    "progress",
    "verbose",
    "debug",
    "task.path",
    "trainer.devices",
    "trainer.enable_progress_bar",
    "trainer.logger",
)
"""Dotted paths of the configuration that change where, when and how loudly a run happens, never its result."""


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


def relevant(config: Mapping[str, Any], leave_out: Iterable[str] = IRRELEVANT) -> dict[str, Any]:
    """Return the part of a resolved configuration on which a result depends.

    Args:
        config: The configuration as plain nested mappings.
        leave_out: Dotted paths that do not matter.

    >>> relevant({"runs_dir": "runs", "trainer": {"devices": 1, "precision": "32"}})
    {'trainer': {'precision': '32'}}
    """
    paths = set(leave_out)

    def walk(node: Mapping[str, Any], above: str) -> dict[str, Any]:
        return {
            key: walk(entry, f"{above}{key}.") if isinstance(entry, Mapping) else entry
            for key, entry in node.items()
            if f"{above}{key}" not in paths
        }

    return walk(config, "")


def cell_key(
    config: Mapping[str, Any],
    sources: str,
    device_type: str = "cpu",
    precision: str = "32",
    threads: int = 1,
    kernel: int = KERNEL,
) -> str:
    """Return the key (16 hex digits) that all seeds of a cell share.

    Args:
        config: The resolved configuration that matters, without the seed: see `relevant`.
        sources: The hash of the code, from `source_hash`.
        device_type: Such as "cpu" or "cuda".
        precision: The trainer's precision, such as "32" or "bf16-mixed".
        threads: The number of torch's threads, which changes the bits.
        kernel: The number of the harness's results, `KERNEL`.
    """
    return _digest([config, sources, device_type, precision, threads, kernel])[:16]


def run_key(
    config: Mapping[str, Any],
    sources: str,
    seed: int,
    device_type: str = "cpu",
    precision: str = "32",
    threads: int = 1,
    kernel: int = KERNEL,
) -> str:
    """Return the key (32 hex digits) of one run: a cell with its seed. Arguments as for `cell_key`."""
    return _digest([config, sources, device_type, precision, threads, kernel, seed])[:32]


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()
