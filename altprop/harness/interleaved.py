"""Learners that take turns under a clock: the seconds of their steps, whole and by kind of work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from altprop.data import Feed
from altprop.harness.building import Parts, build_parts, feed_of
from altprop.harness.cell import Cell
from altprop.randomness import derive_seed
from altprop.records.timing import GROUPS, KINDS

WARM_STEPS = 10
SIZING_STEPS = 3
BLOCK = 50
MOST_BLOCKS = 20
SHORTEST, LONGEST = 0.02, 1.0
"""Seconds that a block should take."""


@dataclass(frozen=True)
class Clock:
    """Where seconds come from: CPU time of this process, and wall time."""

    cpu: Callable[[], float] = time.process_time
    wall: Callable[[], float] = time.perf_counter


class SectionClock:
    """Count CPU seconds under the kind of work at hand; what a primitive does inside another is its own.

    The ledger sets `section` (see `Ledger.watched`).

    Args:
        cpu: the clock.
    """

    def __init__(self, cpu: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self._cpu, self._section, self._since = cpu, "other", cpu()

    @property
    def section(self) -> str:
        """The kind of work at hand; to set it counts the seconds since the last change."""
        return self._section

    @section.setter
    def section(self, kind: str) -> None:
        now = self._cpu()
        self.seconds[GROUPS.get(self._section, "other")] += now - self._since
        self._section, self._since = kind, now


def block_length(seconds: float, room: int) -> int:
    """Return how many steps make a block: 50, as long as they take between .02 and 1 s, the same rule for all.

    Fewer where a step is slow, whole multiples of 50 (at most 1,000) where it is fast.

    Args:
        seconds: wall time of a step.
        room: steps that the learner's own run leaves.

    >>> [block_length(seconds, 10_000) for seconds in (1e-6, 1e-4, 5e-4, 0.1, 7.0)]
    [1000, 200, 50, 10, 1]
    >>> block_length(5e-4, 30)
    30
    """
    seconds = max(seconds, 1e-9)
    if seconds * BLOCK > LONGEST:
        steps = max(1, math.floor(LONGEST / seconds + 1e-9))
    else:
        steps = BLOCK * min(MOST_BLOCKS, max(1, math.ceil(SHORTEST / (seconds * BLOCK) - 1e-9)))
    return max(1, min(steps, room))


class TimedRun:
    """A learner that waits for its turn with its state between two of them.

    Args:
        cell, seed: to rebuild.
        steps: that its run took; it returns to its state after the warm-up rather than step beyond them.
        shared: training splits by their hashes, so that learners of one workload hold one.
        clock: of the pass.
    """

    def __init__(self, cell: Cell, seed: int, steps: int, shared: dict[Any, Any], clock: Clock) -> None:
        torch.manual_seed(derive_seed(seed, "global"))
        parts = build_parts(cell, seed)
        self._algorithm, self._problem, self._feed = parts.algorithm, parts.problem, _share(parts, seed, shared)
        self._budget, self._clock = cell.settings.budget, clock
        self._last, self._position, self.again = max(1, steps), 0, 0
        self.first = min(WARM_STEPS, self._last // 2)
        for _ in range(self.first):
            self._step()
            self._tell_progress()
        self._problem.ledger.auditing = False
        self._saved = {"problem": self._problem.state_dict(), "algorithm": self._algorithm.state_dict()}
        room = self._last - self.first
        tried = min(SIZING_STEPS, room)
        self.block = block_length(self.go(tried)[1] / tried, room)

    def go(self, steps: int) -> tuple[float, float]:
        """Take steps and return the (CPU, wall) seconds that they took."""
        self._make_room(steps)
        cpu = wall = 0.0
        while steps:
            start_cpu, start_wall = self._clock.cpu(), self._clock.wall()
            done = False
            while steps and not done:
                done = self._step()
                steps -= 1
            cpu += self._clock.cpu() - start_cpu
            wall += self._clock.wall() - start_wall
            if done:
                self._return()
        self._tell_progress()
        return cpu, wall

    def watch(self, steps: int) -> dict[str, float]:
        """Take steps and return kind of work -> CPU seconds."""
        self._make_room(steps)
        seconds = dict.fromkeys(KINDS, 0.0)
        while steps:
            clock = SectionClock(self._clock.cpu)
            done = False
            with self._problem.ledger.watched(clock):
                while steps and not done:
                    done = self._step()
                    steps -= 1
            clock.section = "other"  # counts the rest
            for kind, amount in clock.seconds.items():
                seconds[kind] += amount
            if done:
                self._return()
        self._tell_progress()
        return seconds

    def _step(self) -> bool:
        """Take one step, what it is fed included; return whether the learner says that it is done."""
        done = self._algorithm.step(self._feed.batch(self._position)).done
        self._position += 1
        return done

    def _tell_progress(self) -> None:
        """Say how far the run is, which schedules ask: between blocks, not timed."""
        spent = self._problem.ledger.spent(self._budget.currency)
        self._problem.progress = min(1.0, spent / self._budget.amount)

    def _make_room(self, steps: int) -> None:
        if self._position + steps > self._last and self._position > self.first:
            self._return()

    def _return(self) -> None:
        """Go back to the state after the warm-up, not timed."""
        self._algorithm.restore(self._saved)
        self._position, self.again = self.first, self.again + 1


def _share(parts: Parts, seed: int, shared: dict[Any, Any]) -> Feed:
    """Return the feed of parts on the split that learners with the same data share."""
    split = shared.setdefault((parts.identity["data"], parts.identity["split"], parts.problem.dtype), parts.data.train)
    return feed_of(parts.task, parts.algorithm, split, seed)
