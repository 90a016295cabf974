"""PEPITA: the error is added to the input, and a second pass forward tells each layer what it did."""

import math
from functools import partial

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
    Refused,
    check_number,
)
from altprop.algorithms.local.layers import chain, shares
from altprop.testing import relative_error, set_up, sgd, toy


class Pepita(DirectionAlgorithm):
    """Present the error to perturb the input and modulate activity: two passes forward, and none back.

    With e, (B, C), the derivative of each example's own loss in the outputs, F, (C, *input), drawn once (`feedback`)
    and never learned, h_l the output of layer l in a first pass on x and h'_l in a second one on

        x' = x + e F,    h'_0 = x',
        dW_l = 1/N (h_l - h'_l)^T h'_(l-1),    db_l = 1/N sum over rows of h_l - h'_l    for hidden layers,
        dW_L = 1/N e^T h'_(L-1),               db_L = 1/N sum over rows of e             for the output layer,

    with N the number of labelled rows. No derivative of f and no W^T is used. To first order in F the signal of layer l
    is -e F W_1^T ... W_l^T (with the slopes of f): descent wants F W_1^T to turn against W_L ... W_2, which learning
    brings about. Both passes are under one noise: a dropped unit is dropped in both, and learns nothing.

    Args:
        optimizer: the optimizer axis; directions are no gradients, so closures are refused.
        scale: the entries of F have the standard deviation scale sqrt(2 / number of inputs).

    Raises:
        AltpropError: for a scale that is not positive.
        Refused: at set-up for a model with parameters that are no weight or bias.

    Paper: Dellaferrera and Kreiman, Error-driven input modulation: solving the credit assignment problem without a
    backward pass, ICML 2022, whose scale is 0.05. The output layer learns from the error of the first pass, as their
    algorithm says; their code takes that of the second one. They have no biases. Their F is uniform, here it is normal.
    Filters sum over positions.
    """

    requires = frozenset({Capability.LAYERED, Capability.CHAIN, Capability.SUPERVISED})
    state = ("feedback",)

    def __init__(self, optimizer: OptimizerFactory, scale: float = 0.05) -> None:
        super().__init__(optimizer)
        self.scale = check_number(scale, "algorithm.scale", above=0.0)
        self.feedback: Tensor

    def _prepare(self, problem: Problem) -> None:
        covered = {id(p) for block in chain(problem) for p in (block.weight, block.bias)}
        left = [name for name, p in problem.params.items() if id(p) not in covered]
        if left:
            raise Refused(
                f"pepita teaches weights and biases, not {left[0]}; "
                "use model.normalisation=none and a dropout without parameters"
            )
        shape = problem.spec.input_shape
        deviation = self.scale * math.sqrt(2 / math.prod(shape))
        self.feedback = deviation * problem.random.normal(problem.spec.outputs, *shape)

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        problem, x = self.problem, batch.inputs
        first: list[Tensor] = []
        with torch.no_grad():
            for block in chain(problem):
                with problem.ledger.primitive("block_forward", batch.rows):
                    x = block(x)
                first.append(x)
        outputs = first.pop()
        error = problem.output_gradient(outputs, batch)
        return problem.output_loss(outputs, batch), self._second(batch, first, error)

    def _second(self, batch: Batch, first: list[Tensor], error: Tensor) -> Grads:
        """Make the pass on the modulated input and return the direction.

        Args:
            batch: whose inputs are modulated.
            first: h of the hidden layers in the first pass.
            error: e / N, (B, C).
        """
        problem, direction = self.problem, Grads()
        with problem.ledger.primitive("block_backward", 0, 0):
            modulation = (error * problem.divisor(batch)) @ self.feedback.flatten(1)
        x, weights = batch.inputs + modulation.reshape(batch.inputs.shape), shares(problem, batch)
        for index, block in enumerate(chain(problem)):
            own = {f"blocks.{index}.weight": block.weight, f"blocks.{index}.bias": block.bias}
            z, back = problem.pull(block.transform, x, own)
            if index < len(first):
                with torch.no_grad():
                    x = block.respond(z)
                signal = weights.reshape(-1, *[1] * (x.dim() - 1)) * (first[index] - x)
            else:
                signal = error
            direction.update(back(signal, inputs=False).parameters)
        return direction

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check the formula, example by example, and the F with which the rule tends to backpropagation."""
        return (
            Oracle("direction as the formula says", partial(_off, True), 1e-12),
            Oracle("not on the input as it was", partial(_off, False), 1e-3, differs=True),
            Oracle("linear net, F = -s W_2 W_1^+: backprop as s -> 0", partial(_against_backprop, 1e-7, True), 1e-6),
            Oracle("error O(s): slope off 1 by", _off_order_one, 0.1),
            Oracle("not random F", partial(_against_backprop, 1e-7, False), 0.5, differs=True),
        )


def _off(modulated: bool) -> float:
    """Return the relative error of the direction against the formula, one example after the other, on x' or on x."""
    problem, batch = toy((5, 7, 6, 3))
    rule = set_up(Pepita(sgd(), scale=1.0), problem)
    blocks = [(block.weight.detach(), block.bias.detach()) for block in chain(problem)]

    def activities(x: Tensor) -> list[Tensor]:
        h = [x]
        for weight, bias in blocks:
            h.append(torch.tanh(weight @ h[-1] + bias))
        h[-1] = blocks[-1][0] @ h[-2] + blocks[-1][1]
        return h

    expected = {name: torch.zeros_like(p) for name, p in problem.params.items()}
    for x, label in zip(batch.inputs, batch.targets, strict=True):
        h = activities(x)
        e = h[-1].softmax(0)
        e[label] -= 1
        other = activities(x + e @ rule.feedback)
        for index in range(3):
            delta = e if index == 2 else h[index + 1] - other[index + 1]
            seen = other[index] if modulated else h[index]
            expected[f"blocks.{index}.weight"] += torch.outer(delta, seen) / len(batch.inputs)
            expected[f"blocks.{index}.bias"] += delta / len(batch.inputs)
    return relative_error(rule.direction(batch)[1], expected)


def _against_backprop(scale: float, matched: bool) -> float:
    """Return the relative error against backpropagation of the direction, that of the hidden layer over the scale."""
    problem, batch = toy((7, 5, 3), activation="identity")
    rule = set_up(Pepita(sgd()), problem)
    first, second = (block.weight.detach() for block in chain(problem))
    if matched:
        rule.feedback = -scale * second @ torch.linalg.pinv(first.T)
    else:
        rule.feedback = scale * rule.feedback / rule.feedback.std()
    found = {n: g / (scale if n.startswith("blocks.0") else 1) for n, g in rule.direction(batch)[1].items()}
    return relative_error(found, problem.gradient(batch)[1])


def _off_order_one() -> float:
    """Return how far the order of the error in s is from 1, between .1 and .001."""
    return abs(math.log10(_against_backprop(0.1, True) / _against_backprop(1e-3, True)) / 2 - 1)
