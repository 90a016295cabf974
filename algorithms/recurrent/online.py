"""What rules that learn while a sequence runs share: forward in time alone, and nothing kept of the times before."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, final

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    AltpropError,
    Batch,
    Capability,
    Grads,
    OptimizerFactory,
    Problem,
    StepResult,
    Updater,
    Window,
    check_whole,
)
from altprop.algorithms.recurrent.truncated_bptt import last_valid, lossy, windows

Trace = Mapping[str, Tensor]
"""Name -> (B, ...): what a rule carries from time to time beside the state."""


class OnlineLearner(Algorithm):
    """Abstract learner that takes a trace along with the state, so that an error meets it where it occurs.

    With h_t = f(x_t, h_(t-1); theta) and E_t the loss at time t, a rule carries a trace that stands for dh_t/dtheta and
    adds up

        direction = sum_t (dE_t/dh_t) dh_t/dtheta + the readout's own gradient.

    An author writes `_fresh`, `_advance` and `_credit`, and `_prepare` for what is drawn once. Nothing goes back in
    time: of the past the state and the trace are kept, so memory does not grow with T. Both go on from batch to batch
    where `batch.reset` is false. A masked element leaves both as they are.

    Between two updates the directions are summed up. The trace holds derivatives at the parameters under which it was
    made: where they move amid a sequence it is stale, and the direction is not what it would be at the present ones
    (Williams and Zipser 1989 hold the rate small for that reason).

    Args:
        optimizer: how a direction becomes an update. It is no gradient of one function, so closures are refused.
        update_every: time steps from one update to the next, each on the mean over its own targets; None for one
            update a batch, at frozen parameters. A piece without a target updates nothing.

    Raises:
        AltpropError: for an `update_every` that is no whole number of at least 1.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT, Capability.RECURRENT})
    state: ClassVar[tuple[str, ...]] = ("updater", "carried")

    def __init__(self, optimizer: OptimizerFactory, update_every: int | None = None) -> None:
        self._optimizer = optimizer
        self.update_every = None if update_every is None else check_whole(update_every, "algorithm.update_every", 1)
        self.carried: dict[str, Tensor] = {}
        self.feedback: Tensor | None = None

    # What an author writes.

    def _prepare(self, problem: Problem) -> None:
        """Refuse what cannot run, and draw `feedback` (C, S), which takes the place of the readout's W^T."""

    @abstractmethod
    def _fresh(self, rows: int) -> Trace:
        """Return the trace before the first time of `rows` sequences."""

    @abstractmethod
    def _advance(self, batch: Batch, time: int, h: Tensor, trace: Trace) -> tuple[Tensor, Trace]:
        """Return the state (B, S) and the trace after a time, from those before it."""

    @abstractmethod
    def _credit(self, error: Tensor, trace: Trace) -> Grads:
        """Return what stands for the gradient by name, the sum over rows, from dE_t/dh_t (B, S) and the trace at t."""

    # Final.

    @final
    def _setup(self, problem: Problem) -> None:
        self.updater: Updater = problem.updater(self._optimizer, direction="other")
        self._prepare(problem)

    @final
    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        if self.update_every is None:
            loss, direction = self.direction(batch)
            self.updater.apply(direction)
            return StepResult(loss)
        losses = []
        with self.problem.same_noise():
            for loss, direction, _ in self._pieces(batch, self.update_every):
                loss, direction = self._penalised(loss, direction)
                self.updater.apply(direction)
                losses.append(loss)
        if len(losses) == 1:
            return StepResult(losses[0])
        # The parameters moved between the pieces: their losses are no value of one objective.
        return StepResult(scalars={"piece_loss": torch.stack(losses).mean()} if losses else {})

    @final
    def direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        """Return (objective, name -> direction) of a batch at the present parameters; state and trace move on."""
        problem = self.problem
        loss = torch.zeros((), dtype=problem.dtype, device=problem.device)
        direction = {name: torch.zeros_like(p) for name, p in problem.params.items()}
        with problem.same_noise():
            for loss, direction, _ in self._pieces(batch, batch.inputs.shape[0]):  # noqa: B007 - there is one, or none
                pass
        return self._penalised(loss, direction)

    def _penalised(self, loss: Tensor, direction: Grads) -> tuple[Tensor, Grads]:
        """Add the noise's own term of the objective."""
        penalty = self.problem.penalty()
        if penalty is None:
            return loss, direction
        return loss + penalty[0], {name: value + penalty[1][name] for name, value in direction.items()}

    def _pieces(self, batch: Batch, every: int) -> Iterator[tuple[Tensor, Grads, float]]:
        """Go over a batch; give (mean loss, direction, number of targets) of each piece of `every` times with a target.

        Whoever takes them may update the parameters in between.
        """
        problem = self.problem
        ends = None if batch.mask is None or batch.per_step else last_valid(batch.mask)
        h, trace = self._entering(batch)
        for start, _, stop in windows(batch.inputs.shape[0], every, every):
            value, targets = torch.zeros((), dtype=h.dtype, device=h.device), 0.0
            total: Grads = {}
            for time in range(start, stop):
                with torch.no_grad():
                    h, trace = self._advance(batch, time, h, trace)
                here = lossy(batch, Window(time, time, time + 1), ends)
                if here is None or here.samples == 0:
                    continue
                loss, found = self._meet(here, time, h, trace)
                weight = problem.divisor(here)
                targets += weight
                value = value + weight * loss
                total = {name: weight * one + total.get(name, 0.0) for name, one in found.items()}
            if targets:
                yield value / targets, {name: one / targets for name, one in total.items()}, targets
        self.carried = {"state": h, **trace}

    def _meet(self, here: Batch, time: int, h: Tensor, trace: Trace) -> tuple[Tensor, Grads]:
        """Return the mean loss of the targets at a time and what stands for its gradient, of all parameters."""
        problem = self.problem
        outputs, back = problem.readout(h[None] if here.per_step else h, time)
        slope = problem.output_gradient(outputs, here)
        pulled = back(slope, inputs=self.feedback is None)
        with torch.no_grad():
            error = slope @ self.feedback if self.feedback is not None else pulled.inputs
            assert error is not None
            found = self._credit(error[0] if here.per_step else error, trace)
        own = pulled.parameters
        both = {name: own[name] + value if name in own else value for name, value in found.items()}
        return problem.output_loss(outputs, here), own | both

    def _entering(self, batch: Batch) -> tuple[Tensor, Trace]:
        """Return state and trace in which a batch begins: the carried ones in rows that are not reset."""
        rows = batch.inputs.shape[1]
        fresh = {"state": self.problem.model.initial_state(rows).detach(), **self._fresh(rows)}
        begun = fresh
        if batch.reset is not None and not batch.reset.all() and self.carried:
            if self.carried["state"].shape != fresh["state"].shape:
                raise AltpropError(
                    f"a batch of {rows} rows continues one of {self.carried['state'].shape[0]}: "
                    "rows that are not reset must keep their place"
                )
            anew = {name: batch.reset.reshape(-1, *[1] * (value.dim() - 1)) for name, value in fresh.items()}
            begun = {name: torch.where(anew[name], value, self.carried[name]) for name, value in fresh.items()}
        return begun["state"], {name: value for name, value in begun.items() if name != "state"}
