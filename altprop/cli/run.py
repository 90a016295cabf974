"""`altprop`: the Hydra application. One cell, or with -m a sweep of cells, and the report at the end."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from altprop.harness.sweep import SweepLog

USAGE = """altprop: identical tasks under interchangeable learning algorithms

usage: altprop [OVERRIDE...]            one cell, e.g. altprop task=digits algorithm=dfa optimizer=adam seeds=3
       altprop -m [OVERRIDE...]         a sweep,  e.g. altprop -m algorithm=backprop,dfa task=digits,mnist1d seeds=3
       altprop -m +experiment=tour      the tour: a first comparison, with its report

axes:    algorithm=  optimizer=  dropout=  task=  model=        altprop-list shows what there is
run:     seeds=N|[..]  tune=TRIALS  tune_seeds=N  stack_seeds=false  budget.currency=  budget.amount=  probes=off
         runs_dir=  reference=LEARNER  quick=true  isolate=true  timeout=SECONDS  memory=4GB
where:   trainer=cpu|gpu|ddp  logger=none|csv|tensorboard|mlflow|wandb  +debug=fast|overfit|profile
         hydra/launcher=joblib runs cells side by side; submitit_slurm and ray (extras slurm, ray) on a cluster
more:    --config-dir DIR adds a folder of yours, --cfg job shows the configuration, --hydra-help Hydra's options
other:   altprop-list  altprop-report  altprop-time  altprop-reproduce  altprop-check

