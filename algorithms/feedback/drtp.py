"""Direct random target projection: hidden layers learn from the target alone, before the output is known."""

import torch
from torch import Tensor

from altprop import Batch, Capability, DirectionAlgorithm, Grads, OptimizerFactory, Oracle, Problem, check_number
from altprop.algorithms.feedback.dfa import DirectFeedbackAlignment, block_shapes
from altprop.algorithms.feedback.feedback_alignment import chain
from altprop.testing import against_backprop, relative_error, set_up, sgd, toy


class DirectRandomTargetProjection(DirectionAlgorithm):
    """Replace the output error of direct feedback alignment, in the hidden layers, by minus the one-hot target.

    With t, (B, C), the one-hot codes of the classes and N the number of labelled rows, hidden layer l learns from

        delta_l = -1/N (t B_l) * f'(a_l),    dW_l = delta_l^T h_(l-1),    db_l = sum over rows of delta_l,

    where a_l is the pre-activation, h_l = f(a_l) its output and B_l, (C, *shape of h_l), is drawn once (`feedback`) and
    never learned. The output layer takes the gradient of the loss. -t is the error p - t of a network that predicts
    nothing (p = 0), and has its sign for any p between 0 and 1; so no hidden layer waits for those above it. A row of
    B_l is all that an example needs: t B_l picks that of its class. Convolutions get a B_l onto their whole feature
    map; normalisation and dropout are part of f. No W^T is used and no graph spans two blocks.

    The signal does not shrink as the error does: hidden layers go on moving when all is learned, and their weights
    grow. So it wants a saturating activation, as in the paper, or a schedule of the learning rate.

    Args:
        optimizer: the optimizer axis; directions are no gradients, so closures are refused.
        scale: standard deviation of the entries of B, so that of t B_l too; matters under SGD, hardly under Adam.

    Raises:
        AltpropError: for a scale that is not positive.

    Paper: Frenkel, Lefebvre and Bol, Learning Without Feedback: Fixed Random Learning Signals Allow for Feedforward
    Training of Deep Neural Networks, Frontiers in Neuroscience 2021. Their code gives the layers +t B, ours -t B, so
    that it is direct feedback alignment with the prediction left out; B is symmetric, so nothing else changes. They
    draw B by He's uniform rule; here it is normal.
    """

    requires = frozenset(
        {Capability.GRADIENT, Capability.LAYERED, Capability.CHAIN, Capability.SUPERVISED, Capability.CLASSES}
    )
    state = ("feedback",)

    def __init__(self, optimizer: OptimizerFactory, scale: float = 1.0) -> None:
        super().__init__(optimizer)
        self.scale = check_number(scale, "algorithm.scale", above=0.0)
        self.feedback: list[Tensor]

    def _prepare(self, problem: Problem) -> None:
        classes, shapes = problem.spec.outputs, block_shapes(problem)[:-1]
        self.feedback = [self.scale * problem.random.normal(classes, *shape) for shape in shapes]

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        problem = self.problem
        walk = problem.walk(batch)
        loss, error = problem.output_loss(walk.outputs, batch), problem.output_gradient(walk.outputs, batch)
        shares = target_shares(problem, batch)
        signals = [-matrix[batch.targets] * shares.reshape(-1, *[1] * (matrix.dim() - 1)) for matrix in self.feedback]
        return loss, walk.pull([*signals, error]).parameters

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check the closed form, and that it is direct feedback alignment where the prediction is nothing."""
        return (
            Oracle("first layer's update in closed form", lambda: _first_layer(classes=0), 1e-15),
            Oracle("not with the target of another class", lambda: _first_layer(classes=1), 0.05, differs=True),
            Oracle("outputs 0 and squared error: dfa with the same B", lambda: _against_dfa(0.0), 1e-15),
            Oracle("not with other outputs", lambda: _against_dfa(1.0), 0.05, differs=True),
            Oracle("output layer's gradient is backprop's", _output_layer, 1e-15),
            Oracle("not the hidden layers'", _against_backprop, 0.05, differs=True),
        )


def target_shares(problem: Problem, batch: Batch) -> Tensor:
    """Return (B,), the weight of each row's target in the loss of the batch: 1/N, and 0 where it may not be used."""
    counted = torch.ones_like(batch.targets) if batch.weights is None else batch.weights
    return counted.to(problem.dtype) / problem.divisor(batch)


def _first_layer(classes: int) -> float:
    """Return the relative error of the first layer's direction: -1/N (B[class] * (1 - h^2))^T x, written out by hand.

    Args:
        classes: that the class is moved on by, in the formula.
    """
    problem, batch = toy()
    rule = set_up(DirectRandomTargetProjection(sgd()), problem)
    first = chain(problem)[0]
    weight, bias = first.weight.detach(), first.bias.detach()
    expected = torch.zeros_like(weight)
    for x, label in zip(batch.inputs, batch.targets, strict=True):
        h = torch.tanh(weight @ x + bias)
        expected -= torch.outer(rule.feedback[0][(label + classes) % 3] * (1 - h * h), x) / len(batch.inputs)
    return relative_error(rule.direction(batch)[1], {"blocks.0.weight": expected})


def _against_dfa(outputs: float) -> float:
    """Return the distance from direct feedback alignment, for a readout scaled by `outputs`."""
    problem, batch = toy(loss="one_hot_squared_error")
    rule = set_up(DirectRandomTargetProjection(sgd()), problem)
    direct = set_up(DirectFeedbackAlignment(sgd()), problem)
    direct.feedback = rule.feedback
    for parameter in problem.layered.blocks[-1].parameters():
        parameter.data.mul_(outputs)
    return relative_error(rule.direction(batch)[1], direct.direction(batch)[1])


def _output_layer() -> float:
    problem, batch = toy()
    rule = set_up(DirectRandomTargetProjection(sgd()), problem)
    reference = problem.gradient(batch)[1]
    last = {name: value for name, value in reference.items() if name.startswith("blocks.2.")}
    return relative_error(rule.direction(batch)[1], last)


def _against_backprop() -> float:
    problem, batch = toy()
    return against_backprop(set_up(DirectRandomTargetProjection(sgd()), problem), batch)
