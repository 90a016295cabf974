"""`python -m tests.mutants [FAMILY ...]`: plant known mistakes and see that the oracles and tests notice each.

Each killer must pass on the code as it is, and fail on the mutant by a check of its own: a mutant that cannot be
imported, or that only makes its killer trip over an error, proves nothing about the killer.
Exit code: 0 all mutants are killed, 1 one is not, 2 a mistake in the call.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from .catalogue import FOLDER, Mutant, Unusable, load
from .forks import run, warm
from .killing import Outcome, try_killers, try_mutant

Row = tuple[Outcome, float]


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
    started = time.monotonic()
    warm()
    failing = _baselines(mutants, max(1, options.jobs))
    lost = _judge(mutants, failing, max(1, options.jobs))
    killed = len(mutants) - lost
    print(f"{killed} of {len(mutants)} mutants killed, {time.monotonic() - started:.0f} s")
    return 1 if lost or failing or not mutants else 0


def _baselines(mutants: Sequence[Mutant], jobs: int) -> dict[str, str]:
    """Run every killer on the code as it is; return those that do not pass, with what they found."""
    killers = list(dict.fromkeys(killer for mutant in mutants for killer in mutant.killers))
    started, failing = time.monotonic(), {}
    for index, outcome, _ in run([partial(try_killers, [killer]) for killer in killers], jobs):
        if outcome.status != "survived":
            failing[killers[index]] = outcome.by
            print(f"BASELINE fails: {killers[index]}: {outcome.status}, {outcome.by}")
    print(f"{len(killers)} killers run on the code as it is, {time.monotonic() - started:.0f} s")
    return failing


def _judge(mutants: Sequence[Mutant], failing: dict[str, str], jobs: int) -> int:
    """Run the mutants, print a row for each in the order of the catalogue; return how many are not killed."""
    rows: dict[int, Row] = {}
    waiting: list[int] = []
    for index, mutant in enumerate(mutants):
        reason = mutant.stale()
        if reason is not None:
            rows[index] = Outcome("stale", reason), 0.0
        elif not failing.keys().isdisjoint(mutant.killers):
            rows[index] = Outcome("not tried", "a killer fails without it"), 0.0
        else:
            waiting.append(index)
    wide = max((len(mutant.name) for mutant in mutants), default=0)
    print(f"\n{'family':<16}{'mutant':<{wide + 2}}{'killed by':<70}seconds")
    work: list[Callable[[], Outcome]] = [partial(try_mutant, mutants[index]) for index in waiting]
    printed = 0

    def print_ready() -> None:
        nonlocal printed
        while printed in rows:
            mutant, (outcome, seconds) = mutants[printed], rows[printed]
            by = outcome.by if outcome.status == "killed" else f"{outcome.status.upper()} {outcome.by}".strip()
            print(f"{mutant.family:<16}{mutant.name:<{wide + 2}}{by:<70}{seconds:7.1f}", flush=True)
            printed += 1

    print_ready()
    for position, outcome, seconds in run(work, jobs):
        rows[waiting[position]] = outcome, seconds
        print_ready()
    return sum(outcome.status != "killed" for outcome, _ in rows.values())


if __name__ == "__main__":
    sys.exit(main())
