"""Truncated backpropagation through time: errors go back a bounded number of steps."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    AltpropError,
    Batch,
    Capability,
    Grads,
    OptimizerFactory,
    Oracle,
    Problem,
    StepResult,
    Updater,
    Window,
    check_name,
    check_whole,
)
from altprop.testing import toy_sequence

UPDATES = ("window", "sequence")


class TruncatedBPTT(Algorithm):
    """Every k1 time steps, send the errors of these k1 steps back through the last k2.

    Williams and Peng's BPTT(h; h') with h = k2 and h' = k1. Window j holds the losses of the times (j-1) k1 < t <= j k1
    and runs the network from time j k1 - k2 on; the state before that is a constant. So a loss at time t reaches back
    over t - (j k1 - k2) cells, which is between k2 - k1 + 1 and k2:

        k1 = 1           every loss reaches exactly k2 cells back, at k2 times the cost of a pass;
        k1 = k2 = k      the usual windows side by side, horizons 1, 2, ..., k, not k;
        k1 = k2 >= T     the whole sequence at once: BPTT, to the bit.

    Memory holds k2 states and not T. Windows start at multiples of k1 from the sequence's own start, so that padding at
    the end of a row changes nothing. A final target is a loss at the row's last valid time: windows without a loss
    run forward only.

    The state goes on from window to window, and from batch to batch where `batch.reset` is false (a row continues the
    same row of the batch before); it never passes the end of a sequence.

    Args:
        optimizer: how a direction becomes an update. It is no gradient of any function, so closures are refused.
        k1: time steps from one window to the next.
        k2: time steps that errors go back, at least k1.
        update: "window" updates after each window, on the mean over its own targets; "sequence" sums the windows,
            weighted by their targets, into one update a batch.

    Raises:
        AltpropError: for a k that is no whole number of at least 1, for k2 < k1, or an unknown `update`.

    Paper: Williams and Peng, An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories, Neural Computation 1990. They go back through the states as visited, under older weights; here the
    window runs again from its first state with the present ones (with update=sequence it is the same).
    """

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT, Capability.RECURRENT})
    state: ClassVar[tuple[str, ...]] = ("updater", "carried")

    def __init__(self, optimizer: OptimizerFactory, k1: int = 5, k2: int = 10, update: str = "window") -> None:
        self.k1, self.k2 = check_whole(k1, "algorithm.k1", 1), check_whole(k2, "algorithm.k2", 1)
        if k2 < k1:
            raise AltpropError(f"algorithm.k2 must be at least k1, or some losses are never seen; got k1={k1}, k2={k2}")
        self._optimizer = optimizer
        self.update = check_name(update, "algorithm.update", UPDATES)
        self.carried: Tensor | None = None

    def _setup(self, problem: Problem) -> None:
        self.updater: Updater = problem.updater(self._optimizer, direction="other")

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        if self.update == "sequence":
            loss, direction = self.direction(batch)
            self.updater.apply(direction)
            return StepResult(loss)
        losses = []
        with problem.same_noise():
            for loss, direction, _ in self._windows(batch):
                loss, direction = self._penalised(loss, direction)
                self.updater.apply(direction)
                losses.append(loss)
        if len(losses) == 1:
            return StepResult(losses[0])
        # The parameters moved between the windows: their losses are no value of one objective.
        return StepResult(scalars={"window_loss": float(torch.stack(losses).mean())} if losses else {})

    def direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        """Return (objective, name -> truncated gradient) at the present parameters; the carried state moves on."""
        problem = self.problem
        total = torch.zeros((), dtype=problem.dtype, device=problem.device)
        direction: Grads = {}
        with problem.same_noise():
            for loss, grads, share in self._windows(batch):
                # A share of 1 leaves every bit as it is.
                total = total + share * loss
                for name, value in grads.items():
                    direction[name] = direction[name] + share * value if name in direction else share * value
        return self._penalised(total, direction or {name: torch.zeros_like(p) for name, p in problem.params.items()})

    def _penalised(self, loss: Tensor, direction: Grads) -> tuple[Tensor, Grads]:
        """Add the noise's own term of the objective."""
        penalty = self.problem.penalty()
        if penalty is None:
            return loss, direction
        return loss + penalty[0], {name: value + penalty[1][name] for name, value in direction.items()}

    def _windows(self, batch: Batch) -> Iterator[tuple[Tensor, Grads, float]]:
        """Go over a batch; give (loss, gradient, share of the batch's targets) of each window that has a loss.

        Whoever takes them may update the parameters in between.
        """
        problem, steps, divisor = self.problem, batch.inputs.shape[0], self.problem.divisor(batch)
        ends = None if batch.mask is None or batch.per_step else last_valid(batch.mask)
        # State before each time that a later window may start from.
        past = {0: self._entering(batch)}
        for window in windows(steps, self.k1, self.k2):
            start, new, stop = window
            piece = lossy(batch, window, ends)
            if piece is None or piece.samples == 0:
                first, states = new, problem.unroll(batch, past[new], new, stop)
            else:
                value, grads, states = problem.window_gradient(batch, window, piece, past[start])
                first = start
                yield value, grads, problem.divisor(piece) / divisor
            past.update((first + i, h) for i, h in enumerate(states, 1))
            past = {t: h for t, h in past.items() if t >= stop - self.k2}
        self.carried = past[steps].clone()

    def _entering(self, batch: Batch) -> Tensor:
        """Return the state (B, S) in which a batch begins: the carried one in rows that are not reset."""
        start: Tensor = self.problem.model.initial_state(batch.inputs.shape[1])
        if batch.reset is None or self.carried is None:
            return start
        if self.carried.shape == start.shape:
            return torch.where(batch.reset[:, None], start, self.carried)
        if batch.reset.all():
            return start
        raise AltpropError(
            f"a batch of {start.shape[0]} rows continues one of {self.carried.shape[0]}: "
            "rows that are not reset must keep their place"
        )

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        return tuple(oracle for cell in ("rnn", "gru", "lstm") for oracle in _oracles_of(cell))


