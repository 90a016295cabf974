"""Backpropagation by hand, in matrix form: no automatic differentiation anywhere. Read it from top to bottom.

A network of L dense layers maps a mini-batch of N examples, one a row, to outputs:

    symbol  shape        meaning
    X       (N, n_0)     inputs; A_0 = X
    W, b    (n, m), (n,) weight and bias of a layer with m inputs and n units
    Z       (N, n)       pre-activations,  Z = A_before W^T + b
    A       (N, n)       activations,      A = f(Z)
    E       scalar       objective, the mean of the examples' losses
    D       (N, n)       deltas,           D = dE / dZ

Backpropagation (Rumelhart, Hinton and Williams 1986) is the chain rule, ordered so that every delta is used once:

    at the outputs    D = dE / dZ                            follows from the loss
    one layer down    D_below = (D W) * f'(Z_below)          the errors go back through the transposed weights
    the gradients     dE/dW = D^T A_below,  dE/db = sum of the rows of D

dE/dW is a sum of outer products, one an example: "what I got wrong" times "what I was shown". The update is that of
classical momentum (Polyak 1964): V <- mu V - lr dE/dW, then W <- W + V.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    Batch,
    Capability,
    Dense,
    Grads,
    MultiplicativeNoise,
    Noise,
    Oracle,
    Problem,
    Refused,
    check_number,
)
from altprop.testing import toy

Matrix = Tensor


class Function(NamedTuple):
    """An activation function and its slope.

    Attributes:
        value: Z -> A = f(Z).
        slope: (Z, A) -> f'(Z); several slopes are simplest in terms of A.
    """

    value: Callable[[Matrix], Matrix]
    slope: Callable[[Matrix, Matrix], Matrix]


ACTIVATIONS = {
    "identity": Function(lambda z: z, lambda z, a: torch.ones_like(z)),
    "sigmoid": Function(lambda z: 1 / (1 + torch.exp(-z)), lambda z, a: a * (1 - a)),
    "tanh": Function(torch.tanh, lambda z, a: 1 - a * a),
    "relu": Function(lambda z: z.clamp(min=0), lambda z, a: (z > 0).to(z.dtype)),
}


def cross_entropy(z: Matrix, classes: Tensor) -> tuple[Tensor, Matrix]:
    """Take softmax and cross-entropy together: the slope of the one cancels the denominator of the other.

    E_i = log sum_c exp(z_ic) - z_i,class(i), so dE_i/dz_i = softmax(z_i) - onehot(class(i)).

    Args:
        z: (N, C), the outputs before the softmax.
        classes: (N,), int64.

    Returns:
        losses (N,) and their derivatives in z (N, C).
    """
    shifted = z - z.amax(1, keepdim=True)
    exponentials = torch.exp(shifted)
    sums = exponentials.sum(1, keepdim=True)
    hot = one_hot(classes, z)
    losses = torch.log(sums)[:, 0] - (hot * shifted).sum(1)
    return losses, exponentials / sums - hot


def half_squared_error(z: Matrix, targets: Matrix) -> tuple[Tensor, Matrix]:
    """Return E_i = 1/2 sum_c (z_ic - t_ic)^2 and dE_i/dz_i = z_i - t_i."""
    error = z - targets
    return 0.5 * (error * error).sum(1), error


def mean_squared_error(z: Matrix, targets: Matrix) -> tuple[Tensor, Matrix]:
    """Return E_i = mean over c of (z_ic - t_ic)^2 and dE_i/dz_i = 2/C (z_i - t_i)."""
    error = z - targets
    return (error * error).mean(1), 2 / z.shape[1] * error


def one_hot_squared_error(z: Matrix, classes: Tensor) -> tuple[Tensor, Matrix]:
    """Return half the squared distance from the one-hot code of the class."""
    return half_squared_error(z, one_hot(classes, z))


def binary_cross_entropy(z: Matrix, targets: Matrix) -> tuple[Tensor, Matrix]:
    """Take logistic outputs: E_i = sum_c log(1 + exp(z_ic)) - t_ic z_ic, so dE_i/dz_i = sigmoid(z_i) - t_i."""
    softplus = z.clamp(min=0) + torch.log(1 + torch.exp(-z.abs()))
    return (softplus - targets * z).sum(1), ACTIVATIONS["sigmoid"].value(z) - targets


LOSSES = {
    loss.__name__: loss for loss in (cross_entropy, half_squared_error, one_hot_squared_error, binary_cross_entropy)
} | {"mse": mean_squared_error}


def one_hot(classes: Tensor, z: Matrix) -> Matrix:
    """Return a matrix like z, (N, C), with a 1 in each row's class."""
    columns = torch.arange(z.shape[1], device=z.device)
    return (classes[:, None] == columns).to(z.dtype)


