"""Direct feedback alignment: the output error reaches every layer at once, through fixed random matrices."""

import math

import torch
from torch import Tensor

from altprop import (
    Batch,
    Capability,
    DirectionAlgorithm,
    Grads,
    OptimizerFactory,
    Oracle,
    Problem,
    check_name,
    check_number,
)
from altprop.testing import against_backprop, set_up, sgd, toy

DISTRIBUTIONS = ("normal", "uniform")


class DirectFeedbackAlignment(DirectionAlgorithm):
    """Replace the backpropagated signal of every hidden layer by a fixed random projection of the output error.

    With e = dL/da_L, (B, C), the error at the output (`problem.output_gradient`), hidden layer l learns from

        delta_l = (e B_l) * f'(a_l),    dW_l = delta_l^T h_(l-1),    db_l = sum over rows of delta_l,

    where a_l is the pre-activation (`z` of a block), h_l = f(a_l) its output and B_l, (C, *shape of h_l), is drawn once
    (`feedback`) and never learned. The output layer takes e itself, as in backpropagation. Convolutions get a B_l onto
    their whole feature map; normalisation and dropout are part of f. No W^T is used and no graph spans two blocks.

    The scale of B decides results under SGD; under Adam and its kin, which divide each parameter's step by its own
    size, it nearly drops out. `scale` is the standard deviation of e B_l relative to e: the entries of B have standard
    deviation scale / sqrt(C), so that scale = 1 keeps the root mean square of the error from output to every layer,
    whatever the widths.

    Args:
        optimizer: the optimizer axis; directions are no gradients, so closures are refused.
        scale: root mean square of e B_l over that of e, for an error of independent elements.
        distribution: normal, or uniform on the interval of that standard deviation.

    Raises:
        AltpropError: for a scale that is not positive or an unknown distribution.

    Paper: Nokland, Direct Feedback Alignment Provides Learning in Deep Neural Networks, NeurIPS 2016. He writes column
    vectors, B_l e; here rows are examples.
    """

    requires = frozenset({Capability.GRADIENT, Capability.LAYERED, Capability.CHAIN})
    state = ("feedback",)

    def __init__(self, optimizer: OptimizerFactory, scale: float = 1.0, distribution: str = "normal") -> None:
        super().__init__(optimizer)
        self.scale = check_number(scale, "algorithm.scale", above=0.0)
        self.distribution = check_name(distribution, "algorithm.distribution", DISTRIBUTIONS)
        self.feedback: list[Tensor]

    def _prepare(self, problem: Problem) -> None:
        deviation = self.scale / math.sqrt(problem.spec.outputs)
        self.feedback = []
        for shape in block_shapes(problem)[:-1]:
            if self.distribution == "normal":
                draw = problem.random.normal(problem.spec.outputs, *shape)
            else:
                draw = problem.random.uniform(problem.spec.outputs, *shape, low=-math.sqrt(3), high=math.sqrt(3))
            self.feedback.append(deviation * draw)

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        problem = self.problem
        walk = problem.walk(batch)
        loss, error = problem.output_loss(walk.outputs, batch), problem.output_gradient(walk.outputs, batch)
        signals = [self._projected(error, matrix) for matrix in self.feedback]
        return loss, walk.pull([*signals, error]).parameters

    def _projected(self, error: Tensor, matrix: Tensor) -> Tensor:
        """Return e B, the signal at the output of a hidden layer."""
        with self.problem.ledger.primitive("block_backward", 0, 0):
            return (error @ matrix.flatten(1)).reshape(-1, *matrix.shape[1:])

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that the rule is backpropagation where the feedback is what that would send, and only there."""
        return (
            Oracle(
                "linear net with B = W_L ... W_(l+1) is backprop", lambda: _against_backprop("identity", True), 1e-15
            ),
            Oracle(
                "one hidden layer with B = W_2 is backprop", lambda: _against_backprop("tanh", True, (5, 7, 3)), 1e-15
            ),
            Oracle(
                "not tanh net with B = W_L ... W_(l+1) is backprop",
                lambda: _against_backprop("tanh", True),
                0.05,
                differs=True,
            ),
            Oracle("not random B is backprop", lambda: _against_backprop("identity", False), 0.05, differs=True),
        )


def block_shapes(problem: Problem) -> list[tuple[int, ...]]:
    """Return the shape of each block's output for one example."""
    shapes = []
    with problem.evaluating(), torch.no_grad():
        x = torch.zeros(1, *problem.spec.input_shape, dtype=problem.dtype, device=problem.device)
        for block in problem.layered.blocks:
            x = block(x)
            shapes.append(tuple(x.shape[1:]))
    return shapes


def chained_weights(problem: Problem) -> list[Tensor]:
    """Return W_L ... W_(l+1), (C, n_l), for each hidden layer of a dense net: what backprop sends where f' = 1."""
    weights = [p.detach().clone() for name, p in problem.params.items() if name.endswith(".weight")]
    chained = [weights[-1]]
    for weight in reversed(weights[1:-1]):
        chained.insert(0, chained[0] @ weight)
    return chained


def _against_backprop(activation: str, matched: bool, sizes: tuple[int, ...] = (5, 7, 6, 3)) -> float:
    problem, batch = toy(sizes, activation=activation)
    rule = set_up(DirectFeedbackAlignment(sgd()), problem)
    if matched:
        rule.feedback = chained_weights(problem)
    return against_backprop(rule, batch)
