"""Several seeds of a cell stacked: one stacked step for all, and for each a run of its own around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from altprop.capabilities import OUTPUT_KINDS, PredictorKind, evaluated_as
from altprop.data import Batch, Feed
from altprop.feed import EpochFeed
from altprop.harness.training_run import TrainingRun, wait_for
from altprop.monte_carlo import MonteCarlo
from altprop.stacked_learners import StackedLearners, StackedStep, stacked_batch


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
        self.device = training_runs[0].parts.problem.device
        self.stop_requested = False
        self.trace: list[dict[str, Any]] = []
        self._finish = finish
        self._feed = StackedFeed([one.parts.feed for one in training_runs])

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
        try:
            self._block()
        finally:
            self.learners.close()

    def _block(self) -> None:
        live, ledger, budget = self.live, self.ledger, self.settings.budget
        leader, first = live[0], ledger.steps
        threshold = budget.amount * leader.mark / budget.grid
        steps: list[StackedStep] = []
        cut = False
        spent = leader.spent
        for count in range(budget.block):
            saved = self._snapshots(live) if leader.may_overspend(spent) else []
            probed = count == 0 and leader.probed
            if probed:
                self._before_probe(leader.position)
            with self._timed():
                steps.append(self._step(leader.position + count))
                if probed:
                    self.learners.close()
            if probed:
                self._probe()
            before, spent = spent, leader.spent
            for training_run in live:
                training_run.dearest = max(training_run.dearest, spent - before)
            if saved and spent > leader.most:
                self._undo(live, saved)
                steps.pop()
                cut = True
                break
            for training_run in self.training_runs:
                training_run.parts.problem.progress = min(1.0, spent / budget.amount)
            if spent >= threshold or steps[-1].done:
                break
        with self._timed():
            self.learners.close()
        done = bool(steps) and steps[-1].done
        if leader.spent >= threshold or done:
            self._predict()
        losses, told = _by_member(steps, len(self.training_runs))
        for place, training_run in enumerate(self.training_runs):
            if training_run in live:
                training_run.position += len(steps)
                training_run.close(losses[place], told[place], first, done, cut)
        self._end(live)

    def _snapshots(self, live: Sequence[TrainingRun]) -> list[dict[str, Any]]:
        """Return the state of each run."""
        with self._timed():
            self.learners.close()
        return [training_run.snapshot() for training_run in live]

    def _undo(self, live: Sequence[TrainingRun], saved: Sequence[dict[str, Any]]) -> None:
        """Let no run have taken the step that overspends."""
        self.learners.close()
        for training_run, one in zip(live, saved, strict=True):
            training_run.undo(one)

    def _before_probe(self, position: int) -> None:
        first = self.training_runs[0]
        looks: list[Any] = [None] * len(self.training_runs)
        if first.probes.watching:
            batch = self._feed(position)
            if self._feed.common_batch:
                looks = self._shared_probe(partial(first.probes.look, batch))
            else:
                looks = self._shared_probe(first.probes.look, batch)
        self.learners.close()
        for place, training_run in enumerate(self.training_runs):
            if not training_run.over:
                training_run.before_probe(looks[place])
        first.parts.problem.heard = {}

    def _probe(self) -> None:
        probes = self.training_runs[0].probes
        heard = self.training_runs[0].parts.problem.heard or {}
        losses = self._shared_probe(probes.look_again) if probes.watching else [None] * len(self.training_runs)
        for place, training_run in enumerate(self.training_runs):
            if not training_run.over:
                training_run.parts.problem.heard = {name: value[place] for name, value in heard.items()}
                training_run.probe(losses[place])

    def _shared_probe(self, look: Callable[..., Any], *fed: Batch | None) -> list[Any]:
        """Look at all members at once, and book to each its share of the time."""
        started = time.perf_counter()
        found = self.learners.observed(look, *fed)
        for training_run in self.training_runs:
            training_run.probe_seconds += (time.perf_counter() - started) / len(self.training_runs)
        return found

    def _predict(self) -> None:
        """Run all members on the split of the mark that follows, where their model predicts."""
        first = self.training_runs[0]
        name, split = first.guide
        algorithm, problem = first.parts.algorithm, first.parts.problem
        outputs_of_model = evaluated_as(algorithm.kind, first.parts.task.kinds) in OUTPUT_KINDS
        if not outputs_of_model or algorithm._predictor() is not None or split.mask is not None:
            return

        def outputs() -> Tensor:
            with torch.no_grad(), problem.evaluating():
                predictor = problem.predictor if algorithm.kind is PredictorKind.OUTPUT else problem.model
                run = predictor.passes if isinstance(predictor, MonteCarlo) else predictor
                return run(split.inputs)

        started = time.perf_counter()
        for training_run, found in zip(self.training_runs, self.learners.observed(outputs), strict=True):
            training_run.outputs[name] = found
            training_run.evaluation_seconds += (time.perf_counter() - started) / len(self.training_runs)

    def _step(self, position: int) -> StackedStep:
        first = self.training_runs[0].parts.feed
        return self.learners.step(
            self._feed(position), lambda: first.batch(position), common_batch=self._feed.common_batch
        )

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Book what passes inside as the learners' time, each its share; an audited step is of the first one alone."""
        ledger, share = self.ledger, 1 / len(self.training_runs)
        cpu, wall, audited = time.process_time(), time.perf_counter(), ledger.audit_seconds
        yield
        wait_for(self.device)
        ledger.seconds += (time.process_time() - cpu - (ledger.audit_seconds - audited)) * share
        ledger.untimed = 0
        for training_run in self.live:
            training_run.wall_seconds += (time.perf_counter() - wall) * share

    def _end(self, live: Sequence[TrainingRun]) -> None:
        for training_run in live:
            if training_run.over:
                self._finish(training_run)


