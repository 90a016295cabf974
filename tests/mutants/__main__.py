"""`python -m tests.mutants [FAMILY ...]`: plant known mistakes and see that the oracles and tests notice each.

A mutant is killed where a check fails on it that passes on the code as it is. One that cannot be imported, or that only
makes its killers trip over an error, verifies nothing about them.
Exit code: 0 all mutants are killed, 1 one is not, 2 a mistake in the call.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from .catalogue import FOLDER, Mutant, Unusable, load
from .forks import run, warm
from .killing import Outcome, source, try_killers, try_mutant, try_stacked


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the harness and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("family", nargs="*", help="default: all")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="processes of one thread each (default 2)")
    parser.add_argument("--catalogue", type=Path, default=FOLDER, metavar="FOLDER", help="of TOML files; default: ours")
    options = parser.parse_args(arguments)
    try:
        mutants = load(options.family, options.catalogue)
    except Unusable as error:
        print(f"tests.mutants: {error}", file=sys.stderr)
        return 2
    started, jobs = time.monotonic(), max(1, options.jobs)
    warm()
    rows = _evaluate(mutants, jobs)
    unsound = _unsound({outcome.by for outcome in rows if outcome.status == "killed"}, jobs)
    for mutant, outcome in zip(mutants, rows, strict=True):
        if outcome.status == "killed" and outcome.by in unsound:
            print(f"NOT KILLED {mutant.family}, {mutant.name}: the check fails without it too, {unsound[outcome.by]}")
    killed = sum(outcome.status == "killed" and outcome.by not in unsound for outcome in rows)
    print(f"{killed} of {len(mutants)} mutants killed, {time.monotonic() - started:.0f} s")
    return 0 if mutants and killed == len(mutants) else 1


def _unsound(checks: Collection[str], jobs: int) -> dict[str, str]:
    """Run checks on the code as it is; return those that do not pass, with what they found."""
    groups: dict[str, list[str]] = {}
    for check in sorted(checks):
        groups.setdefault(source(check), []).append(check)
    together = list(groups.values())
    work = [partial(try_stacked, group) for group in together]
    apart = [
        check for index, outcome, _ in run(work, jobs) if outcome.status != "survived" for check in together[index]
    ]
    alone = [partial(try_killers, [check]) for check in apart]
    return {
        apart[index]: f"{outcome.status} {outcome.by}"
        for index, outcome, _ in run(alone, jobs)
        if outcome.status != "survived"
    }


def _evaluate(mutants: Sequence[Mutant], jobs: int) -> list[Outcome]:
    """Run the mutants, print a row for each in the order of the catalogue, and return what became of them."""
    rows: dict[int, tuple[Outcome, float]] = {}
    for index, mutant in enumerate(mutants):
        reason = mutant.stale()
        if reason is not None:
            rows[index] = Outcome("stale", reason), 0.0
    waiting = [index for index in range(len(mutants)) if index not in rows]
    wide = max((len(mutant.name) for mutant in mutants), default=0)
    print(f"{'family':<16}{'mutant':<{wide + 2}}{'seconds':>7}  killed by")
    printed = 0

    def print_ready() -> None:
        nonlocal printed
        while printed in rows:
            mutant, (outcome, seconds) = mutants[printed], rows[printed]
            by = outcome.by if outcome.status == "killed" else f"{outcome.status.upper()} {outcome.by}".strip()
            print(f"{mutant.family:<16}{mutant.name:<{wide + 2}}{seconds:7.1f}  {by}", flush=True)
            printed += 1

    print_ready()
    for position, outcome, seconds in run([partial(try_mutant, mutants[index]) for index in waiting], jobs):
        rows[waiting[position]] = outcome, seconds
        print_ready()
    return [rows[index][0] for index in range(len(mutants))]


if __name__ == "__main__":
    sys.exit(main())
