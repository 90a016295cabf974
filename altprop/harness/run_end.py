"""How a run ended, and its record: status, result, measured, provenance."""

from __future__ import annotations

import errno
import functools
import os
import socket
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from altprop.algorithm import BREAKDOWNS
from altprop.capabilities import evaluated_as
from altprop.data import Panel
from altprop.errors import AltpropError, Refused
from altprop.harness.memory import in_words
from altprop.harness.planning import RunIdentity
from altprop.harness.training_run import TrainingRun
from altprop.records.oracle_checks import code_of
from altprop.records.provenance import collect
from altprop.records.status import RunStatus
from altprop.records.store import RunStore

HIT_CURRENCIES = {"step": "step", "flops": "flops", "samples": "samples", "forward_equivalents": "forward_equivalents"}


def failure_of(
    error: BaseException, memory: int | None = None, training_run: TrainingRun | None = None
) -> tuple[RunStatus, str]:
    """Return the status and the sentence of an error.

    A matrix that cannot be factorised, inverted or decomposed (LinAlgError of torch, numpy or scipy) is how a learner
    breaks down, as an overflow is, and comes again with the same seed. So it ends the run for good: as non_finite where
    a parameter is no finite number any more, else as diverged.

    Args:
        error: what ended the run.
        memory: the limit that it ran under, in bytes.
        training_run: how far it had come.
    """
    text = " ".join(str(error).split())
    if isinstance(error, Refused):
        return RunStatus.REFUSED, text
    if isinstance(error, KeyboardInterrupt):
        return RunStatus.INTERRUPTED, RunStatus.INTERRUPTED.sentence
    if _is_memory(error, text):
        if memory is None:
            return RunStatus.OUT_OF_MEMORY, text or RunStatus.OUT_OF_MEMORY.sentence
        detail = f": {text}" if text else "."
        return RunStatus.OUT_OF_MEMORY, f"The run needed more than memory={in_words(memory)}{detail}"
    if isinstance(error, BREAKDOWNS):
        where = f" at step {training_run.parts.problem.ledger.steps}" if training_run is not None else ""
        finite = training_run is None or all(bool(p.isfinite().all()) for p in training_run.parts.model.parameters())
        status = RunStatus.DIVERGED if finite else RunStatus.NON_FINITE
        return status, f"The learner broke down numerically{where}: {text or 'LinAlgError'}"
    if isinstance(error, SystemExit):
        return RunStatus.FAILED, f"The learner called sys.exit({error.code!r})."
    if isinstance(error, AltpropError):
        return RunStatus.FAILED, text
    return RunStatus.FAILED, f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_memory(error: BaseException, text: str) -> bool:
    """Return whether an error says that memory was short; torch and the system say it with other classes too."""
    return (
        isinstance(error, (MemoryError, torch.OutOfMemoryError))
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and ("DefaultCPUAllocator: can't allocate" in text or "bad_alloc" in text))
    )


Tests = tuple[dict[str, dict[str, float]], float | None]
"""Test set -> metrics of the final state, and the test metric of the best validation state."""


@dataclass(frozen=True)
class RunEnd:
    """How a run ended, and all that its record says of it beside who it was.

    Attributes:
        status: of the run.
        reason: a sentence.
        started: when.
        training_run: what was trained, None where nothing was.
        traceback: of what ended it, None where nothing was raised.
        tests: what the test sets showed.
        artefacts: named tables and arrays of the learner.
        measured: further entries of the block `measured`.
    """

    status: RunStatus
    reason: str
    started: datetime
    training_run: TrainingRun | None = None
    traceback: str | None = None
    tests: Tests = ({}, None)
    artefacts: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)


