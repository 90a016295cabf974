"""`altprop-list`: every algorithm, optimizer, noise, task and model, and who can run what, from yaml alone."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from altprop import catalogue
from altprop.errors import AltpropError
from altprop.resolve import arguments
from altprop.search_space import Dimension

GROUPS = (
    "algorithm",
    "optimizer",
    "dropout",
    "task",
    "model",
    "budget",
    "probes",
    "trainer",
    "logger",
    "experiment",
    "recipe",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script."""
    parser = argparse.ArgumentParser(prog="altprop-list", description=__doc__)
    parser.add_argument("group", nargs="?", choices=[*GROUPS, "matrix"], help="list only this")
    parser.add_argument("--config-dir", action="append", default=[], help="a folder of yours with further yaml files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(argv)
    extra = tuple(chosen.config_dir)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a rule in one file beside you is found by its name
    try:
        groups = [g for g in GROUPS if chosen.group in (None, g)]
        listed = {group: catalogue.entries(group, extra) for group in groups}
        matrix = _matrix(extra) if chosen.group in (None, "matrix") else {}
    except AltpropError as error:
        print(f"altprop-list: {error}", file=sys.stderr)
        sys.exit(2)
    if chosen.json:
        plain = {
            g: {
                n: {
                    "summary": e.summary,
                    "origin": e.origin,
                    "problem": e.trouble,
                    "defaults": options(e),
                    "search": e.values.get("search") or {},
                }
                for n, e in found.items()
            }
            for g, found in listed.items()
        }
        print(json.dumps({**plain, **({"matrix": matrix} if matrix else {})}, indent=1))
        return
    for group, found in listed.items():
        if chosen.group != "matrix":
            _print_group(group, found, chosen.group == group)
    if matrix:
        _print_matrix(matrix, extra)


def options(entry: catalogue.Entry) -> dict[str, Any]:
    """Return the options of an entry with their defaults, as its yaml has them."""
    known = arguments(entry.values, entry.group)
    hidden = ("defaults", "optimizer", "needs") if entry.group in ("algorithm", "optimizer") else ("defaults",)
    return {name: value for name, value in known.items() if name not in hidden}


def _print_group(group: str, found: dict[str, catalogue.Entry], in_full: bool = False) -> None:
    """Print a line an entry; in full also its options with their defaults, and where `tune=` searches them."""
    print(f"{group}=")
    width = max((len(name) for name in found), default=0)
    for name, entry in found.items():
        origin = "" if entry.origin == "altprop" else f" [{entry.origin}]"
        text = f"cannot be used: {entry.trouble}" if entry.trouble else entry.summary
        print(f"  {name:<{width}}  {text}{origin}")
        if in_full and group not in ("experiment", "recipe", "budget", "probes", "trainer", "logger"):
            for line in _lines(group, entry):
                print(f"  {'':<{width}}    {line}")
    print()


def _lines(group: str, entry: catalogue.Entry, width: int = 110) -> list[str]:
    """Return each option with its default and search space, "lr=0.001 [1e-04 to 0.1, log]", in lines of that width."""
    search = entry.values.get("search") or {}
    lines: list[str] = []
    for name, value in options(entry).items():
        given = value if isinstance(value, str) else json.dumps(value).replace(" ", "")
        part = f"{name}={given}{_range(group, name, search.get(name))}"
        if lines and len(lines[-1]) + len(part) + 2 <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(part)
    return lines


def _range(group: str, name: str, given: Any) -> str:
    """Return the search space of an option in brackets, nothing where it has none that can be read."""
    if given is None:
        return ""
    try:
        space = Dimension.read(f"{group}.{name}", given)
    except AltpropError:
        return ""
    if space.choices:
        return f" [{' or '.join(map(str, space.choices))}]"
    return f" [{space.low:g} to {space.high:g}{', log' if space.scale == 'log' else ''}]"


def _matrix(extra: tuple[str, ...]) -> dict[str, dict[str, str | None]]:
    """Return algorithm -> task -> None where it runs with the task's default model, else the sentence."""
    models = catalogue.entries("model", extra)
    tasks = catalogue.entries("task", extra)
    return {
        name: {task: catalogue.why_not(entry, tasks[task], models) for task in tasks}
        for name, entry in catalogue.entries("algorithm", extra).items()
        if name != "custom"
    }


def _print_matrix(matrix: dict[str, dict[str, str | None]], extra: tuple[str, ...]) -> None:
    """Print a column a task, a row an algorithm: + runs with the default model, . does not."""
    tasks = list(catalogue.entries("task", extra))
    print("who can run what, with the task's default model and loss (+ runs, . is refused with a sentence)")
    width = max(len(name) for name in matrix)
    for place, task in enumerate(tasks):
        print(" " * (width + 4) + "| " * place + task)
    for name, row in matrix.items():
        print(f"  {name:<{width}}  " + " ".join("+" if row[task] is None else "." for task in tasks))


if __name__ == "__main__":
    main()
