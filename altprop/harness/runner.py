"""One seed of a cell, from nothing or from its checkpoint to a committed record."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import traceback
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import torch

from altprop.errors import AltpropError, Refused
from altprop.harness.building import build_parts
from altprop.harness.cell import Cell
from altprop.harness.loggers import open_logger
from altprop.harness.memory import limited
from altprop.harness.module import LearnerModule, make_trainer
from altprop.harness.outcome import failure_of, make_record
from altprop.harness.stacked_runs import StackedRuns
from altprop.harness.training_run import TrainingRun
from altprop.randomness import derive_seed
from altprop.records.status import RunStatus
from altprop.records.store import RunStore

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


def run_seed(cell: Cell, seed: int, key: str, cell_key: str, store: RunStore) -> dict[str, Any]:
    """Run one seed and commit its record, however it ends.

    Args:
        cell, seed: what to run.
        key, cell_key: names of the run and its cell.
        store: where the record goes; the caller holds the lease.

    Returns:
        The committed record.
    """
    started = datetime.now(UTC)
    training_run: TrainingRun | None = None
    artefacts: dict[str, Any] = {}
    error: BaseException | None = None
    text: str | None = None
    tests: tuple[dict[str, dict[str, float]], float | None] = ({}, None)
    with _quiet(cell.settings.threads, seed):
        try:
            with limited(cell.settings.memory):
                training_run = TrainingRun(build_parts(cell, seed), cell.settings, seed)
                _fit(cell, training_run, key, store)
                if training_run.status in (RunStatus.COMPLETED, RunStatus.REACHED_TARGET):
                    artefacts = training_run.parts.algorithm.artefacts()
                    if cell.role != "trial":
                        tests = training_run.test()
        except (Exception, SystemExit) as caught:
            # Lightning answers SIGTERM with a SystemExit of its own, after our handler asked the run to stop.
            if training_run is None or not (training_run.stop_requested and isinstance(caught, SystemExit)):
                error, text = caught, _traceback(caught)
        except KeyboardInterrupt as caught:
            error, text = caught, None
        if error is not None and training_run is not None:
            training_run.status = None
        status, reason = (
            failure_of(error, cell.settings.memory, training_run) if error is not None else _ended(training_run)
        )
        record = make_record(cell, seed, key, cell_key, training_run, status, reason, text, tests, started)
        trace, clock = (training_run.trace, training_run.clock) if training_run is not None else ([], [])
        if cell.settings.rank > 0:
            return record  # one process speaks for all
        try:
            return store.commit(key, record, trace, clock, cell.full_yaml, artefacts).data
        except (TypeError, ValueError) as caught:  # A scalar or an artefact of the plugin that no file can hold.
            return commit_without_run(cell, seed, key, cell_key, store, caught)


def commit_without_run(
    cell: Cell, seed: int, key: str, cell_key: str, store: RunStore, error: BaseException, text: str | None = None
) -> dict[str, Any]:
    """Commit the record of a run that never began: refused, or with a broken plugin."""
    status, reason = failure_of(error)
    if text is None and not isinstance(error, (Refused, AltpropError)):
        text = _traceback(error)
    record = make_record(cell, seed, key, cell_key, None, status, reason, text, ({}, None), datetime.now(UTC))
    return store.commit(key, record, [], [], cell.full_yaml, {}).data


def _ended(training_run: TrainingRun | None) -> tuple[RunStatus, str]:
    assert training_run is not None
    if training_run.status is None and training_run.stop_requested:
        return RunStatus.INTERRUPTED, RunStatus.INTERRUPTED.sentence
    if training_run.status is None:
        return RunStatus.FAILED, "The training loop ended before the budget was spent."
    return training_run.status, training_run.reason


def _fit(cell: Cell, training_run: TrainingRun, key: str, store: RunStore) -> None:
    folder = store.path(key)
    checkpoint = folder / "checkpoint.pt"
    module = LearnerModule(
        training_run, [(training_run, checkpoint)], float(cell.settings.trainer.get("checkpoint_seconds", 20))
    )
    resume = str(checkpoint) if checkpoint.exists() else None
    about = {
        **cell.config,
        "learner": cell.label,
        "workload": cell.workload,
        "role": cell.role,
        "seed": training_run.seed,
    }
    group = f"{cell.label} on {cell.workload}"
    with open_logger(cell.settings.logger, folder, group, training_run.seed, about, cell.settings.rank) as logger:
        trainer = make_trainer(dict(cell.settings.trainer), logger)
        with _stoppable(training_run):
            trainer.fit(module, ckpt_path=resume, weights_only=True)


@contextlib.contextmanager
def _quiet(threads: int, seed: int) -> Iterator[None]:
    """One torch thread; the global generators are seeded for plugins that use them, and put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(derive_seed(seed, "global"))
        try:
            yield
        finally:
            torch.set_num_threads(before)
            torch.use_deterministic_algorithms(deterministic)


@contextlib.contextmanager
def _stoppable(training_run: TrainingRun | StackedRuns) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the run after the block at hand, so that it can be resumed; a second one is hard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        if training_run.stop_requested:
            raise KeyboardInterrupt
        training_run.stop_requested = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-20_000:]
