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
from altprop.harness.course import Course
from altprop.harness.lockstep import Lockstep
from altprop.harness.module import LearnerModule, make_trainer
from altprop.harness.outcome import make_record
from altprop.records.status import RunStatus
from altprop.records.store import RunStore
from altprop.replicas import stackable
from altprop.resolve import resolve_class

LARGEST = 2e7
"""Numbers in the parameters of all seeds; above, processes side by side are the better way, and memory is short."""


def run_together(cell: Cell, runs: Mapping[int, str], cell_key: str, store: RunStore) -> bool:
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
            courses = _courses(cell, list(runs))
            if not courses:
                return False

            def finish(course: Course) -> None:
                tests: Any = ({}, None)
                artefacts: dict[str, Any] = {}
                if course.status in (RunStatus.COMPLETED, RunStatus.REACHED_TARGET):
                    artefacts = course.parts.algorithm.artefacts()
                    if cell.role != "trial":
                        tests = course.test()
                status, reason = runner._ended(course)
                key = runs[course.seed]
                record = make_record(cell, course.seed, key, cell_key, course, status, reason, None, tests, started)
                record["measured"]["together"] = len(runs)
                store.commit(key, record, course.trace, course.clock, cell.full_yaml, artefacts)

            group = Lockstep(courses, finish)
            _fit(cell, group, {course.seed: store.path(runs[course.seed]) / "checkpoint.pt" for course in courses})
            if group.stop_requested:
                for course in group.live:
                    course.stop_requested = True
                    finish(course)
            return group.over or group.stop_requested
        except Exception:
            # Whatever it is, each seed for itself meets it again in the loop, or does not, and says so in its record.
            return False


def _courses(cell: Cell, seeds: list[int]) -> list[Course]:
    """Build the courses of all seeds, or none where the first shows that they cannot be stacked."""
    first = build_parts(cell, seeds[0])
    numbers = sum(p.numel() for p in first.model.parameters()) * len(seeds)
    feed = first.feed
    rows = {feed.batch_size, len(feed.split) - (feed.batches - 1) * feed.batch_size}
    if numbers > LARGEST or not stackable(first.algorithm, rows):
        return []
    others = [build_parts(cell, seed, first.data) for seed in seeds[1:]]
    return [Course(parts, cell.settings, seed) for parts, seed in zip([first, *others], seeds, strict=True)]


def _fit(cell: Cell, group: Lockstep, checkpoints: Mapping[int, Path]) -> None:
    seconds = float(cell.settings.trainer.get("checkpoint_seconds", 20))
    module = LearnerModule(group, [(course, checkpoints[course.seed]) for course in group.courses], seconds)
    with runner._stoppable(group):
        make_trainer(dict(cell.settings.trainer), None).fit(module)
