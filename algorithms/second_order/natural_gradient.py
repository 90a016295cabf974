"""The natural gradient with the exact Fisher matrix, for small nets."""

from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from altprop import Algorithm, Batch, Capability, Oracle, Problem, StepResult, check_number
from altprop.algorithms.second_order import dense, kronecker
from altprop.testing import set_up, toy


class NaturalGradient(Algorithm):
    """Move by -lr nu (F + damping I)^-1 g, with F, (D, D), the Fisher matrix of the model's own distribution.

    g, (D,), is the gradient on the batch, and F = E[grad log p(y|x) grad log p(y|x)^T] over the batch's inputs x and
    the targets y that the model itself expects there: not the targets of the data, with which it would be the empirical
    Fisher, which is no metric of the model. It is made exactly, without drawing, as the Gauss-Newton matrix
    (`dense.gauss_newton`). nu <= 1 keeps what a step changes of the distribution below `trust` (`kronecker.clipped`). A
    system that cannot be solved, or whose solution is not finite, leaves the weights; `clip` is 0 then.

    Args:
        lr: learning rate, above 0.
        damping: on the scale of the loss's curvature, above 0.
        trust: nats, above 0.
        largest: numbers that F may hold; a problem with more is refused.

    Raises:
        AltpropError: for a number out of range.

    Paper: Amari 1998, doi:10.1162/089976698300017746; Martens 2020, arXiv:1412.1193; Kunstner, Balles and Hennig 2019,
    arXiv:1905.12558, on the empirical Fisher.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.GRADIENT, Capability.CURVATURE, Capability.SUPERVISED}
    )

    def __init__(self, lr: float = 0.3, damping: float = 0.01, trust: float = 0.01, largest: float = 4e6) -> None:
        self.lr = check_number(lr, "algorithm.lr", above=0.0)
        self.damping = check_number(damping, "algorithm.damping", above=0.0)
        self.trust = check_number(trust, "algorithm.trust", above=0.0)
        self.largest = check_number(largest, "algorithm.largest", above=0.0)

    def _setup(self, problem: Problem) -> None:
        problem.refuse_batch_norm("the Jacobians of natural_gradient")
        dense.refuse_large(problem, "natural_gradient", self.largest, "algorithm=kfac, which needs a pair a layer")

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        with problem.same_noise():
            loss, grads = problem.gradient(batch)
            gradient, fisher = problem.flatten(grads), dense.gauss_newton(problem, batch)
        with torch.no_grad(), problem.ledger.primitive("update", 0):
            direction = dense.solved(fisher, self.damping, gradient)
            clip = kronecker.clipped([-direction], [gradient], self.lr, self.trust)
        problem.assign(problem.flat() + self.lr * clip * direction)
        return StepResult(loss, {"clip": clip})

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check F against the sum over all targets, and a step against its solution."""
        return (
            Oracle("F is the mean over all classes of the model's own", partial(_fisher_error, False), 1e-12),
            Oracle("not over those of the data: the empirical Fisher", partial(_fisher_error, True), 0.1, differs=True),
            Oracle("another parametrisation takes the same step", partial(_reparametrised, True), 1e-10),
            Oracle("the gradient does not", partial(_reparametrised, False), 1e-2, differs=True),
        )


def _fisher_error(empirical: bool) -> float:
    """Return the relative distance of F from sum_y p(y) g_y g_y^T, with g_y the gradients of single rows."""
    problem, batch = toy((4, 5, 3))
    p = problem.outputs(batch).detach().softmax(1)
    exact = torch.zeros(problem.flat().numel(), problem.flat().numel(), dtype=problem.dtype, device="cpu")
    for label in range(3):
        drawn = batch if empirical else replace(batch, targets=torch.full_like(batch.targets, label))
        rows = problem.per_example_gradients(drawn)
        each = torch.cat([rows[name].flatten(1) for name in problem.params], 1)
        weight = torch.full_like(p[:, 0], 1 / 3) if empirical else p[:, label]
        exact += (weight[:, None] * each).T @ each / len(each)
    return float((dense.gauss_newton(problem, batch) - exact).norm() / exact.norm())


def _reparametrised(natural: bool) -> float:
    """Return how far a step of a linear softmax differs under inputs that are scaled, which scale its weights.

    With inputs x' = A x and weights W' = W A^-1 the model is the same, and so is its natural gradient step; biases are
    common to both.
    """
    moved = []
    scale = torch.tensor([1.0, 4.0, 0.5, 3.0], dtype=torch.float64, device="cpu")
    for factor in (torch.ones_like(scale), scale):
        problem, batch = toy((4, 3), rows=40)
        weight = problem.params["blocks.0.weight"]
        with torch.no_grad():
            weight.div_(factor)
        batch = replace(batch, inputs=batch.inputs * factor)
        before = problem.outputs(batch).detach()
        if natural:
            rule = set_up(NaturalGradient(lr=1.0, damping=1e-12, trust=1e9), problem)
            rule.step(batch)
        else:
            problem.assign(problem.flat() - problem.flatten(problem.gradient(batch)[1]))
        moved.append(problem.outputs(batch).detach() - before)
    return float((centred(moved[0]) - centred(moved[1])).norm() / centred(moved[0]).norm())


def centred(outputs: Tensor) -> Tensor:
    """Return outputs without what softmax does not see."""
    return outputs - outputs.mean(1, keepdim=True)
