"""Backpropagation by automatic differentiation: the reference learner."""

import torch
from torch import Tensor

from altprop import Batch, Capability, DirectionAlgorithm, Grads, Oracle
from altprop.testing import central_differences, set_up, sgd, step_error, toy


class Backprop(DirectionAlgorithm):
    """The exact gradient of the objective on a batch, handed to the optimizer axis.

    Rumelhart, Hinton and Williams (1986), by reverse-mode differentiation. Batch, mini-batch and stochastic learning
    are a matter of `task.batch_size`. Optimizers that evaluate the objective again (L-BFGS) do so on the same batch
    under the same noise.

    Args:
        optimizer: how the gradient becomes an update.

    >>> problem, batch = toy()
    >>> rule = Backprop(sgd(0.5))
    >>> rule.setup(problem)
    >>> losses = [float(rule.step(batch).loss) for _ in range(20)]
    >>> losses[-1] < 0.5 * losses[0]
    True
    """

    requires = frozenset({Capability.GRADIENT})
    gradient_is_exact = True
    distributed = True

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        return self.problem.gradient(batch)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        return (
            Oracle("a step of SGD = minus lr times the gradient", _against_hand, 1e-16),
            Oracle("gradient = central differences at 1e-5", _against_differences, 1e-8),
            Oracle("mean over all mini-batches = full gradient", lambda: _against_mini_batches(exhaustive=True), 1e-15),
            Oracle(
                "not one mini-batch = full gradient",
                lambda: _against_mini_batches(exhaustive=False),
                1e-2,
                differs=True,
            ),
        )


def _against_hand(lr: float = 0.1) -> float:
    """Return the largest absolute difference of a parameter from theta - lr dE/dtheta after one step."""
    problem, batch = toy()
    expected = problem.flat() - lr * problem.flatten(problem.gradient(batch)[1])
    return step_error(set_up(Backprop(sgd(lr)), problem), batch, expected)


def _against_differences() -> float:
    """Return the largest absolute error of the gradient against central differences of the objective."""
    problem, batch = toy()
    measured = central_differences(problem, batch)
    return float((measured - problem.flatten(problem.gradient(batch)[1])).abs().max())


def _against_mini_batches(exhaustive: bool, rows: int = 6, size: int = 2) -> float:
    """Return the largest difference between the mean gradient over mini-batches and that over all rows."""
    problem, batch = toy(rows=rows)
    full = problem.flatten(problem.gradient(batch)[1])
    subsets = torch.combinations(batch.index, size)
    total = torch.zeros_like(full)
    subsets = subsets if exhaustive else subsets[:1]
    for subset in subsets:
        part = Batch(batch.inputs[subset], batch.targets[subset], subset)
        total += problem.flatten(problem.gradient(part)[1])
    return float((total / len(subsets) - full).abs().max())
