"""Backpropagation through time: the exact gradient of a recurrent network."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from altprop import Batch, Capability, DirectionAlgorithm, Grads, OptimizerFactory, Oracle, check_whole
from altprop.algorithms.recurrent.horizon import first_rows, horizon_table
from altprop.testing import central_differences, toy_sequence


class BPTT(DirectionAlgorithm):
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
        horizon: rows of the probe batch on which it is measured, at the end of a run and with the weights that were
            learned, how far back each rule of this family would send credit (`horizon_table`); 0 measures nothing.
            For sequences of equal length without noise, in runs that are probed; others leave no table.

    Raises:
        AltpropError: for a `horizon` below 0.

    >>> from altprop.testing import set_up, sgd
    >>> problem, batch = toy_sequence("gru")
    >>> rule = set_up(BPTT(sgd(0.2)), problem)
    >>> losses = [float(rule.step(batch).loss) for _ in range(50)]
    >>> losses[-1] < 0.5 * losses[0]
    True

    Paper: Werbos, Backpropagation through time: what it does and how to do it, Proceedings of the IEEE 1990.
    """

    requires = frozenset({Capability.GRADIENT, Capability.RECURRENT})
    gradient_is_exact = True

    def __init__(self, optimizer: OptimizerFactory, horizon: int = 0) -> None:
        super().__init__(optimizer)
        self.horizon = check_whole(horizon, "algorithm.horizon", 0)

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        return self.problem.gradient(batch)

    def artefacts(self) -> dict[str, Any]:
        """Return the table `horizon`, where that is asked for and can be measured."""
        batch, noise = self.problem.probe_batch, self.problem.uncounted.noise
        if not self.horizon or batch is None or batch.mask is not None or noise is not None:
            return {}
        return {"horizon": horizon_table(self.problem, first_rows(batch, self.horizon))}

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        return tuple(oracle for cell in ("rnn", "gru", "lstm") for oracle in _oracles_of(cell))


def _oracles_of(cell: str) -> tuple[Oracle, ...]:
    cut = f"not {cell}: gradient with the state cut at each time"
    return (
        Oracle(f"{cell}: gradient = central differences at 1e-5", partial(_against_differences, cell), 1e-8),
        Oracle(f"{cell}: gradient = derivatives carried forward in time", partial(_against_duals, cell), 1e-14),
        Oracle(cut, partial(_against_duals, cell, cut=True), 1e-2, differs=True),
    )


def _against_differences(cell: str) -> float:
    """Return the largest error against central differences, on masked sequences with a target at each time."""
    problem, batch = toy_sequence(cell, width=3, lengths=[7, 3, 5, 1], per_step=True)
    measured = central_differences(problem, batch)
    return float((measured - problem.flatten(problem.gradient(batch)[1])).abs().max())


def _against_duals(cell: str, *, cut: bool = False) -> float:
    """Return the distance, in units of the gradient's norm, from derivatives that dual numbers carry forward in time.

    Args:
        cell: rnn, gru or lstm.
        cut: whether the gradient is taken without any way back through the state.
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
    return float((gradient - forward).norm() / forward.norm())
