"""Running the seeds of a cell that have no final record: stacked where they can be, else one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from altprop.harness.cell import Cell
from altprop.harness.planning import Outcome, Plan, RunIdentity, outcome_of, plan, running_elsewhere
from altprop.records.status import RunStatus
from altprop.records.store import RunStore

if TYPE_CHECKING:
    from altprop.harness.stacking import StackedEnd

MIN_STACKED_SEEDS = 4
"""Seeds from which on running them as one pays."""


def run_seeds(cell: Cell) -> list[Outcome]:
    """Run the seeds of a cell that have no final record; the only place where seeds are looped over.

    Raises:
        KeyboardInterrupt: after the run at hand was saved so that it can be resumed.
        AltpropError: where no record can be written at all.
    """
    planned = plan(cell)
    store = RunStore(cell.settings.runs_dir)
    stacked = None if planned.failure is not None else _stacked(planned.runs, store)
    outcomes = []
    for run in planned.runs:
        outcome = _recorded(run, store, run.key in stacked.keys) if stacked else _recorded(run, store)
        outcome = outcome or _run(run, planned, store, stacked.told if stacked else {})
        outcomes.append(outcome)
        if outcome.status == RunStatus.INTERRUPTED:
            raise KeyboardInterrupt
    return outcomes


def _recorded(run: RunIdentity, store: RunStore, executed: bool = False) -> Outcome | None:
    """Return the outcome of a run that has a final record, or None."""
    settled = store.settled(run.key)
    return None if settled is None else outcome_of(run, settled.data, executed)


def _run(run: RunIdentity, planned: Plan, store: RunStore, stacking: Mapping[str, str]) -> Outcome:
    """Claim a run and run it, unless another worker has it or has just ended it."""
    # Seconds of imports, before the claim; what is refused needs no Lightning.
    if planned.failure is None:
        from altprop.harness import runner
    else:
        from altprop.harness import run_end

    lease = store.claim(run.key)
    if lease is None:
        return running_elsewhere(run)
    with lease:
        outcome = _recorded(run, store)
        if outcome is not None:
            return outcome
        settings = run.cell.settings
        data: dict[str, Any]
        if planned.failure is not None:
            data = run_end.commit_without_run(run, store, planned.failure)
        elif settings.isolate or settings.ranks > 1:
            from altprop.harness.isolation import run_isolated

            data = run_isolated(run, store)
        else:
            data = runner.run_seed(run, store, stacking)
        return outcome_of(run, data, executed=True)


def run_at_once(cells: Sequence[Cell]) -> frozenset[str]:
    """Run all seeds of some cells as one, where the cells differ in numbers of the learner alone.

    Returns:
        The keys of the runs that got a record; the others, and all where they cannot be stacked, are left to
        `run_seeds`.

    Raises:
        KeyboardInterrupt: after they were saved so that they can be resumed.
    """
    planned = [plan(cell) for cell in cells]
    if not planned or any(one.failure is not None for one in planned):
        return frozenset()
    runs = [run for one in planned for run in one.runs]
    end = _stacked(runs, RunStore(cells[0].settings.runs_dir))
    return frozenset() if end is None else end.keys


def _stacked(runs: Sequence[RunIdentity], store: RunStore) -> StackedEnd | None:
    """Run those as one that can, and say which did.

    Raises:
        KeyboardInterrupt: after they were saved so that they can be resumed.
    """
    if not _may_stack(runs[0].cell):
        return None
    waiting = [run for run in runs if store.settled(run.key) is None]
    begun = [run for run in waiting if (store.path(run.key) / "checkpoint.pt").exists()]
    ends = [_stack(group, store) for group in (begun, [run for run in waiting if run not in begun])]
    found = [end for end in ends if end is not None]
    if not found:
        return None
    return replace(found[-1], keys=frozenset().union(*(end.keys for end in found)))


def _stack(runs: Sequence[RunIdentity], store: RunStore) -> StackedEnd | None:
    """Run those of the runs as one that this worker can claim, where they are enough."""
    if len(runs) < MIN_STACKED_SEEDS:
        return None
    from altprop.harness.stacking import run_stacked

    with contextlib.ExitStack() as leases:
        held = [run for run in runs if _held(run, store, leases)]
        if len(held) < MIN_STACKED_SEEDS:
            return None
        end = run_stacked(held, store)
    if any(_interrupted(run, store) for run in held if run.key in end.keys):
        raise KeyboardInterrupt
    return end


def _may_stack(cell: Cell) -> bool:
    """Return whether the settings of a cell let its seeds run as one."""
    s = cell.settings
    plain = not (s.isolate or s.ranks > 1 or s.trainer.get("profiler"))
    return s.stack_seeds and plain and s.budget.currency != "seconds" and s.logger.get("kind") is None


def _held(run: RunIdentity, store: RunStore, leases: contextlib.ExitStack) -> bool:
    """Return whether this worker could claim a run; the lease is held as long as the stack is open."""
    lease = store.claim(run.key)
    if lease is not None:
        leases.enter_context(lease)
    return lease is not None


def _interrupted(run: RunIdentity, store: RunStore) -> bool:
    record = store.read(run.key)
    return record is None or record.status is RunStatus.INTERRUPTED
