"""Several seeds of a cell in lockstep: one stacked step for all, and for each a course of its own around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from altprop.harness.course import Course
from altprop.replicas import Replicas
from altprop.task import Batch


class Lockstep:
    """Courses of one cell that move together; it stands where a single `Course` does. `block` is Lightning's unit.

    The courses share one ledger, which counts what one run does; seconds are each run's share.

    Args:
        courses: of different seeds, before their first step.
        finish: called with a course as soon as it is over, while the ledger stands where the course ended.
    """

    def __init__(self, courses: Sequence[Course], finish: Callable[[Course], None]) -> None:
        self.courses, self.settings = list(courses), courses[0].settings
        self.replicas = Replicas([course.parts.algorithm for course in courses])
        self.ledger = courses[0].parts.problem.ledger
        self.stop_requested = False
        self.trace: list[dict[str, Any]] = []
        self._finish = finish
        self._epoch = -1
        self._orders = torch.empty(0, device="cpu")

    @property
    def live(self) -> list[Course]:
        """The courses that have not ended."""
        return [course for course in self.courses if not course.over]

    @property
    def over(self) -> bool:
        """Whether all courses have ended."""
        return not self.live

    @property
    def wall_seconds(self) -> float:
        """Seconds since the start, of all together."""
        return sum(course.wall_seconds for course in self.courses)

    def begin(self) -> None:
        """Evaluate the untrained learners."""
        for course in self.courses:
            course.begin()
        self._end(self.courses)

    def block(self) -> None:
        """Take steps up to the next mark, at most `budget.block`, as `Course.block` does."""
        live, ledger, budget = self.live, self.ledger, self.settings.budget
        leader = live[0]
        threshold = budget.amount * leader.mark / budget.grid
        losses: list[Tensor] = []
        first, share = ledger.steps, 1 / len(self.courses)
        cpu, wall = time.process_time(), time.perf_counter()

        def stop() -> None:
            ledger.seconds += (time.process_time() - cpu) * share
            for course in live:
                course.wall_seconds += (time.perf_counter() - wall) * share

        for count in range(budget.block):
            probed = count == 0 and leader.probed
            if probed:
                for course in live:
                    course.before_probe()
                cpu, wall = time.process_time(), time.perf_counter()
            losses.append(self._step(leader.position + count))
            if probed:
                stop()
                self.replicas.settle()
                for course in live:
                    course.probe()
                cpu, wall = time.process_time(), time.perf_counter()
            spent = leader.spent
            for course in live:
                course.parts.problem.progress = min(1.0, spent / budget.amount)
            if spent >= threshold:
                break
        stop()
        self.replicas.settle()
        told = torch.stack(losses).unbind(1)
        for course in live:
            course.position += len(losses)
            course.close(list(told[self.courses.index(course)]), {}, first, False)
        self._end(live)

    def _end(self, live: Sequence[Course]) -> None:
        for course in live:
            if course.over:
                self._finish(course)

    def _step(self, position: int) -> Tensor:
        feeds = [course.parts.feed for course in self.courses]

        def single(place: int) -> Batch:
            batch = feeds[place].batch(position)
            assert batch is not None  # `stacks` learners are fed.
            return batch

        return self.replicas.step(self._batch(position), single)

    def _batch(self, position: int) -> Batch:
        """Return the batches of all seeds at a position, stacked: inputs (S, B, ...)."""
        feeds = [course.parts.feed for course in self.courses]
        feed, size = feeds[0], len(feeds)
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
            self._epoch, self._orders = epoch, torch.stack([one.order(epoch) for one in feeds])
        rows = self._orders[:, place * feed.batch_size : (place + 1) * feed.batch_size]
        split = feed.split
        return Batch(_rows(split.inputs, rows), _rows(split.targets, rows), rows[0])


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """Return the rows (S, B) of values (N, ...) as (S, B, ...)."""
    return values.index_select(0, rows.reshape(-1)).reshape(*rows.shape, *values.shape[1:])
