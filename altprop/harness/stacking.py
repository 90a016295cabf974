"""The seeds of a cell that can run as one, run as one; where that cannot be, nothing happens and the loop runs them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from altprop.algorithm import Algorithm
from altprop.harness import runner
from altprop.harness.building import build_parts
from altprop.harness.cell import Cell
from altprop.harness.module import LearnerModule, make_trainer
from altprop.harness.outcome import make_record
from altprop.harness.stacked_runs import StackedRuns
from altprop.harness.training_run import TrainingRun
from altprop.records.status import RunStatus
from altprop.records.store import RunStore
from altprop.resolve import resolve_class
from altprop.stacked_learners import stackable

MAX_STACKED_PARAMETERS = 2e7
"""Numbers in the parameters of all seeds; above, processes side by side are the better way, and memory is short."""


def run_stacked(cell: Cell, runs: Mapping[int, str], cell_key: str, store: RunStore) -> bool:
    """Run several seeds of a cell as one and commit their records.

    Args:
        cell: whose seeds.
        runs: seed -> key of the run; the caller holds their leases.
        cell_key: of the cell.
        store: where the records go.

    Returns:
        Whether that was done, or interrupted; False where these seeds are left for the loop.
    """
    started = datetime.now(UTC)
    if not resolve_class(cell.config["algorithm"]["_target_"], Algorithm).stacks:  # type: ignore[type-abstract]
        return False
    with runner._quiet(cell.settings.threads, min(runs)):
        try:
            training_runs = _training_runs(cell, list(runs))
            if not training_runs:
                return False

            def finish(training_run: TrainingRun) -> None:
                tests: Any = ({}, None)
                artefacts: dict[str, Any] = {}
                if training_run.status in (RunStatus.COMPLETED, RunStatus.REACHED_TARGET):
                    artefacts = training_run.parts.algorithm.artefacts()
                    if cell.role != "trial":
                        tests = training_run.test()
                status, reason = runner._ended(training_run)
                key = runs[training_run.seed]
                record = make_record(
                    cell, training_run.seed, key, cell_key, training_run, status, reason, None, tests, started
                )
                record["measured"]["stacked"] = len(runs)
                store.commit(key, record, training_run.trace, training_run.clock, cell.full_yaml, artefacts)

            group = StackedRuns(training_runs, finish)
            _fit(
                cell,
                group,
                {
                    training_run.seed: store.path(runs[training_run.seed]) / "checkpoint.pt"
                    for training_run in training_runs
                },
            )
            if group.stop_requested:
                for training_run in group.live:
                    training_run.stop_requested = True
                    finish(training_run)
            return group.over or group.stop_requested
        except Exception:
            # Whatever it is, each seed for itself meets it again in the loop, or does not, and says so in its record.
            return False


def _training_runs(cell: Cell, seeds: list[int]) -> list[TrainingRun]:
    """Build the runs of all seeds, or none where the first shows that they cannot be stacked."""
    first = build_parts(cell, seeds[0])
    numbers = sum(p.numel() for p in first.model.parameters()) * len(seeds)
    feed = first.feed
    rows = {feed.batch_size, len(feed.split) - (feed.batches - 1) * feed.batch_size}
    if numbers > MAX_STACKED_PARAMETERS or not stackable(first.algorithm, rows):
        return []
    others = [build_parts(cell, seed, first.data) for seed in seeds[1:]]
    return [TrainingRun(parts, cell.settings, seed) for parts, seed in zip([first, *others], seeds, strict=True)]


def _fit(cell: Cell, group: StackedRuns, checkpoints: Mapping[int, Path]) -> None:
    seconds = float(cell.settings.trainer.get("checkpoint_seconds", 20))
    module = LearnerModule(
        group, [(training_run, checkpoints[training_run.seed]) for training_run in group.training_runs], seconds
    )
    with runner._stoppable(group):
        make_trainer(dict(cell.settings.trainer), None).fit(module)