class Layer(NamedTuple):
    """One layer as the pass forward left it.

    Attributes:
        weight: (n, m), W as it was applied.
        inputs: (N, m), A_below as it was applied.
        z: (N, n), pre-activations.
        a: (N, n), activations, before their mask.
        function: its activation function.
        unit_mask: (N, n) dropout factors on the activations, or None; backwards they multiply the deltas.
        weight_mask: (n, m) factors on the weight, or None; backwards they multiply its gradient.
    """

    weight: Matrix
    inputs: Matrix
    z: Matrix
    a: Matrix
    function: Function
    unit_mask: Matrix | None
    weight_mask: Matrix | None


class ManualBackprop(Algorithm):
    """Backpropagation and classical momentum from scratch, for dense networks.

    Args:
        lr: learning rate, at least 0.
        momentum: mu, at least 0 and below 1; 0 is plain gradient descent.

    Raises:
        AltpropError: for a value outside these.
        Refused: at set-up, for an activation, a loss or a noise that this lesson does not cover.

    >>> problem, batch = toy(activation="sigmoid", loss="half_squared_error")
    >>> rule = ManualBackprop(lr=0.2, momentum=0.9)
    >>> rule.setup(problem)
    >>> losses = [float(rule.step(batch).loss) for _ in range(200)]
    >>> losses[-1] < 0.5 * losses[0]
    True
    """

    requires = frozenset(
        {Capability.GRADIENT, Capability.LAYERED, Capability.CHAIN, Capability.DENSE, Capability.SUPERVISED}
    )
    state = ("velocities",)

    def __init__(self, lr: float = 0.1, momentum: float = 0.0) -> None:
        self._lr = check_number(lr, "algorithm.lr", 0.0)
        self._momentum = check_number(momentum, "algorithm.momentum", 0.0, below=1.0)

    def _setup(self, problem: Problem) -> None:
        refuse_what_is_not_covered(problem)
        self.velocities = {name: torch.zeros_like(p.detach()) for name, p in problem.params.items()}

    def _step(self, batch: Batch | None) -> Tensor:
        assert batch is not None
        loss, gradients = self.gradients(batch)
        self._update(gradients)
        return loss

    def gradients(self, batch: Batch) -> tuple[Tensor, Grads]:
        """Return (objective, parameter name -> gradient): one pass forward, one back."""
        problem, rows = self.problem, len(batch.index)
        with torch.no_grad(), problem.same_noise():
            with problem.ledger.primitive("forward", rows):
                layers = self._forward(batch.inputs)
                losses, delta = LOSSES[problem.loss.name](layers[-1].z, batch.targets)
            problem.ledger.keeps(kept for layer in layers for kept in (layer.inputs, layer.z, layer.a))
            with problem.ledger.primitive("backward", rows):
                # The objective is a mean: each example's delta carries 1/N (1/labelled, where some carry no label).
                share = shares(batch, losses)
                gradients = self._backward(layers, share[:, None] * delta)
            return (share * losses).sum(), gradients

    def _forward(self, x: Matrix) -> list[Layer]:
        """Run the layers in order and keep what the way back needs."""
        noise = self.problem.model.noise
        layers: list[Layer] = []
        a = masked(x.flatten(1), mask_of(noise, x.flatten(1), "input", 0))
        for block in blocks_of(self.problem):
            weight_mask = mask_of(noise, block.weight, "weight", block.index)
            weight = masked(block.weight, weight_mask)
            function = ACTIVATIONS[block.activation.name]
            z = a @ weight.T + block.bias
            activation = function.value(z)
            unit_mask = None if block.is_output else mask_of(noise, activation, "unit", block.index)
            layers.append(Layer(weight, a, z, activation, function, unit_mask, weight_mask))
            a = masked(activation, unit_mask)
        return layers

    def _backward(self, layers: list[Layer], delta: Matrix) -> Grads:
        """Take the output's deltas (N, C) down the layers; all gradients are taken before any weight moves."""
        gradients: Grads = {}
        for index in reversed(range(len(layers))):
            layer = layers[index]
            gradients[f"blocks.{index}.weight"] = masked(delta.T @ layer.inputs, layer.weight_mask)
            gradients[f"blocks.{index}.bias"] = delta.sum(0)
            if index > 0:
                below = layers[index - 1]
                delta = masked(delta @ layer.weight, below.unit_mask) * below.function.slope(below.z, below.a)
        return {name: gradients[name] for name in self.velocities}

    def _update(self, gradients: Grads) -> None:
        """Set V <- mu V - lr dE/dW, then W <- W + V."""
        ledger = self.problem.ledger
        with torch.no_grad(), ledger.primitive("update", 0):
            for name, parameter in self.problem.params.items():
                velocity = self.velocities[name]
                velocity.mul_(self._momentum).sub_(self._lr * gradients[name])
                parameter.add_(velocity)
        ledger.updates += 1

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        pairs = [(activation, loss) for activation in ACTIVATIONS for loss in LOSSES]
        return (
            *(Oracle(f"gradient = autograd: {a}, {e}", partial(_against_autograd, a, e), 1e-12) for a, e in pairs),
            Oracle("30 steps = torch's SGD with momentum", lambda: _against_sgd(momentum=0.9), 1e-10),
            Oracle("not 30 steps = torch's SGD without", lambda: _against_sgd(momentum=0.0), 1e-3, differs=True),
        )