def end_of(training_run: TrainingRun, started: datetime, measured: Mapping[str, Any] | None = None) -> RunEnd:
    """Return the end of a run that nothing was raised in; a proper one opens the test sets.

    Args:
        training_run: what was trained.
        started: when.
        measured: further entries of the block `measured`.
    """
    status, reason = _ended(training_run)
    tests: Tests = ({}, None)
    artefacts: dict[str, Any] = {}
    # Before the tests, which put the best state back: that may be the first, without any moments or traces.
    held = {"state_bytes": _bytes(training_run.parts.algorithm.state_dict())}
    if status in (RunStatus.COMPLETED, RunStatus.REACHED_TARGET):
        artefacts = training_run.parts.algorithm.artefacts()
        if training_run.tested:
            tests = training_run.test()
    return RunEnd(status, reason, started, training_run, None, tests, artefacts, held | dict(measured or {}))


def _ended(training_run: TrainingRun) -> tuple[RunStatus, str]:
    if training_run.status is None and training_run.stop_requested:
        return RunStatus.INTERRUPTED, RunStatus.INTERRUPTED.sentence
    if training_run.status is None:
        return RunStatus.FAILED, "The training loop ended before the budget was spent."
    return training_run.status, training_run.reason


def commit(run: RunIdentity, end: RunEnd, store: RunStore) -> dict[str, Any]:
    """Write the record of a run and return its content.

    Raises:
        TypeError, ValueError: for a scalar or an artefact that no file can hold.
    """
    trained = end.training_run
    trace, clock = ([], []) if trained is None else (trained.trace, trained.clock)
    return store.commit(run.key, make_record(run, end), trace, clock, run.cell.full_yaml, end.artefacts).data


def commit_without_run(run: RunIdentity, store: RunStore, error: BaseException) -> dict[str, Any]:
    """Commit the record of a run that never began: refused, or with a broken plugin."""
    status, reason = failure_of(error)
    text = None if isinstance(error, (Refused, AltpropError)) else told(error)
    return commit(run, RunEnd(status, reason, datetime.now(UTC), traceback=text), store)


def told(error: BaseException) -> str:
    """Return the traceback of an error, its end where it is long."""
    return "".join(traceback.format_exception(error))[-20_000:]