class StackedFeed:
    """The batches of all members as one. From plain index plans they are gathered at once.

    Attributes:
        common_batch: whether all members are fed the whole split, one batch for all.
    """

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = list(feeds)
        self._plans = [feed for feed in feeds if isinstance(feed, EpochFeed) and feed.plain]
        self.common_batch = all(isinstance(feed, EpochFeed) and feed.whole for feed in feeds)
        self._epoch = -1
        self._orders = torch.empty(0, dtype=torch.int64, device="cpu")

    def __call__(self, position: int) -> Batch | None:
        """Return the batch at a position, (S, B, ...)."""
        if self.common_batch:
            return self._feeds[0].batch(position)
        if len(self._plans) < len(self._feeds):
            return stacked_batch([feed.batch(position) for feed in self._feeds])
        plan = self._plans[0]
        epoch, place = divmod(position, plan.batches)
        if epoch != self._epoch:
            orders = torch.stack([one.order(epoch) for one in self._plans])
            self._epoch, self._orders = epoch, orders.to(plan.split.inputs.device)
        rows = self._orders[:, place * plan.batch_size : (place + 1) * plan.batch_size]
        return Batch(_rows(plan.split.inputs, rows), _rows(plan.split.targets, rows), rows)


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """Return the rows (S, B) of values (N, ...) as (S, B, ...)."""
    return values.index_select(0, rows.reshape(-1)).reshape(*rows.shape, *values.shape[1:])


def _by_member(steps: Sequence[StackedStep], members: int) -> tuple[list[list[Tensor]], list[list[dict[str, float]]]]:
    """Return, for each member, the losses and the scalars of the steps that told any."""
    told = [step.losses for step in steps if step.losses is not None]
    losses = [list(row) for row in torch.stack(told, 1).unbind(0)] if told else [[] for _ in range(members)]
    scalars: list[list[dict[str, float]]] = [[] for _ in range(members)]
    for step in steps:
        lists = {n: v.tolist() if isinstance(v, Tensor) else [v] * members for n, v in step.scalars.items()}
        for place, found in enumerate(scalars if lists else ()):
            found.append({name: values[place] for name, values in lists.items()})
    return losses, scalars
