"""Whether the mean of a rule's random directions is the gradient, by many rows that draw by themselves."""

from collections.abc import Callable

import torch
from torch import Tensor

from altprop import Batch, Grads, Problem
from altprop.algorithms.recurrent.online import OnlineLearner
from altprop.testing import monte_carlo, set_up, toy_sequence


def copies_of_one(cell: str, copies: int) -> tuple[Problem, Batch, Batch]:
    """Return a problem, one sequence as a batch, and so many rows of it, whose last time of four is masked."""
    problem, one = toy_sequence(cell, steps=4, rows=1, width=3, lengths=[3], per_step=True)
    assert one.mask is not None
    many = Batch(
        one.inputs.expand(-1, copies, -1),
        one.targets.expand(-1, copies, -1),
        torch.arange(copies, device="cpu"),
        one.mask.expand(-1, copies),
    )
    return problem, one, many


def flat_cell(problem: Problem, grads: Grads) -> Tensor:
    """Return what belongs to the cell's parameters, in their order, as one vector."""
    return torch.cat([grads[name].flatten() for name in problem.params if name.startswith("cell.")])


def score(make: Callable[[], OnlineLearner], cell: str, sign: float | None = 1.0, copies: int = 500) -> float:
    """Return the largest abs z-score of the mean direction of the cell's parameters; see `monte_carlo`.

    The rows of a batch draw by themselves: 40 batches of 500 copies of one sequence are 20,000 draws.

    Args:
        make: a new learner.
        cell: of the network.
        sign: of the gradient that is claimed; None claims the gradient without any way back through the state.
        copies: rows.
    """
    problem, one, many = copies_of_one(cell, copies)
    rule = set_up(make(), problem)

    def cut() -> Tensor:
        h, states = problem.model.initial_state(1), []
        for x in one.inputs:
            h = problem.model.cell(x, h.detach())
            states.append(h)
        return problem.output_loss(problem.model.readout(torch.stack(states)), one)

    expected = flat_cell(problem, problem.gradient(one, loss=cut if sign is None else None)[1])
    claimed = sign * expected if sign is not None else expected
    return monte_carlo(lambda: flat_cell(problem, rule.direction(many)[1]), claimed, 40)