def make_record(run: RunIdentity, end: RunEnd) -> dict[str, Any]:
    """Return the content of record.json but for what the store fills in."""
    cell, training_run = run.cell, end.training_run
    finished = datetime.now(UTC)
    measured: dict[str, Any] = {
        "started": end.started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "total_seconds": (finished - end.started).total_seconds(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    result: dict[str, Any] = {"status": str(end.status), "metric": None}
    if training_run is not None:
        result |= _result(training_run, end.tests)
        measured |= _measured(training_run)
    measured |= end.measured
    s = cell.settings
    return {
        "key": run.key,
        "cell": run.cell_key,
        "label": cell.label,
        "workload": cell.workload,
        "axes": dict(cell.axes),
        "seed": run.seed,
        "role": cell.role,
        **cell.about,
        "status": str(end.status),
        "reason": end.reason,
        "traceback": end.traceback,
        "rerun": cell.rerun(run.seed),
        "reference": bool(cell.config["algorithm"].get("reference", False)),
        "control": cell.control,
        "config": cell.config,
        "result": result,
        "measured": measured,
        "provenance": {
            **collect(s.device_type, s.precision, s.threads),
            "command": cell.command,
            "sources": {
                "algorithm": _source(str(cell.config["algorithm"].get("_target_")), run.cell_key),
                "data": cell.data,
            },
        },
    }


@functools.lru_cache(maxsize=64)
def _source(target: str, cell_key: str) -> str | None:
    """Return the hash of the algorithm's code, which its oracle check tells too; the key changes wherever it does."""
    try:
        return code_of(target)
    except AltpropError:
        return None


def _stated(panel: Panel) -> dict[str, Any]:
    return {name: value for name, value in asdict(panel).items() if value is not None}


def _result(training_run: TrainingRun, tests: Tests) -> dict[str, Any]:
    parts = training_run.parts
    task, ledger, metric = parts.task, parts.problem.ledger, parts.task.metric
    final, test_best = tests
    guide = [
        row for row in training_run.trace if row["kind"] == "evaluation" and row["split"] in ("validation", "train")
    ]
    validated = [row for row in guide if row["split"] == "validation"]
    sizes = {"train": len(parts.data.train), **{name: len(split) for name, split in parts.data.tests.items()}}
    sizes["validation"] = len(parts.data.validation) if parts.data.validation is not None else 0
    reference = task.reference
    return {
        "metric": metric,
        "higher_is_better": task.higher_is_better,
        **({"metrics": dict(task.metrics)} if task.metrics else {}),  # further ones -> whether more is better
        **({"panels": [_stated(panel) for panel in task.panels]} if task.panels else {}),
        "test": final.get("test", {}).get(metric),
        "test_best": test_best,
        "validation": validated[-1]["metrics"].get(metric) if validated else None,
        "validation_best": training_run.best["value"] if training_run.best else None,
        "test_metrics": final.get("test", {}),
        "tests": final,
        **({"train_metrics": training_run.train_metrics} if training_run.train_metrics else {}),
        "chance": reference.chance,
        "oracle": reference.oracle,
        "baselines": dict(reference.baselines),
        "targets": dict(reference.targets),
        "hits": {name: _hit(training_run, guide, value) for name, value in reference.targets.items()},
        "ledger": training_run.counts(),
        "flops_by_kind": {kind: training_run._shared(flops, kind) for kind, flops in ledger.flops_by_kind().items()},
        "flops_residual": ledger.residual,
        "uncounted_ops": dict(sorted(ledger.uncounted.items())),
        "budget": {
            "currency": training_run.budget.currency,
            "amount": training_run.budget.amount,
            "spent": _spent(training_run),
        },
        "sizes": sizes,
        **({"notes": list(task.notes())} if task.notes() else {}),
        "source": parts.data.source,
        "parameters": sum(p.numel() for p in parts.model.parameters()),
        "own_model": training_run.own_model,
        "predictor": str(evaluated_as(parts.algorithm.kind, task.kinds)),
        "last_finite_step": training_run.last_finite_step,
        "identity": parts.identity,
        **_matrices(training_run),
    }


def _matrices(training_run: TrainingRun) -> dict[str, Any]:
    """Return the leading metric on every set after every context of a stream: on tests, and on validation rows."""
    found = {"matrix": training_run.matrix("test"), "validation_matrix": training_run.matrix("validation")}
    return {name: matrix for name, matrix in found.items() if matrix}


def _spent(training_run: TrainingRun) -> float | None:
    """Return what was spent, None for seconds, which are no deterministic result."""
    return None if training_run.budget.currency == "seconds" else training_run.spent


def _hit(training_run: TrainingRun, guide: list[dict[str, Any]], target: float) -> dict[str, list[float]] | None:
    """Return currency -> [previous evaluation, first evaluation that meets the target], or None."""
    metric = training_run.parts.task.metric
    for place, row in enumerate(guide):
        value = row["metrics"].get(metric)
        if value is not None and (value == target or training_run.better(value, target)):
            before = guide[place - 1] if place else row
            return {name: [before[column], row[column]] for name, column in HIT_CURRENCIES.items()}
    return None


def _measured(training_run: TrainingRun) -> dict[str, Any]:
    ledger = training_run.parts.problem.ledger
    return {
        "cpu_seconds": ledger.learner_seconds,
        "wall_seconds": training_run.wall_seconds,
        "probe_seconds": training_run.probe_seconds,
        "evaluation_seconds": training_run.evaluation_seconds,
        "live_bytes": ledger.live_bytes,
        "saved_bytes": ledger.saved_bytes,
        "state_bytes": _bytes(training_run.parts.algorithm.state_dict()),
    }


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(_bytes(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_bytes(item) for item in value)
    return 0
