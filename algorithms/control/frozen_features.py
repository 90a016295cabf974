"""Random features: the hidden blocks stay as they were initialised, the last block alone learns."""

import torch
from torch import Tensor, nn

from altprop import Batch, Capability, DirectionAlgorithm, Grads, Oracle, Problem
from altprop.testing import set_up, sgd, toy


class FrozenFeatures(DirectionAlgorithm):
    """Train the last block by its exact gradient on fixed random features; nothing flows back below it.

    A credit rule that does not beat this has taught its hidden layers nothing (Huang, Zhu and Siew 2006 sell such
    networks as extreme learning machines).

    Args:
        optimizer: how the last block's gradient becomes an update.
    """

    requires = frozenset({Capability.LAYERED})

    def _trained(self, problem: Problem) -> nn.Module:
        return problem.layered.blocks[-1]

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        # To optimizers that evaluate the objective again this gradient is a part, not the whole.
        problem = self.problem
        *hidden, last = problem.layered.blocks
        x = batch.inputs
        with torch.no_grad():
            for block in hidden:
                with problem.ledger.primitive("block_forward", len(batch.index)):
                    x = block(x)
        outputs, vjp = problem.pull(last, x)
        pulled = vjp(problem.output_gradient(outputs, batch), inputs=False)
        return problem.output_loss(outputs, batch), pulled.parameters

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        return (
            Oracle("last block's gradient = backprop's", _gradient_error, 1e-15),
            Oracle("hidden blocks do not change", lambda: _change(hidden=True), 0.0),
            Oracle("not the last block either", lambda: _change(hidden=False), 0.01, differs=True),
        )


def _rule() -> tuple[FrozenFeatures, Problem, Batch]:
    problem, batch = toy()
    return set_up(FrozenFeatures(sgd()), problem), problem, batch


def _gradient_error() -> float:
    """Return the worst absolute difference from backpropagation in the last block."""
    rule, problem, batch = _rule()
    _, ours = rule.direction(batch)
    _, theirs = problem.gradient(batch)
    prefix = f"blocks.{len(problem.layered.blocks) - 1}."
    return max(float((ours[name] - theirs[prefix + name]).abs().max()) for name in ours)


def _change(hidden: bool, steps: int = 5) -> float:
    """Return the largest change of a weight in the hidden blocks, or in the last one."""
    rule, problem, batch = _rule()
    before = {name: p.detach().clone() for name, p in problem.params.items()}
    for _ in range(steps):
        rule.step(batch)
    last = f"blocks.{len(problem.layered.blocks) - 1}."
    chosen = [name for name in before if name.startswith(last) != hidden]
    return max(float((problem.params[name].detach() - before[name]).abs().max()) for name in chosen)
