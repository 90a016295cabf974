"""Losses as objects: value per element, gradient, curvature and the model's own distribution over targets.

Each takes outputs (..., C) and targets, and returns one number per element (...,), so that masks and weights of
unequal batches are applied in one place. What the sum over elements is divided by is the loss's own too.
"""

import math
from abc import ABC, abstractmethod
from typing import final

from torch import Tensor
from torch.nn import functional

from altprop.errors import AltpropError, Refused
from altprop.randomness import Random
from altprop.vectorized import Members


class Loss(ABC):
    """Abstract loss over the last dimension of the outputs.

    Class attributes:
        name: as configuration spells it.
        least_squares: whether it is a sum of squares.
    """

    name: str
    least_squares: bool = False

    @abstractmethod
    def per_element(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each element: outputs (..., C) -> (...,)."""

    def mean(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over all elements, a scalar; a loss may use a fused kernel for it."""
        return self.per_element(outputs, targets).mean()

    def divisor(self, weights: Tensor) -> Tensor:
        """Return what the sum of the loss over the elements that count is divided by, a scalar.

        By default it is their number, at least 1: the mean over none of them is 0, and so is its gradient. A loss that
        reduces otherwise writes this: 1 for the sum, the number of sequences for the mean of each sequence's sum.

        Args:
            weights: (B,) or (T, B), 1 where an element is valid and labelled and 0 elsewhere, in the outputs' dtype.
        """
        return weights.sum().clamp(min=1)

    @property
    @final
    def is_mean(self) -> bool:
        """Whether the loss of a batch is the mean over its elements, which is what fused kernels compute."""
        return type(self).divisor is Loss.divisor

    @abstractmethod
    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return d per_element / d outputs, (..., C)."""

    def per_element_and_gradient(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return `per_element` and `gradient` together, which may share what they compute."""
        return self.per_element(outputs, targets), self.gradient(outputs, targets)

    @abstractmethod
    def curvature_product(self, outputs: Tensor, vector: Tensor) -> Tensor:
        """Return the Hessian of each element's loss in its outputs times `vector`, (..., C)."""

    @abstractmethod
    def sample_targets(self, outputs: Tensor, random: Random) -> Tensor:
        """Draw targets from the distribution whose negative log-likelihood this loss is."""

    def averaged(self, outputs: Tensor) -> Tensor:
        """Return the outputs whose prediction is the mean of K predictions: (K, ..., C) -> (..., C).

        A prediction is what the outputs stand for: probabilities where the loss takes logits, or else the outputs.
        """
        return outputs.mean(0)

    def probabilities(self, outputs: Tensor) -> Tensor | None:
        """Return the probability of each class that outputs stand for, (..., C) or (..., 1) of two; None without."""
        return None

    @final
    def prediction(self, outputs: Tensor) -> Tensor:
        """Return what outputs stand for: probabilities, or else the outputs themselves."""
        p = self.probabilities(outputs)
        return outputs if p is None else p


class NoLoss(Loss):
    """Stand where a task has no loss of outputs: a game, whose players have their own, or an environment."""

    name = "none"

    def per_element(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise Refused(_NO_LOSS)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise Refused(_NO_LOSS)

    def curvature_product(self, outputs: Tensor, vector: Tensor) -> Tensor:
        raise Refused(_NO_LOSS)

    def sample_targets(self, outputs: Tensor, random: Random) -> Tensor:
        raise Refused(_NO_LOSS)


_NO_LOSS = "the task has no loss of outputs to learn from"


class CrossEntropy(Loss):
    """-log softmax(outputs)[target]; targets are class indices (...,), int64."""

    name = "cross_entropy"

    def per_element(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if Members.entered is not None:
            # What the fused kernel computes; vmap would call that member by member.
            shifted = outputs - outputs.detach().amax(-1, keepdim=True)
            return shifted.exp().sum(-1).log() - shifted.gather(-1, targets[..., None])[..., 0]
        if outputs.dim() == 2:
            return functional.cross_entropy(outputs, targets, reduction="none")
        flat = functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none")
        return flat.reshape(targets.shape)

    def mean(self, outputs: Tensor, targets: Tensor) -> Tensor:
        # Fused, forward and backward take 44 us instead of 76 to 160 us at (64, 10): a tenth of a small step. So a
        # view that is not needed is not made: with its node in the graph it takes 8 us.
        if Members.entered is not None:
            return self.per_element(outputs, targets).mean()
        if outputs.dim() == 2:
            return functional.cross_entropy(outputs, targets)
        return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())

    def per_element_and_gradient(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        # torch's log_softmax takes four times as long as this on (32, 64, 10).
        shifted, places = outputs - outputs.amax(-1, keepdim=True), targets[..., None]
        exponentials = shifted.exp()
        sums = exponentials.sum(-1, keepdim=True)
        each = (sums.log() - shifted.gather(-1, places))[..., 0]
        hot = outputs.new_full((), -1.0).expand(places.shape)
        return each, exponentials.div_(sums).scatter_add_(-1, places, hot)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.softmax(-1) - functional.one_hot(targets, outputs.shape[-1]).to(outputs.dtype)

    def curvature_product(self, outputs: Tensor, vector: Tensor) -> Tensor:
        p = outputs.softmax(-1)
        return p * vector - p * (p * vector).sum(-1, keepdim=True)

    def sample_targets(self, outputs: Tensor, random: Random) -> Tensor:
        p = outputs.detach().softmax(-1)
        return random.multinomial(p.reshape(-1, p.shape[-1]), 1).reshape(p.shape[:-1])

    def averaged(self, outputs: Tensor) -> Tensor:
        return outputs.log_softmax(-1).logsumexp(0) - math.log(len(outputs))

    def probabilities(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(-1)


class SmoothedCrossEntropy(Loss):
    """Cross-entropy against targets of which a share is spread evenly over all C classes: label smoothing.

    (1 - s) (-log p_target) + s / C sum_c (-log p_c), with p the softmax of the outputs.

    Args:
        smoothing: s, 0 up to but not 1.

    Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """

    name = "smoothed_cross_entropy"

    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing
        self._plain = CrossEntropy()

    def per_element(self, outputs: Tensor, targets: Tensor) -> Tensor:
        shifted = outputs - outputs.detach().amax(-1, keepdim=True)
        others = shifted.exp().sum(-1).log() - shifted.mean(-1)
        return (1 - self.smoothing) * self._plain.per_element(outputs, targets) + self.smoothing * others

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        hot = functional.one_hot(targets, outputs.shape[-1]).to(outputs.dtype)
        return outputs.softmax(-1) - (1 - self.smoothing) * hot - self.smoothing / outputs.shape[-1]

    def curvature_product(self, outputs: Tensor, vector: Tensor) -> Tensor:
        return self._plain.curvature_product(outputs, vector)

    def sample_targets(self, outputs: Tensor, random: Random) -> Tensor:
        return self._plain.sample_targets(outputs, random)

    def averaged(self, outputs: Tensor) -> Tensor:
        return self._plain.averaged(outputs)

    def probabilities(self, outputs: Tensor) -> Tensor:
        return self._plain.probabilities(outputs)


class Hinge(Loss):
    """max(0, 1 + max_(c != target) output_c - output_target); targets are class indices (...,), int64.

    Crammer and Singer 2001, JMLR 2. It is piecewise linear: its curvature is 0, and it is no likelihood.
    """

    name = "hinge"

    def per_element(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (1 + self._rivals(outputs, targets).amax(-1) - outputs.gather(-1, targets[..., None])[..., 0]).relu()

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        rival = functional.one_hot(self._rivals(outputs, targets).argmax(-1), outputs.shape[-1])
        wrong = (self.per_element(outputs, targets) > 0)[..., None]
        return ((rival - functional.one_hot(targets, outputs.shape[-1])) * wrong).to(outputs.dtype)

    def curvature_product(self, outputs: Tensor, vector: Tensor) -> Tensor:
        return vector * 0

    def sample_targets(self, outputs: Tensor, random: Random) -> Tensor:
        raise Refused("task.loss=hinge is no likelihood, so the model has no targets to draw; use cross_entropy")

    @staticmethod
    def _rivals(outputs: Tensor, targets: Tensor) -> Tensor:
        hot = functional.one_hot(targets, outputs.shape[-1]).bool()
        return outputs.masked_fill(hot, -math.inf)


class Huber(Loss):
    """sum_c h(output_c - target_c), h(r) = r^2 / 2 up to |r| = 1 and |r| - 1/2 beyond; targets (..., C).

    Huber 1964, Annals of Mathematical Statistics 35.
    """

    name = "huber"

    def per_element(self, outputs: Tensor, targets: Tensor) -> Tensor:
        near = (outputs - targets).abs().clamp(max=1)
        return (near * ((outputs - targets).abs() - 0.5 * near)).sum(-1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).clamp(-1, 1)

    def curvature_product(self, outputs: Tensor, vector: Tensor) -> Tensor:
        raise Refused("the curvature of task.loss=huber depends on its targets; use half_squared_error")

    def sample_targets(self, outputs: Tensor, random: Random) -> Tensor:
        raise Refused("task.loss=huber draws no targets; use half_squared_error")


class HalfSquaredError(Loss):
    """1/2 sum_c (output_c - target_c)^2, the negative log-likelihood of a unit Gaussian; targets (..., C)."""

    name = "half_squared_error"
    least_squares = True

    def per_element(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (outputs - targets).square().sum(-1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs - targets

    def curvature_product(self, outputs: Tensor, vector: Tensor) -> Tensor:
        return vector

    def sample_targets(self, outputs: Tensor, random: Random) -> Tensor:
        return outputs.detach() + random.normal(*outputs.shape)


class MeanSquaredError(Loss):
    """mean_c (output_c - target_c)^2, torch's convention; targets (..., C)."""

    name = "mse"
    least_squares = True

    def per_element(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean(-1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 2.0 / outputs.shape[-1] * (outputs - targets)

    def curvature_product(self, outputs: Tensor, vector: Tensor) -> Tensor:
        return 2.0 / outputs.shape[-1] * vector

    def sample_targets(self, outputs: Tensor, random: Random) -> Tensor:
        scale = math.sqrt(outputs.shape[-1] / 2.0)
        return outputs.detach() + scale * random.normal(*outputs.shape)


class BinaryCrossEntropy(Loss):
    """Sum over outputs of the Bernoulli negative log-likelihood of logits; targets (..., C) in 0 .. 1."""

    name = "binary_cross_entropy"

    def per_element(self, outputs: Tensor, targets: Tensor) -> Tensor:
        each: Tensor = functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        return each.sum(-1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sigmoid() - targets

    def curvature_product(self, outputs: Tensor, vector: Tensor) -> Tensor:
        p = outputs.sigmoid()
        return p * (1 - p) * vector

    def sample_targets(self, outputs: Tensor, random: Random) -> Tensor:
        return (random.uniform(*outputs.shape) < outputs.detach().sigmoid()).to(outputs.dtype)

    def averaged(self, outputs: Tensor) -> Tensor:
        return functional.logsigmoid(outputs).logsumexp(0) - functional.logsigmoid(-outputs).logsumexp(0)

    def probabilities(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()


class OneHotSquaredError(Loss):
    """1/2 sum_c (output_c - onehot_c)^2 for class targets (...,): least squares on a classification task."""

    name = "one_hot_squared_error"
    least_squares = True

    def per_element(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * self.gradient(outputs, targets).square().sum(-1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs - functional.one_hot(targets, outputs.shape[-1]).to(outputs.dtype)

    def curvature_product(self, outputs: Tensor, vector: Tensor) -> Tensor:
        return vector

    def sample_targets(self, outputs: Tensor, random: Random) -> Tensor:
        return random.multinomial(outputs.detach().softmax(-1), 1).reshape(outputs.shape[:-1])


LOSSES: dict[str, type[Loss]] = {
    kind.name: kind
    for kind in (
        CrossEntropy,
        HalfSquaredError,
        MeanSquaredError,
        BinaryCrossEntropy,
        OneHotSquaredError,
        Hinge,
        Huber,
    )
}


def make_loss(name: str) -> Loss:
    """Return the loss of that name.

    Raises:
        AltpropError: for an unknown name.

    >>> import torch
    >>> make_loss("mse").per_element(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([5.])
    """
    if name not in LOSSES:
        raise AltpropError(f"unknown loss {name!r}; known are: {', '.join(LOSSES)}")
    return LOSSES[name]()
