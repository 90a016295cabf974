"""`altprop-time [RUNS...]`: time the learners of a finished sweep again, side by side, for claims about time."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from altprop.records.timing import Timing

DESCRIPTION = """Time each learner's step of a finished sweep again: one process, one thread, the learners of a workload
round robin, each rebuilt from its record at its initial state, probes and evaluations off. The times are written beside
the runs, and altprop-report claims nothing about time without them. Let nothing else run meanwhile."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; exit with 0 for written times, 1 if a learner raised, 2 for a mistake, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="altprop-time", description=DESCRIPTION)
    parser.add_argument("runs", nargs="*", default=["runs"], metavar="RUNS", help="folders of records (default: runs)")
    parser.add_argument("--rounds", type=int, default=10, help="counted rounds, 5 or more (default: 10)")
    parser.add_argument("--workload", action="append", metavar="NAME", help="time this one only; may be given again")
    parser.add_argument("--missing", action="store_true", help="leave out workloads that are timed already")
    options = parser.parse_args(argv)
    sys.exit(retime(options.runs, options.rounds, options.workload, options.missing))


def retime(runs: Sequence[str], rounds: int, workloads: Collection[str] | None, missing: bool) -> int:
    """Time and print what was found; see `main`."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a rule in one file beside you is found by its name
    from altprop.errors import AltpropError
    from altprop.harness.timing import time_runs

    try:
        written = time_runs([Path(folder) for folder in runs], rounds, workloads, missing, say=_say)
    except AltpropError as error:
        print(f"altprop-time: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("altprop-time: interrupted; what was written stays, --missing goes on with the others", file=sys.stderr)
        return 130
    for timing in written:
        print(table(timing))
    return 1 if any(one.failed for timing in written for one in timing.learners) else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(timing: Timing) -> str:
    """Return a timing record as plain text: CPU time a step, its spread, and the ratio to the reference."""
    from altprop.records.timing import median_interval, ratios, spread

    reference = next((one for one in timing.learners if one.reference and one.cpu), None)
    width = max(len(one.label) for one in timing.learners)
    against = f"{'ratio to ' + reference.label:>24}" if reference else ""
    lines = [f"{timing.workload}  ({timing.path})", f"{'':{width}}{'CPU a step':>14}{'spread':>9}{against}"]
    for one in timing.learners:
        if not one.cpu:
            lines.append(f"{one.label:{width}}  not timed: {one.reason}")
            continue
        line = f"{one.label:{width}}{statistics.median(one.cpu) * 1e6:11.0f} us{spread(one.cpu):9.1%}"
        if reference:
            found = median_interval(ratios(one.cpu, reference.cpu))
            line += f"{found.estimate:10.2f}{f'[{found.low:.2f}, {found.high:.2f}]':>16}"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
