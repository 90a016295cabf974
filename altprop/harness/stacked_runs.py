"""Several seeds of a cell stacked: one stacked step for all, and for each a run of its own around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from altprop.data import Batch
from altprop.feed import EpochFeed
from altprop.harness.training_run import TrainingRun
from altprop.stacked_learners import StackedLearners, StackingMismatch


class StackedRuns:
    """Training runs of one cell that step as one, in the place of a single one. `block` is Lightning's unit.

    The runs share one ledger, which counts what one run does; seconds are each run's share.

    Args:
        training_runs: of different seeds, before their first step.
        finish: called with a run as soon as it is over, while the ledger stands where the run ended.
    """

    def __init__(self, training_runs: Sequence[TrainingRun], finish: Callable[[TrainingRun], None]) -> None:
        self.training_runs, self.settings = list(training_runs), training_runs[0].settings
        self.learners = StackedLearners([training_run.parts.algorithm for training_run in training_runs])
        self.ledger = training_runs[0].parts.problem.ledger
        self.stop_requested = False
        self.trace: list[dict[str, Any]] = []
        self._finish = finish
        self._epoch = -1
        self._orders = torch.empty(0, device="cpu")

    @property
    def live(self) -> list[TrainingRun]:
        """The runs that have not ended."""
        return [training_run for training_run in self.training_runs if not training_run.over]

    @property
    def over(self) -> bool:
        """Whether all runs have ended."""
        return not self.live

    @property
    def wall_seconds(self) -> float:
        """Seconds since the start, of all together."""
        return sum(training_run.wall_seconds for training_run in self.training_runs)

    def begin(self) -> None:
        """Evaluate the untrained learners."""
        for training_run in self.training_runs:
            training_run.begin()
        self._end(self.training_runs)

    def block(self) -> None:
        """Take steps up to the next mark, at most `budget.block`, as `TrainingRun.block` does."""
        live, ledger, budget = self.live, self.ledger, self.settings.budget
        leader = live[0]
        threshold = budget.amount * leader.mark / budget.grid
        losses: list[Tensor] = []
        first, share = ledger.steps, 1 / len(self.training_runs)
        cpu, wall, audited = time.process_time(), time.perf_counter(), ledger.audit_seconds

        def stop() -> None:
            # The audited step was one more, of the first learner alone; the stacked step beside it is timed.
            ledger.seconds += (time.process_time() - cpu - (ledger.audit_seconds - audited)) * share
            ledger.untimed = 0
            for training_run in live:
                training_run.wall_seconds += (time.perf_counter() - wall) * share

        for count in range(budget.block):
            probed = count == 0 and leader.probed
            if probed:
                for training_run in live:
                    training_run.before_probe()
                cpu, wall, audited = time.process_time(), time.perf_counter(), ledger.audit_seconds
            losses.append(self._step(leader.position + count))
            if probed:
                stop()
                self.learners.settle()
                for training_run in live:
                    training_run.probe()
                cpu, wall, audited = time.process_time(), time.perf_counter(), ledger.audit_seconds
            spent = leader.spent
            for training_run in live:
                training_run.parts.problem.progress = min(1.0, spent / budget.amount)
            if spent >= threshold:
                break
        stop()
        self.learners.settle()
        told = torch.stack(losses).unbind(1)
        for training_run in live:
            training_run.position += len(losses)
            training_run.close(list(told[self.training_runs.index(training_run)]), [], first, False)
        self._end(live)

    def _end(self, live: Sequence[TrainingRun]) -> None:
        for training_run in live:
            if training_run.over:
                self._finish(training_run)

    def _step(self, position: int) -> Tensor:
        feeds = [training_run.parts.feed for training_run in self.training_runs]

        def single(place: int) -> Batch:
            batch = feeds[place].batch(position)
            assert batch is not None  # `stacks` learners are fed.
            return batch

        return self.learners.step(self._batch(position), single)

    def _batch(self, position: int) -> Batch:
        """Return the batches of all seeds at a position, stacked: inputs (S, B, ...)."""
        feeds = [training_run.parts.feed for training_run in self.training_runs]
        feed, size = feeds[0], len(feeds)
        if not isinstance(feed, EpochFeed):
            return _stacked([one.batch(position) for one in feeds])
        if feed.batches == 1:
            whole = feed.batch(position)
            assert whole is not None
            return Batch(
                whole.inputs.expand(size, *whole.inputs.shape),
                whole.targets.expand(size, *whole.targets.shape),
                whole.index,
            )
        epoch, place = divmod(position, feed.batches)
        if epoch != self._epoch:
            plans = [one for one in feeds if isinstance(one, EpochFeed)]
            self._epoch, self._orders = epoch, torch.stack([one.order(epoch) for one in plans])
        split = feed.split
        rows = self._orders[:, place * feed.batch_size : (place + 1) * feed.batch_size]
        return Batch(_rows(split.inputs, rows), _rows(split.targets, rows), rows[0])


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """Return the rows (S, B) of values (N, ...) as (S, B, ...)."""
    return values.index_select(0, rows.reshape(-1)).reshape(*rows.shape, *values.shape[1:])


def _stacked(batches: Sequence[Batch | None]) -> Batch:
    """Return the batches of all seeds as one: inputs (S, B, ...).

    Raises:
        StackingMismatch: where they hold more than inputs and targets, or differ in size.
    """
    fed = [batch for batch in batches if batch is not None]
    if len({batch.rows for batch in fed}) != 1 or any(batch.weights is not None for batch in fed):
        raise StackingMismatch("the seeds' batches cannot be stacked")
    inputs, targets = (torch.stack([getattr(batch, name) for batch in fed]) for name in ("inputs", "targets"))
    return Batch(inputs, targets, fed[0].index, context=fed[0].context, last=fed[0].last)
