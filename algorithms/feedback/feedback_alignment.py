"""Feedback alignment: a backward pass in which fixed random matrices stand where backpropagation has W^T."""

import math
from typing import cast

from torch import Tensor

from altprop import (
    Batch,
    Block,
    Capability,
    DirectionAlgorithm,
    Grads,
    OptimizerFactory,
    Oracle,
    Problem,
    check_number,
)
from altprop.algorithms.feedback.dfa import DirectFeedbackAlignment
from altprop.testing import against_backprop, relative_error, set_up, sgd, toy


class FeedbackAlignment(DirectionAlgorithm):
    """Send the error back layer by layer, through a fixed random B_l of W_l's shape instead of W_l.

    With a_l the pre-activation, h_l = f(a_l) and the error e = dL/da_L, (B, C), at the output,

        delta_L = e,    delta_l = (delta_(l+1) B_(l+1)) * f'(a_l),    dW_l = delta_l^T h_(l-1).

    B_l is drawn once (`feedback`) and never learned; the forward weights come to agree with it. Convolutions send
    delta through the transposed convolution with B_l; normalisation and dropout are part of f; noise on the weights
    acts on B_l with the same mask. No W^T is used.

    `scale` is the standard deviation of the signal that a B_l passes on relative to the one it gets: entries of B_l
    have standard deviation scale / sqrt(fan_out), fan_out = W_l's outputs (times the kernel's positions). It decides
    results under SGD and nearly drops out under Adam.

    Args:
        optimizer: the optimizer axis; directions are no gradients, so closures are refused.
        scale: see above.

    Raises:
        AltpropError: for a scale that is not positive.

    Paper: Lillicrap, Cownden, Tweed and Akerman, Random synaptic feedback weights support error backpropagation for
    deep learning, Nature Communications 2016. They draw B from a uniform distribution; here it is normal.
    """

    requires = frozenset({Capability.GRADIENT, Capability.LAYERED, Capability.CHAIN})
    state = ("feedback",)

    def __init__(self, optimizer: OptimizerFactory, scale: float = 1.0) -> None:
        super().__init__(optimizer)
        self.scale = check_number(scale, "algorithm.scale", above=0.0)
        self.feedback: list[Tensor]

    def _prepare(self, problem: Problem) -> None:
        self.feedback = []
        for block in chain(problem)[1:]:
            shape = block.weight.shape
            self.feedback.append(entry_deviation(block, self.scale) * problem.random.normal(*shape))

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        problem = self.problem
        walk = problem.walk(batch)
        loss, error = problem.output_loss(walk.outputs, batch), problem.output_gradient(walk.outputs, batch)
        return loss, walk.back(error, self.feedback).parameters

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that with B = W the rule is backpropagation; with one hidden layer it is direct feedback alignment."""
        return (
            Oracle("B = W is backprop", lambda: _against_backprop(True), 1e-15),
            Oracle("one hidden layer is dfa with the same B", lambda: _against_dfa((5, 7, 3)), 1e-15),
            Oracle("not random B is backprop", lambda: _against_backprop(False), 0.05, differs=True),
            Oracle(
                "not two hidden layers are dfa with the same last B",
                lambda: _against_dfa((5, 7, 6, 3)),
                0.05,
                differs=True,
            ),
        )


def chain(problem: Problem) -> list[Block]:
    """Return the model's blocks in order."""
    return [cast("Block", block) for block in problem.layered.blocks]


def entry_deviation(block: Block, scale: float) -> float:
    """Return the root mean square of feedback weights, shaped like W, that pass on `scale` times the signal they get.

    It is scale / sqrt(fan_out), fan_out = W's outputs (times the kernel's positions).
    """
    shape = block.weight.shape
    fan_out = shape.numel() / shape[1]
    return scale / math.sqrt(fan_out)


def _ready(sizes: tuple[int, ...]) -> tuple[FeedbackAlignment, Batch]:
    problem, batch = toy(sizes)
    return set_up(FeedbackAlignment(sgd()), problem), batch


def _against_backprop(matched: bool) -> float:
    rule, batch = _ready((5, 7, 6, 3))
    if matched:
        rule.feedback = [block.weight.detach().clone() for block in chain(rule.problem)[1:]]
    return against_backprop(rule, batch)


def _against_dfa(sizes: tuple[int, ...]) -> float:
    rule, batch = _ready(sizes)
    direct = set_up(DirectFeedbackAlignment(sgd()), rule.problem)
    direct.feedback[-1] = rule.feedback[-1]
    return relative_error(rule.direction(batch)[1], direct.direction(batch)[1])
