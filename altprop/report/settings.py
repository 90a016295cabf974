"""The settings of a run as a flat mapping, and those of them that make it another learner or workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from altprop.records.record import Record

NO_SETTING = {"name", "_target_", "paper", "control", "reference", "requires", "needs", "optimizer", "batch_mode"}
"""What a part's configuration says of it that nobody sets."""
_NOT_SETTINGS = ("seed", "seeds", "runs_dir", "hydra", "logger", "trainer", "timeout", "memory", "isolate")


def settings(record: Record) -> dict[str, Any]:
    """Return what sets a record's learner and workload apart from others, by dotted path."""
    return flatten(record.data["config"], without=_NOT_SETTINGS)


def flatten(config: Mapping[str, Any], prefix: str = "", without: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings by dotted path, some names at the top left out.

    >>> flatten({"optimizer": {"lr": 0.1}, "seed": 3}, without=["seed"])
    {'optimizer.lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if not prefix and name in without:
            continue
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
