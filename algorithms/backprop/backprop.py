"""Backpropagation by automatic differentiation: the reference learner."""

from collections.abc import Callable

import torch
from torch import Tensor

from altprop.algorithm import Algorithm
from altprop.capabilities import Capability
from altprop.optim import OptimizerFactory
from altprop.problem import Problem
from altprop.task import Batch
from altprop.testing import toy


class Backprop(Algorithm):
    """The exact gradient of the objective on a batch, handed to the optimizer axis.

    Rumelhart, Hinton and Williams (1986), by reverse-mode differentiation. Batch, mini-batch and stochastic learning
    are a matter of `task.batch_size`. Optimizers that evaluate the objective again (L-BFGS) do so on the same batch
    under the same noise.

    Args:
        optimizer: how the gradient becomes an update.

    >>> from altprop.optim import OptimizerFactory
    >>> problem, batch = toy()
    >>> rule = Backprop(OptimizerFactory("torch.optim.SGD", lr=0.5))
    >>> rule.setup(problem)
    >>> losses = [float(rule.step(batch).loss) for _ in range(20)]
    >>> losses[-1] < 0.5 * losses[0]
    True
    """

    requires = frozenset({Capability.GRADIENT})
    distributed = True
    stacks = True
    state = ("updater",)

    def __init__(self, optimizer: OptimizerFactory) -> None:
        self._optimizer = optimizer

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self._optimizer)

    def _step(self, batch: Batch | None) -> Tensor:
        assert batch is not None
        if self.updater.wants_closure:
            return self._search(batch)
        loss, grads = self.problem.gradient(batch, create_graph=self.updater.wants_graph)
        self.updater.apply(grads)
        return loss

    def _search(self, batch: Batch) -> Tensor:
        """Step an optimizer that evaluates the objective several times: one function throughout."""
        problem = self.problem
        noisy = getattr(problem.model, "noise", None) is not None
        whole = len(batch.index) >= problem.train_size
        with problem.same_noise():
            loss, grads = problem.gradient(batch)
            self.updater.apply(
                grads,
                evaluate=lambda graph: problem.gradient(batch, create_graph=graph),
                loss=loss,
                fixed=whole and not noisy,
            )
        return loss

    @classmethod
    def oracles(cls) -> dict[str, Callable[[], tuple[float, float]]]:
        return {
            "a step of SGD = minus lr times the gradient": lambda: (_against_hand(), 1e-16),
            "gradient = central differences at 1e-5": lambda: (_against_differences(), 1e-8),
            "mean over all mini-batches = full gradient": lambda: (_against_mini_batches(exhaustive=True), 1e-15),
            "not one mini-batch = full gradient": lambda: (_against_mini_batches(exhaustive=False), 1e-2),
        }


def _against_hand(lr: float = 0.1) -> float:
    """Worst absolute difference of a parameter from theta - lr dE/dtheta after one step."""
    problem, batch = toy()
    rule = Backprop(OptimizerFactory("torch.optim.SGD", lr=lr))
    rule.setup(problem)
    expected = problem.flat() - lr * problem.flatten(problem.gradient(batch)[1])
    rule.step(batch)
    return float((problem.flat() - expected).abs().max())


def _against_differences(step: float = 1e-5) -> float:
    """Worst absolute error of the gradient against central differences of the objective."""
    problem, batch = toy()
    gradient = problem.flatten(problem.gradient(batch)[1])
    start, measured = problem.flat(), torch.empty_like(gradient)
    for i in range(start.numel()):
        shift = torch.zeros_like(start)
        shift[i] = step
        values = []
        for sign in (1.0, -1.0):
            problem.assign(start + sign * shift)
            values.append(problem.objective(batch))
        measured[i] = (values[0] - values[1]) / (2 * step)
    return float((measured - gradient).abs().max())


def _against_mini_batches(exhaustive: bool, rows: int = 6, size: int = 2) -> float:
    """Worst absolute difference between the mean gradient over mini-batches and the gradient over all rows."""
    problem, batch = toy(rows=rows)
    full = problem.flatten(problem.gradient(batch)[1])
    subsets = torch.combinations(batch.index, size)
    total = torch.zeros_like(full)
    subsets = subsets if exhaustive else subsets[:1]
    for subset in subsets:
        part = Batch(batch.inputs[subset], batch.targets[subset], subset)
        total += problem.flatten(problem.gradient(part)[1])
    return float((total / len(subsets) - full).abs().max())
