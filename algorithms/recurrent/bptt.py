"""Backpropagation through time: the exact gradient of a recurrent network."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from altprop.algorithm import Algorithm
from altprop.capabilities import Capability
from altprop.errors import Refused
from altprop.optim import OptimizerFactory, Updater
from altprop.problem import Problem
from altprop.task import Batch
from altprop.testing import toy_sequence


class BPTT(Algorithm):
    """The exact gradient over whole sequences, handed to the optimizer axis.

    The network h_t = f(x_t, h_(t-1); theta), y_t = g(h_t; theta) is unrolled over all T times, as a deep net whose
    layers share theta. With L the objective and L_t its part that sees h_t, the error goes back from the last time,

        delta_T = dL_T/dh_T,    delta_t = dL_t/dh_t + (df(x_(t+1), h_t)/dh_t)^T delta_(t+1),
        dL/dtheta = sum_t (df(x_t, h_(t-1))/dtheta)^T delta_t + dg's own share,

    where f is differentiated in theta with h_(t-1) held. Automatic differentiation does just that. All T states are
    kept for the way back, so memory grows with T; `truncated_bptt` keeps k2 of them. A final target is a loss at the
    last valid time alone; masked elements leave the state as it is and carry no loss.

    Args:
        optimizer: how the gradient becomes an update.

    >>> problem, batch = toy_sequence("gru")
    >>> rule = BPTT(OptimizerFactory("torch.optim.SGD", lr=0.2))
    >>> rule.setup(problem)
    >>> losses = [float(rule.step(batch).loss) for _ in range(50)]
    >>> losses[-1] < 0.5 * losses[0]
    True

    Paper: Werbos, Backpropagation through time: what it does and how to do it, Proceedings of the IEEE 1990.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT, Capability.RECURRENT})
    state: ClassVar[tuple[str, ...]] = ("updater",)

    def __init__(self, optimizer: OptimizerFactory) -> None:
        self._optimizer = optimizer

    def _setup(self, problem: Problem) -> None:
        self.updater: Updater = problem.updater(self._optimizer)

    def _step(self, batch: Batch | None) -> Tensor:
        assert batch is not None
        if batch.reset is not None and not batch.reset.all():
            raise Refused(
                "bptt goes back over whole sequences, and this batch continues one from the batch before; "
                "try algorithm=truncated_bptt"
            )
        if self.updater.wants_closure:
            return self._search(batch)
        loss, grads = self.problem.gradient(batch, create_graph=self.updater.wants_graph)
        self.updater.apply(grads)
        return loss

    def _search(self, batch: Batch) -> Tensor:
        """Step an optimizer that evaluates the objective several times: one function throughout."""
        problem = self.problem
        fixed = len(batch.index) >= problem.train_size and problem.model.noise is None
        with problem.same_noise():
            loss, grads = problem.gradient(batch)
            self.updater.apply(grads, lambda graph: problem.gradient(batch, create_graph=graph), loss=loss, fixed=fixed)
        return loss

    @classmethod
    def oracles(cls) -> dict[str, Callable[[], tuple[float, float]]]:
        found: dict[str, Callable[[], tuple[float, float]]] = {}
        for cell in ("rnn", "gru", "lstm"):
            found |= {
                f"{cell}: gradient = central differences at 1e-5": partial(_against_differences, cell, 1e-8),
                f"{cell}: gradient = derivatives carried forward in time": partial(_against_duals, cell, False, 1e-14),
                f"not {cell}: gradient with the state cut at each time": partial(_against_duals, cell, True, 1e-2),
            }
        return found


def _against_differences(cell: str, tolerance: float, step: float = 1e-5) -> tuple[float, float]:
    """Return the worst error of the gradient against central differences, and the tolerance.

    The sequences are masked, with a target at each time.
    """
    problem, batch = toy_sequence(cell, width=3, lengths=[7, 3, 5, 1], per_step=True)
    gradient = problem.flatten(problem.gradient(batch)[1])
    start, measured = problem.flat(), torch.empty_like(gradient)
    for i in range(start.numel()):
        values = []
        for sign in (1.0, -1.0):
            moved = start.clone()
            moved[i] += sign * step
            problem.assign(moved)
            values.append(problem.objective(batch))
        measured[i] = (values[0] - values[1]) / (2 * step)
    return float((measured - gradient).abs().max()), tolerance


def _against_duals(cell: str, cut: bool, tolerance: float) -> tuple[float, float]:
    """Return the distance, in units of the gradient's norm, from derivatives that dual numbers carry forward in time.

    Args:
        cell: rnn, gru or lstm.
        cut: whether the gradient is taken without any way back through the state.
        tolerance: handed on.
    """
    problem, batch = toy_sequence(cell, width=3)
    model = problem.model

    def one_step_back() -> Tensor:
        h = model.initial_state(4)
        for x in batch.inputs:
            h = model.cell(x, h.detach())
        return problem.output_loss(model.readout(h), batch)

    gradient = problem.flatten(problem.gradient(batch, loss=one_step_back if cut else None)[1])
    forward = torch.empty_like(gradient)
    for i in range(gradient.numel()):
        direction = torch.zeros_like(gradient)
        direction[i] = 1.0
        forward[i] = problem.jvp(batch, problem.unflatten(direction))[1]
    return float((gradient - forward).norm() / forward.norm()), tolerance
