"""Sign symmetry: the way back knows the sign of every forward weight, and nothing of its size."""

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
from altprop.algorithms.feedback.feedback_alignment import chain, entry_deviation
from altprop.testing import against_backprop, set_up, sgd, toy

MAGNITUDES = ("uniform", "batchwise", "fixed")


class SignSymmetry(DirectionAlgorithm):
    """Send the error back through weights that share the signs of the forward ones.

    With a_l the pre-activation, h_l = f(a_l), e = dL/da_L, (B, C), and M_l > 0 shaped like W_l,

        V_l = M_l * sign(W_l),    delta_L = e,    delta_l = (delta_(l+1) V_(l+1)) * f'(a_l),
        dW_l = delta_l^T h_(l-1).

    The signs are those of the present W. The magnitudes M_l are

    - uniform (uSF): the same for all weights of a layer;
    - batchwise (brSF): drawn anew in every step;
    - fixed (frSF): drawn once (`magnitudes`).

    Random magnitudes are uniform between 0 and a bound. In all three the root mean square of V_l's entries is
    scale / sqrt(fan_out), fan_out = W_l's outputs (times the kernel's positions), as for `feedback_alignment`: a layer
    passes back a signal of `scale` times the size of what it gets. Convolutions send delta through the transposed
    convolution with V_l; normalisation and dropout are part of f; noise on the weights acts on V_l with the same mask.

    Args:
        optimizer: the optimizer axis; directions are no gradients, so closures are refused.
        magnitude: uniform, batchwise or fixed.
        scale: see above.

    Raises:
        AltpropError: for an unknown magnitude or a scale that is not positive.

    Paper: Liao, Leibo and Poggio, How Important Is Weight Symmetry in Backpropagation?, AAAI 2016. Their M is 1 or
    uniform between 0 and 1, and batch normalisation with signs of the gradients as updates takes care of its size; we
    scale it, as Xiao et al. 2019 (arXiv:1811.03567) do. Signs are transported: W^T is not used, sign(W^T) is.
    """

    requires = frozenset({Capability.GRADIENT, Capability.LAYERED, Capability.CHAIN})
    state = ("magnitudes",)

    def __init__(self, optimizer: OptimizerFactory, magnitude: str = "uniform", scale: float = 1.0) -> None:
        super().__init__(optimizer)
        self.magnitude = check_name(magnitude, "algorithm.magnitude", MAGNITUDES)
        self.scale = check_number(scale, "algorithm.scale", above=0.0)
        self.magnitudes: list[Tensor]

    def _prepare(self, problem: Problem) -> None:
        self.magnitudes = [] if self.magnitude == "batchwise" else self._drawn()

    def _drawn(self) -> list[Tensor]:
        """Return M_l, shaped like W_l, for every block but the first."""
        drawn = []
        for block in chain(self.problem)[1:]:
            shape, size = block.weight.shape, entry_deviation(block, self.scale)
            if self.magnitude == "uniform":
                drawn.append(torch.full_like(block.weight.detach(), size))
            else:
                drawn.append(self.problem.random.uniform(*shape, high=math.sqrt(3) * size))
        return drawn

    def feedback(self) -> list[Tensor]:
        """Return V_l = M_l * sign(W_l) for every block but the first, with fresh M_l where they are batchwise."""
        magnitudes = self._drawn() if self.magnitude == "batchwise" else self.magnitudes
        blocks = chain(self.problem)[1:]
        return [size * block.weight.detach().sign() for size, block in zip(magnitudes, blocks, strict=True)]

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        problem = self.problem
        walk = problem.walk(batch)
        loss, error = problem.output_loss(walk.outputs, batch), problem.output_gradient(walk.outputs, batch)
        return loss, walk.back(error, self.feedback()).parameters

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that the rule is backpropagation where the magnitudes are those of W, and only there."""
        return (
            Oracle("uniform: weights of one size are backprop", lambda: _uniform(one_size=True), 1e-15),
            Oracle("not uniform: weights of many sizes", lambda: _uniform(one_size=False), 0.05, differs=True),
            Oracle("fixed: M = |W| is backprop", lambda: _fixed(steps=0), 1e-15),
            Oracle("not fixed: M = |W| of 20 steps ago", lambda: _fixed(steps=20), 0.01, differs=True),
            Oracle("fixed: signs follow W over 20 large steps", _discord, 0.0),
            Oracle("not batchwise: the same M in the next step", _repeated, 0.1, differs=True),
        )


def _ready(magnitude: str, lr: float = 0.1) -> tuple[SignSymmetry, Batch]:
    problem, batch = toy()
    return set_up(SignSymmetry(sgd(lr), magnitude), problem), batch


def _uniform(one_size: bool) -> float:
    rule, batch = _ready("uniform")
    if one_size:
        for block, size in zip(chain(rule.problem)[1:], rule.magnitudes, strict=True):
            block.weight.data = size * block.weight.detach().sign()
    return against_backprop(rule, batch)


def _fixed(steps: int) -> float:
    rule, batch = _ready("fixed")
    rule.magnitudes = [block.weight.detach().abs() for block in chain(rule.problem)[1:]]
    for _ in range(steps):
        rule.step(batch)
    return against_backprop(rule, batch)


def _discord(steps: int = 20) -> float:
    """Return the share of feedback weights whose sign differs from W's, after steps that turned some of them."""
    rule, batch = _ready("fixed", lr=1.0)
    before = [block.weight.detach().sign() for block in chain(rule.problem)[1:]]
    for _ in range(steps):
        rule.step(batch)
    now = [block.weight.detach().sign() for block in chain(rule.problem)[1:]]
    if all(torch.equal(a, b) for a, b in zip(before, now, strict=True)):
        return math.inf  # no sign was put to the test
    return max(float((v.sign() != sign).double().mean()) for v, sign in zip(rule.feedback(), now, strict=True))


def _repeated() -> float:
    """Return the relative change of V from one draw to the next, at the same weights."""
    rule, _ = _ready("batchwise")
    first, second = rule.feedback()[0], rule.feedback()[0]
    return float((first - second).norm() / first.norm())
