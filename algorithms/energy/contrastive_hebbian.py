"""Contrastive Hebbian learning: weights learn from how a settled network differs with and without its targets."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from altprop import (
    Batch,
    Block,
    Capability,
    ChainWalk,
    DirectionAlgorithm,
    Grads,
    OptimizerFactory,
    Oracle,
    Problem,
    check_number,
    check_whole,
)
from altprop.algorithms.energy.settling import hidden_blocks, settle
from altprop.testing import relative_error, set_up, sgd, toy


class ContrastiveHebbian(DirectionAlgorithm):
    r"""Settle freely, settle again with the outputs held at the targets, and learn from the two Hebbian products.

    States s_1 .. s_L of the layers, (B, n_l), s_0 the inputs, are driven from below by the weights W_l of the model and
    from above by their transposes, made weaker by the factor gamma:

        s_l <- (1 - rate) s_l + rate f(W_l s_(l-1) + b_l + gamma W_(l+1)^T s_(l+1)),    l < L.

    s_L is the prediction of the last block, the probabilities of classes or else its outputs, while states settle
    freely, for `free_steps` from those of a forward pass; from there it is held at the target for `clamped_steps`. The
    direction is the mean over rows of

        gamma^(l - L) (s_l s_(l-1)^T, free  -  s_l s_(l-1)^T, held).

    For small gamma it is the gradient of the loss, with an error of order gamma: what comes from above is so weak that
    a difference of two states is a derivative, and no activation is differentiated. Where rounding or the lack of
    settling is no longer small beside gamma^(L - l), the first layers learn from it. Predictions are those of the free
    equilibrium.

    The target of an output is its prediction less the gradient of the loss there: the one-hot target under
    cross-entropy, the target itself under half a squared error. Normalisation and noise are refused.

    Args:
        optimizer: the optimizer axis; directions are no gradients, so closures are refused.
        gamma: strength of what comes from above, above 0 and at most 1.
        free_steps, clamped_steps: of settling, at least 1.
        rate: of settling, above 0 and at most 1.

    Raises:
        AltpropError: for a number out of range.

    Paper: Xie and Seung 2003, Equivalence of backpropagation and contrastive Hebbian learning in a layered network,
    Neural Computation 15 (2). They hold the output units, which have the hidden ones' activation, at the targets of a
    squared error. With gamma = 1 it is contrastive Hebbian learning as Movellan 1991 has it, for a deterministic
    Boltzmann machine.
    """

    requires = frozenset({Capability.LAYERED, Capability.CHAIN})

    def __init__(
        self,
        optimizer: OptimizerFactory,
        gamma: float = 0.1,
        free_steps: int = 15,
        clamped_steps: int = 15,
        rate: float = 0.7,
    ) -> None:
        super().__init__(optimizer)
        self.gamma = check_number(gamma, "algorithm.gamma", above=0.0, high=1.0)
        self.free_steps = check_whole(free_steps, "algorithm.free_steps", 1)
        self.clamped_steps = check_whole(clamped_steps, "algorithm.clamped_steps", 1)
        self.rate = check_number(rate, "algorithm.rate", above=0.0, high=1.0)

    def _prepare(self, problem: Problem) -> None:
        self._hidden = hidden_blocks(problem, "contrastive Hebbian learning")

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        problem = self.problem
        free = self.free(problem.walk(batch))
        slope = problem.divisor(batch) * problem.output_gradient(free.outputs, batch)
        prediction = self._prediction(free)
        target = prediction - free.delta(len(free.states), slope)
        held = settle(free, self._hidden, self.clamped_steps, self.rate, lambda _: target, self.gamma)
        there, here = self.products(held, target), self.products(free, prediction)
        loss = problem.output_loss(free.outputs, batch)
        scale = 1 / problem.divisor(batch)
        return loss, {name: scale * (here[name] - value) for name, value in there.items()}

    def free(self, walk: ChainWalk) -> ChainWalk:
        """Return the walk at the free equilibrium, from a forward pass."""
        start = walk.at(walk.block_outputs[:-1])
        return settle(start, self._hidden, self.free_steps, self.rate, self._prediction, self.gamma)

    def products(self, walk: ChainWalk, top: Tensor) -> Grads:
        """Return gamma^(l - L) s_l s_(l-1)^T of every layer, summed over rows.

        Args:
            walk: at the states.
            top: s_L, (B, C).
        """
        last = len(walk.states)
        with torch.no_grad():
            scaled = [self.gamma ** (index - last) * state for index, state in enumerate(walk.states)]
        return walk.outer([*scaled, top])

    def _prediction(self, walk: ChainWalk) -> Tensor:
        probabilities = self.problem.loss.probabilities(walk.outputs)
        return walk.outputs if probabilities is None else probabilities

    def _predictor(self) -> Callable[[Tensor], Tensor]:
        return self._predict

    def _predict(self, inputs: Tensor) -> Tensor:
        """Return the outputs (B, C) at the free equilibrium."""
        return self.free(ChainWalk(self.problem, inputs)).outputs

    def _probe(self, batch: Batch) -> Mapping[str, Tensor | float]:
        """Return how far another step would move the free states, as a share of them."""
        free = self.free(self.problem.walk(batch))
        if not free.states:
            return {}
        more = settle(free, self._hidden, 1, self.rate, self._prediction, self.gamma)
        changes = torch.stack([(new - old).norm() for new, old in zip(more.states, free.states, strict=True)])
        return {"unsettled": changes.norm() / torch.stack([state.norm() for state in free.states]).norm()}

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check the limit of weak feedback, the law of its error, and what the strength and the clamping do."""
        return (
            *(
                Oracle(f"gamma = 0.0001: the gradient of the loss, {loss}", partial(_off, 1e-4, loss=loss), 1e-3)
                for loss in ("cross_entropy", "half_squared_error")
            ),
            Oracle("order of the error in gamma, less 1", lambda: abs(_order() - 1), 0.1),
            Oracle("not at gamma = 1", partial(_off, 1.0), 0.05, differs=True),
            Oracle("not where the held phase has not settled", partial(_off, 1e-4, clamped=1), 0.1, differs=True),
            Oracle("the free states rest", _moved_at_rest, 1e-12),
        )


def _ready(gamma: float, loss: str = "cross_entropy", clamped: int = 120) -> tuple[ContrastiveHebbian, Batch]:
    problem, batch = toy(loss=loss)
    return set_up(ContrastiveHebbian(sgd(), gamma, 120, clamped, 0.5), problem), batch


def _off(gamma: float, loss: str = "cross_entropy", clamped: int = 120) -> float:
    """Return the relative error of the direction against the gradient of the loss."""
    rule, batch = _ready(gamma, loss, clamped)
    return relative_error(rule.direction(batch)[1], rule.problem.gradient(batch)[1])


def _order() -> float:
    """Return the power of gamma with which the error falls over a factor of two."""
    return math.log2(_off(0.002) / _off(0.001))


def _moved_at_rest() -> float:
    """Return by how much a further step moves the free states, written out."""
    rule, batch = _ready(0.3)
    rule.problem.assign(0.3 * rule.problem.flat())
    walk = rule.free(rule.problem.walk(batch))
    states = [batch.inputs, *walk.states, walk.outputs.softmax(1)]
    moved = 0.0
    blocks = [cast("Block", block) for block in rule.problem.layered.blocks]
    for index, (block, upper) in enumerate(pairwise(blocks)):
        drive = block.transform(states[index]) + 0.3 * states[index + 2] @ upper.weight
        moved = max(moved, float((block.activation.function(drive) - states[index + 1]).detach().abs().max()))
    return moved