def blocks_of(problem: Problem) -> list[Dense]:
    """Return the layers in order; the requirement DENSE says that they are that."""
    return [cast(Dense, block) for block in problem.layered.blocks]


def shares(batch: Batch, losses: Tensor) -> Tensor:
    """Return (N,), what each example's loss weighs in the mean."""
    weights = torch.ones_like(losses) if batch.weights is None else batch.weights.to(losses.dtype)
    return weights / weights.sum().clamp(min=1)


def masked(value: Matrix, mask: Matrix | None) -> Matrix:
    """Multiply by a mask, if there is one."""
    return value if mask is None else value * mask


def mask_of(noise: Noise | None, like: Matrix, site: str, layer: int) -> Matrix | None:
    """Return the dropout factors at a site of a layer, or None where nothing is dropped."""
    return noise.mask(like, site, layer) if isinstance(noise, MultiplicativeNoise) else None


def refuse_what_is_not_covered(problem: Problem) -> None:
    """Refuse what would need another derivative than those above.

    Raises:
        Refused: with a sentence.
    """
    for block in blocks_of(problem):
        if block.activation.name not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise Refused(f"manual_backprop knows the slopes of {known}; the model has {block.activation.name}")
        if block.norm is not None:
            raise Refused("manual_backprop covers no normalisation; use model.normalisation=none")
    if problem.loss.name not in LOSSES:
        raise Refused(f"manual_backprop knows the losses {', '.join(LOSSES)}; the task has {problem.loss.name}")
    noise = problem.model.noise
    if noise is not None and (
        not isinstance(noise, MultiplicativeNoise) or list(noise.parameters()) or noise.penalty() is not None
    ):
        raise Refused("manual_backprop covers noise that multiplies by a mask, such as dropout=standard, and no other")
    if problem.uncounted.task_penalty is not None:
        raise Refused("manual_backprop covers no penalty, and the task has one")


def _against_autograd(activation: str, loss: str) -> float:
    """Return the worst absolute difference from automatic differentiation, over loss and all gradients."""
    problem, batch = toy(activation=activation, loss=loss)
    rule = ManualBackprop()
    rule.setup(problem)
    value, ours = rule.gradients(batch)
    expected, theirs = problem.gradient(batch)
    worst = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
    return max(worst, float((value - expected).abs()))


def _against_sgd(momentum: float, steps: int = 30, lr: float = 0.1) -> float:
    """Return the worst difference in weight from torch.optim.SGD on the same batches; ours has a momentum of .9."""
    problem, batch = toy()
    other, _ = toy()
    rule = ManualBackprop(lr, 0.9)
    rule.setup(problem)
    optimizer = torch.optim.SGD(other.model.parameters(), lr=lr, momentum=momentum)
    for _ in range(steps):
        rule.step(batch)
        for name, gradient in other.gradient(batch)[1].items():
            other.params[name].grad = gradient
        optimizer.step()
    return float((problem.flat() - other.flat()).abs().max())
