"""Kolen-Pollack learning: forward and feedback weights get the same changes and forget, until they are the same."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from altprop import Batch, Capability, DirectionAlgorithm, Grads, OptimizerFactory, Oracle, Problem, check_number
from altprop.algorithms.feedback.feedback_alignment import chain, entry_deviation
from altprop.testing import against_backprop, set_up, sgd, toy


class KolenPollack(DirectionAlgorithm):
    """Send the error back through weights B_l that take every step of W_l and decay with it.

    With a_l the pre-activation, h_l = f(a_l) and the error e = dL/da_L, (B, C), at the output,

        delta_L = e,    delta_l = (delta_(l+1) B_(l+1)) * f'(a_l),    dW_l = delta_l^T h_(l-1),
        W_l <- (1 - decay) W_l + U(dW_l),    B_l <- (1 - decay) B_l + U(dW_l),

    with U(dW_l) the change that the optimizer makes of dW_l; under SGD it is -lr delta_l^T h_(l-1), which the synapse
    of B_l, between the same two cells, can compute for itself. So after t steps

        W_l - B_l = (1 - decay)^t (W_l - B_l at the start),

    whatever the error was and whatever the optimizer. `decay` is a share a step; the first block has no B and does not
    decay. B_l (`feedback`) starts as that of `feedback_alignment`. Convolutions send delta through the transposed
    convolution with B_l; normalisation and dropout are part of f; noise on the weights acts on B_l with the same mask.
    No W^T is used.

    Args:
        optimizer: the optimizer axis; directions are no gradients, so closures are refused. Its own weight decay, if
            any, is a part of U.
        decay: of forward and feedback weights, a share a step; 0 keeps their difference for ever.
        scale: of B_l at the start, as in `feedback_alignment`.

    Raises:
        AltpropError: for a decay outside 0 to 1 or a scale that is not positive.

    Paper: Kolen and Pollack, Backpropagation without weight transport, ICNN 1994; as a network by Akrout, Wilson,
    Humphreys, Lillicrap and Tweed, Deep Learning without Weight Transport, NeurIPS 2019, equations 16 to 18. Their code
    for small nets decays the first layer too.
    """

    requires = frozenset({Capability.GRADIENT, Capability.LAYERED, Capability.CHAIN})
    state = ("feedback",)
    exempt: ClassVar[Mapping[str, str]] = {
        "changes_nothing_without_an_error": "weights forget in every step, with an error or without"
    }

    def __init__(self, optimizer: OptimizerFactory, decay: float = 0.001, scale: float = 1.0) -> None:
        super().__init__(optimizer)
        self.decay = check_number(decay, "algorithm.decay", 0.0, 1.0)
        self.scale = check_number(scale, "algorithm.scale", above=0.0)
        self.feedback: list[Tensor]

    def _prepare(self, problem: Problem) -> None:
        blocks = chain(problem)[1:]
        self.feedback = [entry_deviation(b, self.scale) * problem.random.normal(*b.weight.shape) for b in blocks]

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        problem = self.problem
        walk = problem.walk(batch)
        loss, error = problem.output_loss(walk.outputs, batch), problem.output_gradient(walk.outputs, batch)
        return loss, walk.back(error, self.feedback).parameters

    def _update(self, direction: Grads) -> None:
        keep, weights = 1 - self.decay, [block.weight for block in chain(self.problem)[1:]]
        with torch.no_grad():
            for weight in weights:
                weight.mul_(keep)
        before = [weight.detach().clone() for weight in weights]
        self.updater.apply(direction)
        changes = [weight.detach() - old for weight, old in zip(weights, before, strict=True)]
        self.feedback = [keep * matrix + change for matrix, change in zip(self.feedback, changes, strict=True)]

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check how the difference of the weights decays, and that the rule is backpropagation where it is 0."""
        adam = OptimizerFactory("torch.optim.Adam", lr=0.01)
        return (
            Oracle("W - B decays by 1 - decay in every step", lambda: _off_the_law(sgd(), 0.05), 1e-13),
            Oracle("under Adam too", lambda: _off_the_law(adam, 0.05), 1e-13),
            Oracle("not by 1 - 2 decay", lambda: _off_the_law(sgd(), 0.1), 0.05, differs=True),
            Oracle("B = W is backprop", lambda: _against_backprop(matched=True, steps=0), 1e-15),
            Oracle("and stays it for 20 steps", lambda: _against_backprop(matched=True, steps=20), 1e-13),
            Oracle("not random B", lambda: _against_backprop(matched=False, steps=0), 0.05, differs=True),
            Oracle("random B after 200 steps is backprop", lambda: _against_backprop(matched=False, steps=200), 1e-3),
        )


def _off_the_law(optimizer: OptimizerFactory, claimed: float, steps: int = 20) -> float:
    """Return how far W - B is from (1 - claimed)^t of what it was, relative to that, at worst over 20 steps."""
    problem, batch = toy()
    rule = set_up(KolenPollack(optimizer, decay=0.05), problem)
    start, worst = _gap(rule), 0.0
    for t in range(1, steps + 1):
        rule.step(batch)
        worst = max(worst, float((_gap(rule) - (1 - claimed) ** t * start).norm() / _gap(rule).norm()))
    return worst


def _gap(rule: KolenPollack) -> Tensor:
    """Return W - B of all blocks but the first, flat."""
    pairs = zip(chain(rule.problem)[1:], rule.feedback, strict=True)
    return torch.cat([(block.weight.detach() - matrix).flatten() for block, matrix in pairs])


def _against_backprop(matched: bool, steps: int) -> float:
    problem, batch = toy()
    rule = set_up(KolenPollack(sgd(), decay=0.05), problem)
    if matched:
        rule.feedback = [block.weight.detach().clone() for block in chain(problem)[1:]]
    for _ in range(steps):
        rule.step(batch)
    return against_backprop(rule, batch)
