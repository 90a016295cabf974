"""Runs that can go as one, run as one: seeds of a cell, or trials of a tuning that differ in numbers alone.

Where that cannot be, nothing happens and the loop runs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch

from altprop.algorithm import Algorithm
from altprop.errors import AltpropError
from altprop.harness.building import build_parts
from altprop.harness.module import CHECKPOINT_KEY, LearnerModule, make_trainer
from altprop.harness.planning import RunIdentity
from altprop.harness.run_end import commit, end_of
from altprop.harness.stacked_runs import StackedRuns
from altprop.harness.surroundings import quiet, stoppable
from altprop.harness.training_run import TrainingRun
from altprop.records.store import RunStore
from altprop.resolve import resolve_class
from altprop.vectorized import Unstackable

MAX_STACKED_PARAMETERS = 2e7
"""Numbers in the parameters of all seeds; above, processes side by side are the better way, and memory is short."""


@dataclass(frozen=True)
class StackedEnd:
    """What came of running several runs as one.

    Attributes:
        keys: of those that got a record; the others are left for the loop.
        told: what the loop's records say of it: `not_stacked`, what cannot be done for many at once; or
            `stacking_problem`, what was raised and was not meant to be.
    """

    keys: frozenset[str] = frozenset()
    told: Mapping[str, str] = field(default_factory=dict)


def run_stacked(runs: Sequence[RunIdentity], store: RunStore) -> StackedEnd:
    """Run several runs as one and commit their records.

    Args:
        runs: of one cell, or of cells that differ in numbers of the learner; the caller holds their leases.
        store: where the records go.

    Returns:
        Which of them got a record, interrupted ones too. Where something cannot be stacked, or an error is raised, the
        rest is left for the loop, and what it was is told: in the loop each seed meets it again by itself, or it is a
        fault of stacking.
    """
    cell = runs[0].cell
    why = resolve_class(cell.config["algorithm"]["_target_"], Algorithm).not_stacked  # type: ignore[type-abstract]
    if why:
        return StackedEnd(told={"not_stacked": why})
    recorded: set[str] = set()
    told: dict[str, str] = {}
    try:
        with quiet(cell.settings.threads, min(run.seed for run in runs)):
            _run(runs, store, recorded)
    except AltpropError:
        pass
    except Unstackable as error:
        told = {"not_stacked": str(error)}
    except (Exception, SystemExit) as error:
        told = {"stacking_problem": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return StackedEnd(frozenset(recorded), told)


def _run(runs: Sequence[RunIdentity], store: RunStore, recorded: set[str]) -> None:
    """Run them, and add the key of each to `recorded` as soon as it has its record."""
    started = datetime.now(UTC)
    training_runs = _training_runs(runs)
    if not training_runs:
        return
    checkpoints = [(one, store.path(run.key) / "checkpoint.pt") for one, run in zip(training_runs, runs, strict=True)]
    _resume(checkpoints)
    identity = {id(one): run for one, run in zip(training_runs, runs, strict=True)}

    def finish(training_run: TrainingRun) -> None:
        end = end_of(training_run, started, {"stacked": len(runs)})
        commit(identity[id(training_run)], end, store)
        recorded.add(identity[id(training_run)].key)

    group = StackedRuns(training_runs, finish)
    trainer = runs[0].cell.settings.trainer
    module = LearnerModule(group, checkpoints, float(trainer.get("checkpoint_seconds", 20)))
    with stoppable(group):
        make_trainer(dict(trainer), None).fit(module)
    if group.stop_requested:
        for training_run in group.live:
            training_run.stop_requested = True
            finish(training_run)


def _resume(checkpoints: Sequence[tuple[TrainingRun, Path]]) -> None:
    """Put runs that were interrupted together back to where they stood, so that they go on as one to the same bits.

    Raises:
        Unstackable: where they stand at different steps: each then goes on by itself.
    """
    for training_run, path in checkpoints:
        if path.exists():
            training_run.load_state_dict(torch.load(path, weights_only=True)[CHECKPOINT_KEY])
    if len({training_run.position for training_run, _ in checkpoints}) > 1:
        raise Unstackable("they were interrupted at different steps")


def _training_runs(runs: Sequence[RunIdentity]) -> list[TrainingRun]:
    """Build all training runs, or none where the first shows that they cannot be stacked."""
    cell = runs[0].cell
    first = build_parts(cell, runs[0].seed)
    numbers = sum(p.numel() for p in first.model.parameters()) * len(runs)
    if numbers > MAX_STACKED_PARAMETERS or first.feed.contexts:
        return []
    parts = [first, *(build_parts(run.cell, run.seed, first.data) for run in runs[1:])]
    tested = cell.role != "trial"
    return [TrainingRun(one, run.cell.settings, run.seed, tested) for one, run in zip(parts, runs, strict=True)]
