"""One seed of a cell, from nothing or from its checkpoint to a committed record."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from altprop.harness.building import build_parts
from altprop.harness.loggers import open_logger
from altprop.harness.memory import limited
from altprop.harness.module import LearnerModule, make_trainer
from altprop.harness.planning import RunIdentity
from altprop.harness.run_end import RunEnd, commit, commit_without_run, end_of, failure_of, make_record, told
from altprop.harness.surroundings import quiet, stoppable
from altprop.harness.training_run import TrainingRun
from altprop.records.store import RunStore


def run_seed(run: RunIdentity, store: RunStore, measured: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Run one seed and commit its record, however it ends.

    Args:
        run: which.
        store: where the record goes; the caller holds the lease.
        measured: further entries of the record's block of that name.

    Returns:
        The committed record.
    """
    cell = run.cell
    with quiet(cell.settings.threads, run.seed):
        end = _train(run, store, dict(measured or {}))
        if cell.settings.rank > 0:
            return make_record(run, end)  # one process speaks for all
        try:
            return commit(run, end, store)
        except (TypeError, ValueError) as error:  # A scalar or an artefact of the plugin that no file can hold.
            return commit_without_run(run, store, error)


def _train(run: RunIdentity, store: RunStore, measured: Mapping[str, Any]) -> RunEnd:
    """Train, and return how that ended; whatever is raised is an end."""
    cell, started = run.cell, datetime.now(UTC)
    training_run: TrainingRun | None = None
    error: BaseException
    try:
        with limited(cell.settings.memory):
            training_run = TrainingRun(build_parts(cell, run.seed), cell.settings, run.seed, cell.role != "trial")
            _fit(run, training_run, store)
            return end_of(training_run, started, measured)
    except (Exception, SystemExit) as caught:
        error, text = caught, told(caught)
    except KeyboardInterrupt as caught:
        error, text = caught, None
    if training_run is not None:
        training_run.status = None
    status, reason = failure_of(error, cell.settings.memory, training_run)
    return RunEnd(status, reason, started, training_run, text, measured=measured)


def _fit(run: RunIdentity, training_run: TrainingRun, store: RunStore) -> None:
    cell, folder = run.cell, store.path(run.key)
    checkpoint = folder / "checkpoint.pt"
    seconds = float(cell.settings.trainer.get("checkpoint_seconds", 20))
    module = LearnerModule(training_run, [(training_run, checkpoint)], seconds)
    resume = str(checkpoint) if checkpoint.exists() else None
    names = {"learner": cell.label, "workload": cell.workload, "role": cell.role, "seed": run.seed}
    group = f"{cell.label} on {cell.workload}"
    settings = cell.settings
    with open_logger(settings.logger, folder, group, run.seed, {**cell.config, **names}, settings.rank) as logger:
        trainer = make_trainer(dict(settings.trainer), logger)
        with stoppable(training_run):
            trainer.fit(module, ckpt_path=resume, weights_only=True)
