"""Mistakes in a command, told before a run is claimed and before anything heavy is imported.

Everything that configuration can get wrong is looked at here, for the command line, `altprop.run` and sweeps alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from altprop import catalogue
from altprop.errors import AltpropError, near

CONF = Path(__file__).parents[1] / "conf"
HARNESS_GROUPS = ("budget", "probes", "trainer", "logger")
"""Groups that the harness reads itself; those of plugins are read by their classes."""
LENGTHS = ("max_epochs", "max_steps", "epochs", "steps")
"""Names under which other tools set the length of a run -> it is a budget here."""


def validate(config: Mapping[str, Any]) -> None:
    """Check a resolved configuration.

    Raises:
        AltpropError: for the first mistake, in one sentence that says what to do.
    """
    _check_keys(config)


def known_keys() -> frozenset[str]:
    """Return the top-level keys of a configuration: those of conf/config.yaml and its groups."""
    whole = _read(CONF / "config.yaml")
    groups = (name for item in whole["defaults"] if isinstance(item, dict) for name in item)
    return frozenset({*whole, *(name for name in groups if " " not in name)} - {"hydra", "defaults"})


def known_options(group: str) -> frozenset[str]:
    """Return the options of a group that the harness reads: those in its own files, and those that conf/debug sets."""
    entries = (_read(path) for path in sorted((CONF / group).glob("*.yaml")))
    debug = (_read(path).get(group) or {} for path in sorted((CONF / "debug").glob("*.yaml")))
    return frozenset(name for options in (*entries, *debug) for name in options)


def unknown_key(name: str, value: Any) -> str:
    """Return the sentence for a top-level key that nothing reads."""
    if name == "seed":
        return f"seed is no option; say seeds=[{value}] for one seed, seeds=N for 0 to N - 1"
    if name in LENGTHS:
        return _length(name, name, value)
    return f"{name} is no option; {near(name, known_keys())}"


def unknown_option(group: str, name: str, value: Any, known: Iterable[str], whose: str = "") -> str:
    """Return the sentence for an option of a group that nothing reads.

    Args:
        group, name, value: as in group.name=value.
        known: names of its options.
        whose: of which class it is no option.
    """
    if name in LENGTHS:
        return _length(f"{group}.{name}", name, value)
    of = f" of {whose}" if whose else ""
    return f"{group}.{name} is no option{of}; {near(name, known)}"


def _length(name: str, last: str, value: Any) -> str:
    currency = "epochs" if "epochs" in last else "steps"
    return f"{name} is no option; for the length of a run say budget.currency={currency} budget.amount={value}"


def _check_keys(config: Mapping[str, Any]) -> None:
    """Refuse keys that nothing reads: what was meant would silently not happen."""
    known = known_keys()
    for name in sorted(set(config) - known):
        raise AltpropError(unknown_key(name, config[name]))
    for group in HARNESS_GROUPS:
        given = config.get(group)
        if given is not None and not isinstance(given, Mapping):
            raise AltpropError(f"{group} must be one of {', '.join(catalogue.entries(group))}; got {given!r}")
        for name in sorted(set(map(str, given or {})) - known_options(group)):
            raise AltpropError(unknown_option(group, name, (given or {})[name], known_options(group)))


@cache
def _read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()) or {})
