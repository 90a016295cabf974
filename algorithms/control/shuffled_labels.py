"""Backpropagation on shuffled labels: what a table shows of a learner that has nothing to learn."""

import torch
from torch import Tensor

from altprop import Batch, Capability, DirectionAlgorithm, Grads, Oracle
from altprop.testing import set_up, sgd, step_error, toy


class ShuffledLabels(DirectionAlgorithm):
    """The exact gradient, on training rows that have each other's labels by a permutation of the run's own seed.

    Inputs, label frequencies, batch order and cost are those of backpropagation; what is gone is that the labels
    belong to the inputs. So validation and test must end at chance. Where they do not, labels leak: through the
    split, the metric or the harness (Zhang et al. 2017 use the same labels to show what a network can memorise).

    Args:
        optimizer: how the gradient becomes an update.
    """

    requires = frozenset({Capability.GRADIENT, Capability.SUPERVISED})
    gradient_is_exact = True
    shuffles = True

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        return self.problem.gradient(batch)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        return (
            Oracle("a step of SGD = minus lr times the gradient on the labels given", _step_error, 1e-16),
            Oracle("not the gradient on the rows' own labels", lambda: _step_error(own=True), 1e-3, differs=True),
        )


def _step_error(lr: float = 0.1, *, own: bool = False) -> float:
    """Return the largest difference of a parameter from theta - lr dE/dtheta after a step on shifted labels."""
    problem, batch = toy()
    fed = Batch(batch.inputs, torch.roll(batch.targets, 1, 0), batch.index)
    expected = problem.flat() - lr * problem.flatten(problem.gradient(batch if own else fed)[1])
    return step_error(set_up(ShuffledLabels(sgd(lr)), problem), fed, expected)
