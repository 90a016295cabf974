"""Weight mirrors: noise through each layer shows its weights to the feedback path."""

import torch
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
    check_whole,
)
from altprop.algorithms.feedback.dfa import block_shapes
from altprop.algorithms.feedback.feedback_alignment import chain, entry_deviation
from altprop.testing import against_backprop, cosine, monte_carlo, set_up, sgd, toy


class WeightMirror(DirectionAlgorithm):
    """Send the error back through weights B_l that are learned from noise, in a mode of its own after every step.

    Engaged mode is a step of feedback alignment: with a_l the pre-activation, h_l = f(a_l), e = dL/da_L, (B, C),

        delta_L = e,    delta_l = (delta_(l+1) B_(l+1)) * f'(a_l),    dW_l = delta_l^T h_(l-1).

    Mirror mode then feeds every block but the first R examples of white noise x ~ N(0, noise^2 I), each block its own,
    and lets B_l follow the correlation of what comes out with what went in:

        y = f(W_l x + b_l),    B_l <- (1 - rate) B_l + rate / (noise^2 R) sum over examples of y x^T.

    As E[y_j x] = noise^2 E[f'(a_j)] w_j for Gaussian x (Stein's lemma), B_l comes to follow W_l, with each row scaled
    by the mean slope of its unit: W_l itself where f is the identity. The variance of what B_l holds falls with R and
    1 / rate, the lag behind W_l grows with 1 / rate. Noise that is small beside the biases finds rectifiers all on or
    all off. Convolutions average over the positions at which a weight meets an input; normalisation and noise on the
    units stand still in mirror mode. B_l (`feedback`) starts as that of `feedback_alignment`. No W^T is used.

    Args:
        optimizer: the optimizer axis, of the engaged mode; directions are no gradients, so closures are refused.
        rate: by which B moves towards what the mirror shows in a step, above 0, at most 1.
        noise: standard deviation of x.
        examples: R, of noise, a step.
        scale: of B_l at the start, as in `feedback_alignment`.

    Raises:
        AltpropError: for a number out of range.

    Paper: Akrout, Wilson, Humphreys, Lillicrap and Tweed, Deep Learning without Weight Transport, NeurIPS 2019. Their B
    grows by eta y x^T and is normalised now and then; here growth and forgetting are one average, on the scale of W.
    Their code mirrors for a whole epoch before the first step; here B starts at random and every pass is counted.
    """

    requires = frozenset({Capability.GRADIENT, Capability.LAYERED, Capability.CHAIN})
    state = ("feedback",)

    def __init__(
        self,
        optimizer: OptimizerFactory,
        rate: float = 0.05,
        noise: float = 1.0,
        examples: int = 64,
        scale: float = 1.0,
    ) -> None:
        super().__init__(optimizer)
        self.rate = check_number(rate, "algorithm.rate", high=1.0, above=0.0)
        self.noise = check_number(noise, "algorithm.noise", above=0.0)
        self.examples = check_whole(examples, "algorithm.examples", 1)
        self.scale = check_number(scale, "algorithm.scale", above=0.0)
        self.feedback: list[Tensor]

    def _prepare(self, problem: Problem) -> None:
        blocks = chain(problem)[1:]
        self.feedback = [entry_deviation(b, self.scale) * problem.random.normal(*b.weight.shape) for b in blocks]
        self._shapes = block_shapes(problem)[:-1]
        self._meetings = [self._met(block, shape) for block, shape in zip(blocks, self._shapes, strict=True)]

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        problem = self.problem
        walk = problem.walk(batch)
        loss, error = problem.output_loss(walk.outputs, batch), problem.output_gradient(walk.outputs, batch)
        return loss, walk.back(error, self.feedback).parameters

    def _update(self, direction: Grads) -> None:
        self.updater.apply(direction)
        self.mirror()

    def mirror(self) -> None:
        """Let every B_l follow what noise shows of W_l, once."""
        followed = []
        blocks = zip(chain(self.problem)[1:], self.feedback, self._shapes, self._meetings, strict=True)
        for block, matrix, shape, meetings in blocks:
            x = self.noise * self.problem.random.normal(self.examples, *shape)
            shown = self.correlation(block, x) / (self.noise**2 * meetings)
            followed.append(matrix + self.rate * (shown - matrix))
        self.feedback = followed

    def correlation(self, block: Block, x: Tensor) -> Tensor:
        """Return the mean over the rows of x, (R, *input), of y x^T, shaped like the weight; a filter's is a sum."""
        z, vjp = self.problem.pull(block.transform, x, {"weight": block.weight})
        return vjp(block.activation.function(z), inputs=False).parameters["weight"] / len(x)

    def _met(self, block: Block, shape: tuple[int, ...]) -> Tensor:
        """Return how often each weight meets an input of an example, shaped like the weight: once, or a filter's often.

        Taps at a filter's rim see padding where others see inputs.
        """
        ones = torch.ones(1, *shape, dtype=self.problem.dtype, device=self.problem.device)
        with self.problem.evaluating():
            z, vjp = self.problem.pull(block.transform, ones, {"weight": block.weight})
        return vjp(torch.ones_like(z), inputs=False).parameters["weight"].clamp(min=1)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check what the mirror shows, exactly and in the mean, and that B = W is backpropagation."""
        return (
            Oracle("linear units, white inputs: the mirror shows W", lambda: _shown("identity"), 1e-14),
            Oracle("not of tanh units", lambda: _shown("tanh"), 0.05, differs=True),
            Oracle("mean over noise is E[f'] W", lambda: _stein(slope=True), 4.0),
            Oracle("not W without the slope", lambda: _stein(slope=False), 4.0, differs=True),
            Oracle("1 - cosine of B and W after 300 mirrors", lambda: 1 - _mirrored(300), 0.03),
            Oracle("not before", lambda: 1 - _mirrored(0), 0.5, differs=True),
            Oracle("B = W is backprop", lambda: _against_backprop(matched=True), 1e-15),
            Oracle("not random B", lambda: _against_backprop(matched=False), 0.05, differs=True),
        )


def _ready(activation: str = "tanh") -> tuple[WeightMirror, Batch]:
    problem, batch = toy(activation=activation)
    return set_up(WeightMirror(sgd()), problem), batch


def _shown(activation: str) -> float:
    """Return the relative distance from W_2 to the correlation for inputs x with mean 0 and covariance I exactly."""
    rule, _ = _ready(activation)
    block = chain(rule.problem)[1]
    size = block.weight.shape[1]
    basis = torch.eye(size, dtype=torch.float64, device="cpu") * size**0.5
    found = rule.correlation(block, torch.cat([basis, -basis]))
    return float((found - block.weight.detach()).norm() / block.weight.detach().norm())


def _stein(slope: bool, draws: int = 200) -> float:
    """Return the z-score of the correlation against E[f'(a)] W of Stein's lemma, or against W."""
    rule, _ = _ready("tanh")
    block, random = chain(rule.problem)[1], rule.problem.random
    expected = block.weight.detach().clone()
    if slope:
        with torch.no_grad():
            y = torch.tanh(block.transform(random.normal(200_000, expected.shape[1])))
        expected *= (1 - y * y).mean(0)[:, None]
    return monte_carlo(lambda: rule.correlation(block, random.normal(64, expected.shape[1])), expected, draws)


def _mirrored(steps: int) -> float:
    """Return the smallest cosine of a B_l with its W_l after so many mirrors, without any learning between."""
    rule, _ = _ready("tanh")
    for _ in range(steps):
        rule.mirror()
    pairs = zip(rule.feedback, chain(rule.problem)[1:], strict=True)
    return min(cosine(matrix, block.weight.detach()) for matrix, block in pairs)


def _against_backprop(matched: bool) -> float:
    rule, batch = _ready()
    if matched:
        rule.feedback = [block.weight.detach().clone() for block in chain(rule.problem)[1:]]
    return against_backprop(rule, batch)
