"""Is each learner what it says? Its oracles are run here, and what they measure is kept beside the runs."""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altprop.errors import AltpropError
from altprop.oracle import Oracle
from altprop.records.documents import read_document
from altprop.records.key import KERNEL
from altprop.records.oracle_checks import (
    OracleCheck,
    OracleResult,
    code_of,
    file_name,
    source_of,
    write_oracle_check,
)
from altprop.records.provenance import collect, cpu_model, fingerprint, version
from altprop.records.record import UnreadableRecordError
from altprop.records.status import RunStatus
from altprop.records.store import RunStore

if TYPE_CHECKING:
    from altprop.algorithm import Algorithm

SLOW = 1.0
"""Seconds above which a command says how long the oracle checks took."""
LIMIT = 120.0
"""Seconds after which an oracle that does not end is left."""
PRECISION = "64"
"""The precision under which oracle checks stand in the fingerprint: oracles measure in float64."""


@dataclass
class Verification:
    """What the oracle checks of a command came to.

    Attributes:
        oracle checks: one an algorithm, measured now or found.
        skipped: a sentence for each algorithm that could not be asked.
        seconds: that it all took.
    """

    oracle_checks: list[OracleCheck] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def complaints(self) -> list[str]:
        """Return a sentence for everything that was not asked or does not hold."""
        failing = [
            f"{oracle_check.algorithm} fails its oracle check: {text}"
            for oracle_check in self.oracle_checks
            for text in oracle_check.failing
        ]
        return [*self.skipped, *failing]

    def count(self) -> str:
        """Return how many hold, in words."""
        held = sum(oracle.passed for oracle_check in self.oracle_checks for oracle in oracle_check.oracles)
        return f"{held} of {sum(len(oracle_check.oracles) for oracle_check in self.oracle_checks)} oracle checks hold"


def verify_runs(runs_dir: str | Path, keys: Iterable[str] | None = None) -> Verification:
    """Make the oracle checks of all algorithms that have a result among some runs.

    An algorithm none of whose runs came to a result is left out: it was refused, or its code does not work.

    Args:
        runs_dir: where the runs are and the oracle checks go.
        keys: of the runs; all by default.
    """
    started = time.perf_counter()
    store = RunStore(runs_dir)
    found: set[tuple[str, str]] = set()
    for key in store.keys() if keys is None else keys:
        record = store.settled(key)
        if record is not None and record.status is not RunStatus.REFUSED:
            algorithm = record.data["config"].get("algorithm")
            target = algorithm.get("_target_") if isinstance(algorithm, dict) else None
            if isinstance(target, str):
                found.add((str(record.data["axes"].get("algorithm")), target))
    verification = Verification()
    for name, target in sorted(found):
        try:
            verification.oracle_checks.append(verify(name, target, runs_dir))
        except AltpropError as error:
            verification.skipped.append(f"{name} is not verified: {error}")
    verification.seconds = time.perf_counter() - started
    return verification


def verify(name: str, target: str, runs_dir: str | Path, again: bool = False) -> OracleCheck:
    """Return the oracle check of an algorithm, measured now unless its code was measured with these versions before.

    Args:
        name: of the algorithm, as on the axis of a run.
        target: import path of its class.
        runs_dir: where the oracle check is looked for and goes.
        again: measure in any case.

    Raises:
        AltpropError: where the class cannot be imported or the oracle check cannot be written.
    """
    source = source_of(target)
    known = (
        None if again else _known(Path(runs_dir) / OracleCheck.folder / file_name(name, source), name, target, source)
    )
    if known is not None:
        return known
    oracles, problem = measure(_imported(target))
    provenance = collect("cpu", PRECISION, threads=1)
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    return write_oracle_check(runs_dir, name, target, source, code_of(target), oracles, provenance, finished, problem)


def measure(kind: type[Algorithm]) -> tuple[list[OracleResult], str]:
    """Run all oracles of a class, on one thread, from the same state of the global generators each time.

    Returns:
        What each measured; and why the class could not name them, empty where it could.
    """
    with _quiet():
        try:
            oracles = list(kind.oracles())
            wrong = next((one for one in oracles if not isinstance(one, Oracle)), None)
            if wrong is not None:
                raise TypeError(f"oracles() must return altprop.Oracle values; got a {type(wrong).__name__}")
        except (Exception, SystemExit) as error:
            return [], _line(error, kind)
        return [_measured(oracle, kind) for oracle in oracles], ""


def _measured(oracle: Oracle, kind: type[Algorithm]) -> OracleResult:
    """Run one oracle; whatever it raises is its result."""
    started = time.perf_counter()
    error: float | None = None
    reason = ""
    try:
        with _drawing(), _limited(LIMIT):
            error = float(oracle.measure())
    except (Exception, SystemExit) as raised:
        reason = _line(raised, kind)
    tolerance = None if error is None else float(oracle.tolerance)
    return OracleResult(oracle.name, error, tolerance, reason, time.perf_counter() - started, oracle.differs)


def _line(error: BaseException, kind: type[Algorithm]) -> str:
    """Return an exception in one line, with the last place in the learner's own module that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = getattr(sys.modules.get(kind.__module__), "__file__", None)
    places = [frame for frame in frames if frame.filename == own] or list(frames)[1:]
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{said} ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else said


def _imported(target: str) -> type[Algorithm]:
    """Import a class of the contract; whatever its module does, an AltpropError is all that comes of it."""
    from altprop.algorithm import Algorithm
    from altprop.resolve import resolve_class

    try:
        return resolve_class(target, Algorithm)  # type: ignore[type-abstract]
    except SystemExit as error:
        raise AltpropError(f"importing {target} called sys.exit({error.code!r})") from error


def _known(path: Path, name: str, target: str, source: str) -> OracleCheck | None:
    """Return the oracle check in a file if it is of this code, measured with these versions on this kind of machine."""
    try:
        oracle_check = read_document(OracleCheck, path)
    except UnreadableRecordError:
        return None  # there is none, or it is replaced
    same = (oracle_check.algorithm, oracle_check.target, oracle_check.source) == (name, target, source)
    return oracle_check if same and oracle_check.settled and _measured_here(oracle_check.data["provenance"]) else None


def _measured_here(known: Mapping[str, Any]) -> bool:
    """Return whether a measurement has this machine's fingerprint.

    Only torch can say which vector instructions it uses, and a command that finds all its runs need not import it: they
    follow from versions and processor unless a variable of the environment overrules them.
    """
    here: dict[str, Any] = {"python": platform.python_version(), "torch": version("torch"), "numpy": version("numpy")}
    here |= {"cpu": cpu_model(), "kernel": KERNEL}
    if any(known.get(field_) != value for field_, value in here.items()):
        return False
    if "torch" not in sys.modules and "ATEN_CPU_CAPABILITY" not in os.environ:
        return True
    return bool(known.get("fingerprint") == fingerprint("cpu", PRECISION, threads=1))


@contextmanager
def _quiet() -> Iterator[None]:
    """Run on one torch thread without warnings; put torch's threads and switches back, whatever an oracle did."""
    import torch

    threads, dtype, records = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(records)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what goes on for too long; only the main thread of a POSIX system has an alarm to do it."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError(f"it did not end within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _drawing() -> Iterator[None]:
    """Let what draws from a global generator, as DEAP does, draw the same each time; the generators are put back."""
    import torch

    from altprop.randomness import Random, derive_seed

    seed = derive_seed(0, "oracle_checks")
    with torch.random.fork_rng(devices=[]), Random(seed).as_global():
        torch.manual_seed(seed)
        yield