def windows(steps: int, k1: int, k2: int) -> list[Window]:
    """Return the windows of a sequence.

    >>> [tuple(w) for w in windows(7, 3, 5)]
    [(0, 0, 3), (1, 3, 6), (4, 6, 7)]
    """
    return [Window(max(0, new + k1 - k2), new, min(new + k1, steps)) for new in range(0, steps, k1)]


def last_valid(mask: Tensor) -> Tensor:
    """Return the last valid time of each row, mask (T, B) -> (B,); 0 for a row without any."""
    times = torch.arange(mask.shape[0], device=mask.device)[:, None]
    return torch.where(mask, times, 0).amax(0)


def lossy(batch: Batch, window: Window, ends: Tensor | None) -> Batch | None:
    """Return the targets of a window as a batch, or None where it has none.

    Args:
        batch: the whole sequences.
        window: which times.
        ends: (B,) last valid time of each row, for final targets of masked sequences.
    """
    _, new, stop = window
    if batch.per_step:
        mask = None if batch.mask is None else batch.mask[new:stop]
        return replace(batch, inputs=batch.inputs[new:stop], targets=batch.targets[new:stop], mask=mask)
    if ends is None:
        return batch if stop == batch.inputs.shape[0] else None
    here = (ends >= new) & (ends < stop)
    if here.all():
        return batch
    return replace(batch, labelled=here if batch.labelled is None else here & batch.labelled)


def _oracles_of(cell: str) -> tuple[Oracle, ...]:
    far = "is each loss seen 3 cells back"
    return (
        Oracle(f"{cell}: k1 = k2 = T is BPTT", partial(_against_bptt, cell, 7, 7), 0.0),
        Oracle(f"not {cell}: k1 = k2 = 3 < T is BPTT", partial(_against_bptt, cell, 3, 3), 1e-2, differs=True),
        Oracle(f"{cell}: k1 = 1, k2 = 3 {far}", partial(_against_horizon, cell, 1, 3), 1e-14),
        Oracle(f"not {cell}: k1 = k2 = 3 {far}", partial(_against_horizon, cell, 3, 3), 1e-2, differs=True),
    )


def _toy(cell: str, k1: int, k2: int) -> tuple[TruncatedBPTT, Problem, Batch]:
    problem, batch = toy_sequence(cell, width=3, lengths=[7, 3, 5, 6], per_step=True)
    rule = TruncatedBPTT(OptimizerFactory("torch.optim.SGD", lr=0.1), k1, k2, "sequence")
    rule.setup(problem)
    return rule, problem, batch


def _distance(problem: Problem, direction: Grads, reference: Grads) -> float:
    a, b = problem.flatten(direction), problem.flatten(reference)
    return float((a - b).norm() / b.norm())


def _against_bptt(cell: str, k1: int, k2: int) -> float:
    """Return the distance from the exact gradient, in units of its norm."""
    rule, problem, batch = _toy(cell, k1, k2)
    return _distance(problem, rule.direction(batch)[1], problem.gradient(batch)[1])


def _against_horizon(cell: str, k1: int, k2: int) -> float:
    """Return the distance from the sum over times of gradients that each go k2 cells back, in units of its norm."""
    rule, problem, batch = _toy(cell, k1, k2)
    model, mask = problem.model, batch.mask
    assert mask is not None

    def each_by_itself() -> Tensor:
        outputs = []
        for t in range(batch.inputs.shape[0]):
            h = model.initial_state(batch.inputs.shape[1])
            for s in range(t + 1):
                h = h.detach() if s == t + 1 - k2 else h
                h = torch.where(mask[s][:, None], model.cell(batch.inputs[s], h), h)
            outputs.append(model.readout(h))
        return problem.output_loss(torch.stack(outputs), batch)

    return _distance(problem, rule.direction(batch)[1], problem.gradient(batch, loss=each_by_itself)[1])
