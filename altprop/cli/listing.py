"""`altprop-list`: every algorithm, optimizer, noise, task and model, and who can run what, from yaml alone."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from altprop import catalogue
from altprop.errors import AltpropError

GROUPS = ("algorithm", "optimizer", "dropout", "task", "model", "budget", "probes", "trainer", "logger", "experiment")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script."""
    parser = argparse.ArgumentParser(prog="altprop-list", description=__doc__)
    parser.add_argument("group", nargs="?", choices=[*GROUPS, "matrix"], help="list only this")
    parser.add_argument("--config-dir", action="append", default=[], help="a folder of yours with further yaml files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    extra = tuple(options.config_dir)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a rule in one file beside you is found by its name
    try:
        groups = [g for g in GROUPS if options.group in (None, g)]
        listed = {group: catalogue.entries(group, extra) for group in groups}
        matrix = _matrix(extra) if options.group in (None, "matrix") else {}
    except AltpropError as error:
        print(f"altprop-list: {error}", file=sys.stderr)
        sys.exit(2)
    if options.json:
        plain = {
            g: {n: {"summary": e.summary, "origin": e.origin, "problem": e.trouble} for n, e in found.items()}
            for g, found in listed.items()
        }
        print(json.dumps({**plain, **({"matrix": matrix} if matrix else {})}, indent=1))
        return
    for group, found in listed.items():
        if options.group != "matrix":
            _print_group(group, found)
    if matrix:
        _print_matrix(matrix, extra)


def _print_group(group: str, found: dict[str, catalogue.Entry]) -> None:
    print(f"{group}=")
    width = max((len(name) for name in found), default=0)
    for name, entry in found.items():
        origin = "" if entry.origin == "altprop" else f" [{entry.origin}]"
        text = f"cannot be used: {entry.trouble}" if entry.trouble else entry.summary
        print(f"  {name:<{width}}  {text}{origin}")
    print()


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