exit codes: 0 all cells have their result, 1 a cell failed or timed out, 2 a mistake in the command, or every cell was
            refused, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script and exit with its code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any(a in ("-h", "--help") for a in arguments):
        print(USAGE, end="")
        sys.exit(0)
    if any(a == "--version" for a in arguments):
        from altprop.version import __version__

        print(f"altprop {__version__}")
        sys.exit(0)
    sys.exit(run(arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the application and return its exit code: 0, 1 (a cell failed), 2 (a mistake), 130 (interrupted)."""
    from altprop.harness.sweep import SCRATCH_VARIABLE, SWEEP_VARIABLE, SweepLog

    with contextlib.ExitStack() as leftovers:
        folder = leftovers.enter_context(tempfile.TemporaryDirectory(prefix="altprop-"))
        log = SweepLog(Path(folder) / "cells.jsonl")
        log.write({"kind": "command", "text": shlex.join(["altprop", *arguments])})
        os.environ[SWEEP_VARIABLE] = str(log.path)
        os.environ[SCRATCH_VARIABLE] = folder
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # a rule in one file beside you is found by its name
        started = time.perf_counter()
        # joblib gives a worker that has grown a fresh process; one that died is an error, and told as such.
        leftovers.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
        before = _terminate_as_interrupt()
        try:
            code = _run_cells(arguments, log)
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)
            log = SweepLog.open() or log
            if log.path.parent != Path(folder):  # it was moved to where workers on other machines find it
                leftovers.callback(shutil.rmtree, log.path.parent, ignore_errors=True)
            os.environ.pop(SWEEP_VARIABLE, None)
            os.environ.pop(SCRATCH_VARIABLE, None)
            _end_workers()
        return _conclude(log, code, time.perf_counter() - started)


def _end_workers() -> None:
    """End the processes that joblib keeps for the next call: they would report to this command's log for ever."""
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    executor = getattr(loky, "_executor", None)
    if executor is not None:
        executor.shutdown()


def _run_cells(arguments: Sequence[str], log: SweepLog) -> int:
    """Hand the command to Hydra, and return the exit code of what was raised, 0 where nothing was."""
    from altprop.cli.application import start
    from altprop.errors import AltpropError
    from altprop.harness.progress import Progress
    from altprop.harness.sweep import SweepLog, death_of_worker

    try:
        with Progress():
            start(list(arguments))
    except AltpropError as error:
        print(f"altprop: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("altprop: interrupted; the same command goes on from where it stopped", file=sys.stderr)
        return 130
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 2
    except Exception as error:
        sentence = death_of_worker(error, SweepLog.open() or log)
        if sentence is None:
            raise
        print(f"altprop: {sentence}", file=sys.stderr)
        return 1
    return 0


def _conclude(log: SweepLog, code: int, seconds: float) -> int:
    """Tell the mistakes of a command's cells and what became of them, build the report, and return the exit code.

    Args:
        log: of the command.
        code: of what its cells raised.
        seconds: that they took.
    """
    from altprop.harness.sweep import FAILURES, SWEEP_VARIABLE

    outcomes = log.outcomes()
    mistakes = list(dict.fromkeys(row["text"] for row in log.rows() if row["kind"] == "mistake"))
    for text in mistakes:
        print(f"altprop: {text}", file=sys.stderr)
        code = 2
    if code == 0 and log.silent() > 0:
        print(
            f"altprop: {log.silent()} cells did not report; are {SWEEP_VARIABLE} and the folder of records known "
            "to the workers? The same command runs what has no record yet",
            file=sys.stderr,
        )
        code = 1
    if outcomes:
        code = code or (1 if any(o.status in FAILURES and o.role != "trial" for o in outcomes) else 0)
        if code in (0, 1) or (mistakes and any(o.key for o in outcomes)):
            try:
                _finish(log, seconds)
            except KeyboardInterrupt:
                print("altprop: interrupted; the runs are safe, the same command makes the report", file=sys.stderr)
                return 130
    if code == 0 and outcomes and all(outcome.status == "refused" for outcome in outcomes):
        print("altprop: nothing ran, every cell was refused; the lines above say why", file=sys.stderr)
        return 2
    return code


def _terminate_as_interrupt() -> Any:
    """Let SIGTERM end a command as Ctrl-C does; return the handler that stood there, None outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    return signal.signal(signal.SIGTERM, interrupt)


def _finish(log: Any, seconds: float) -> None:
    """Print the summary of a command, verify its algorithms and build its report."""
    outcomes = log.outcomes()
    settings: dict[str, Any] = next((row["config"] for row in log.rows() if row["kind"] == "start"), {})
    runs = Path(str(settings.get("runs_dir") or "runs"))
    print(f"{counted(outcomes)}, in {seconds:.1f} s; records in {runs}")
    for note in dict.fromkeys(f"{o.workload}: {note}" for o in outcomes for note in o.notes):
        print(f"note: {note}")
    if settings.get("report", True) is False:
        return
    keys = [o.key for o in outcomes if o.key]
    verify(runs, keys)
    _report(runs, keys, settings)


def _report(runs: Path, keys: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Build the page of a command's runs, unless the one that stands there is the same."""
    from altprop.errors import AltpropError
    from altprop.report.standing import place_for, present, standing

    if settings.get("claims"):
        keep_claims(runs, settings["claims"])
    out = Path(str(settings.get("report_dir") or place_for(runs, keys)))
    title, reference = str(settings.get("title") or "altprop report"), settings.get("reference")
    options: dict[str, Any] = {"title": title, "reference": None if reference is None else str(reference)}
    now = present(runs, keys, options)
    larger = "" if out.name != "report-last" else f"; the larger page {runs / 'report' / 'report.html'} stays"
    if now == standing(out):
        print(f"report: {out / 'report.html'}, as it was{larger}")
        return
    from altprop.report.build import build

    try:
        page = build([runs], out, keys=keys, **options)
        now.write(out)
        print(f"report: {page}{larger}")
    except AltpropError as error:
        print(f"altprop: the runs are safe, but no report was built: {error}", file=sys.stderr)


def keep_claims(runs: Path, claims: Sequence[Mapping[str, Any]]) -> None:
    """Put the claims that an experiment tests beside its runs, unless they are there."""
    from datetime import UTC, datetime

    from altprop.records.claims import load_claims, write_claims

    if [one.data["claims"] for one in load_claims(runs)[0]] != [list(claims)]:
        write_claims(runs, claims, datetime.now(UTC).isoformat(timespec="seconds"))


def counted(outcomes: Sequence[Any]) -> str:
    """Return "30 runs, 21 executed, 9 refused": a run that was refused is none that was executed."""
    executed = sum(o.executed and o.status != "refused" for o in outcomes)
    refused = sum(o.status == "refused" for o in outcomes)
    runs = f"{len(outcomes)} run{'' if len(outcomes) == 1 else 's'}"
    return f"{runs}, {executed} executed" + (f", {refused} refused" if refused else "")


def verify(runs: Path, keys: Sequence[str] | None = None) -> None:
    """Measure the oracles of all algorithms among some runs, where they were not measured yet, and say what fails."""
    from altprop.harness.verification import SLOW, verify_runs

    verification = verify_runs(runs, keys)
    for sentence in verification.complaints():
        print(f"altprop: {sentence}", file=sys.stderr)
    if verification.seconds > SLOW:
        print(f"{verification.count()}; asking took {verification.seconds:.1f} s")


if __name__ == "__main__":
    main()
