"""Random features: the hidden blocks stay as they were initialised, the last block alone learns."""

from collections.abc import Callable

import torch
from torch import Tensor

from altprop.algorithm import Algorithm
from altprop.capabilities import Capability
from altprop.optim import OptimizerFactory
from altprop.problem import Grads, Problem
from altprop.task import Batch
from altprop.testing import toy


class FrozenFeatures(Algorithm):
    """Train the last block by its exact gradient on fixed random features; nothing flows back below it.

    A credit rule that does not beat this has taught its hidden layers nothing (Huang, Zhu and Siew 2006 sell such
    networks as extreme learning machines).

    Args:
        optimizer: how the last block's gradient becomes an update.
    """

    requires = frozenset({Capability.LAYERED})
    state = ("updater",)

    def __init__(self, optimizer: OptimizerFactory) -> None:
        self._optimizer = optimizer

    def _setup(self, problem: Problem) -> None:
        # To optimizers that evaluate the objective again its gradient is a part, not the whole.
        self.updater = problem.updater(self._optimizer, problem.layered.blocks[-1], direction="other")

    def _step(self, batch: Batch | None) -> Tensor:
        assert batch is not None
        loss, direction = self.direction(batch)
        self.updater.apply(direction)
        return loss

    def direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        """Return (objective, gradient by the last block's own parameter names)."""
        problem = self.problem
        *hidden, last = problem.layered.blocks
        with problem.same_noise():
            x = batch.inputs
            with torch.no_grad():
                for block in hidden:
                    with problem.ledger.primitive("block_forward", len(batch.index)):
                        x = block(x)
            outputs, vjp = problem.pull(last, x)
            pulled = vjp(problem.output_gradient(outputs, batch), inputs=False)
            loss, penalty = problem.output_loss(outputs, batch), problem.penalty()
        return loss if penalty is None else loss + penalty[0], pulled.parameters

    @classmethod
    def oracles(cls) -> dict[str, Callable[[], tuple[float, float]]]:
        return {
            "last block's gradient = backprop's": lambda: (_gradient_error(), 1e-15),
            "hidden blocks do not change": lambda: (_change(hidden=True), 0.0),
            "not the last block either": lambda: (_change(hidden=False), 0.01),
        }


def _rule() -> tuple[FrozenFeatures, Problem, Batch]:
    problem, batch = toy()
    rule = FrozenFeatures(OptimizerFactory("torch.optim.SGD", lr=0.1))
    rule.setup(problem)
    return rule, problem, batch


def _gradient_error() -> float:
    """Worst absolute difference from backpropagation in the last block."""
    rule, problem, batch = _rule()
    _, ours = rule.direction(batch)
    _, theirs = problem.gradient(batch)
    prefix = f"blocks.{len(problem.layered.blocks) - 1}."
    return max(float((ours[name] - theirs[prefix + name]).abs().max()) for name in ours)


def _change(hidden: bool, steps: int = 5) -> float:
    """Largest change of a weight in the hidden blocks, or in the last one."""
    rule, problem, batch = _rule()
    before = {name: p.detach().clone() for name, p in problem.params.items()}
    for _ in range(steps):
        rule.step(batch)
    last = f"blocks.{len(problem.layered.blocks) - 1}."
    chosen = [name for name in before if name.startswith(last) != hidden]
    return max(float((problem.params[name].detach() - before[name]).abs().max()) for name in chosen)
