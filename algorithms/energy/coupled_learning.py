"""Coupled learning: weights learn from a network at rest, and at rest with outputs held a little nearer to targets."""

import math
from collections.abc import Callable, Mapping
from functools import partial
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
    Refused,
    check_number,
    check_whole,
)
from altprop.algorithms.energy.contrastive_hebbian import ContrastiveHebbian
from altprop.algorithms.energy.equilibrium_propagation import NOT_MONOTONE
from altprop.algorithms.energy.settling import hidden_blocks, settle
from altprop.testing import relative_error, set_up, sgd, toy

SETTLED = 80
"""Steps after which the oracles' small nets rest, but for rounding."""


class CoupledLearning(DirectionAlgorithm):
    r"""Settle freely, settle again with the outputs clamped near where they were, and learn from the difference.

    The layers have states s_1 .. s_L, (B, n_l), s_0 the inputs, which the weights W_l of the model connect in both
    directions. With f_l the activation, that of the outputs included, and G_l' its inverse, the energy of a row is

        E = sum_l [G_l(s_l) - b_l s_l - s_l W_l s_(l-1)],

    and states settle from those of a forward pass by steps of

        s_l <- (1 - rate) s_l + rate f_l(W_l s_(l-1) + b_l + W_(l+1)^T s_(l+1)),    l < L,

    `free_steps` with s_L what the last block predicts (classes' probabilities, or else its outputs), then
    `clamped_steps` with s_L held a share `eta` of the way from the free prediction s_L^F to the target t,

        s_L^C = s_L^F + eta (t - s_L^F),

    and as many with s_L held at s_L^F, which moves nothing where all has settled and cancels what has not. The
    direction is the mean over rows of (dE/dW at the clamped states - dE/dW at these) / eta, the difference of two
    products s_l s_(l-1)^T. No activation is differentiated. Predictions are those of the free equilibrium.

    Where equilibrium propagation adds a loss to the energy, here outputs are held. On this same energy the two differ
    however small beta and eta are. Settled, equilibrium propagation gives the gradient of the loss at the free
    equilibrium, (s_L^F - t) ds_L^F/dW for half a squared error; coupled learning gives, up to an error of order eta,

        (s_L^F - t) H ds_L^F/dW,    H the outputs' stiffness: the Hessian in s_L of the energy with all else settled,

    which is the gradient of the loss through the settled hidden layers with what the outputs send back held fixed. At
    eta = 1 it is contrastive Hebbian learning with gamma = 1. `equilibrium_propagation` here has another energy, which
    the outputs are no part of.

    t is the prediction less the gradient of the loss there. Normalisation and noise have no energy here and are
    refused, as are gelu and silu, which have no inverse.

    Args:
        optimizer: the optimizer axis; directions are no gradients, so closures are refused.
        eta: share of the way to the target at which outputs are held, above 0 and at most 1.
        free_steps, clamped_steps: of settling, at least 1.
        rate: of settling, above 0 and at most 1.

    Raises:
        AltpropError: for a number out of range.

    Paper: Stern, Hexner, Rocks and Liu 2021, Supervised learning in physical networks: from machine learning to
    learning machines, Physical Review X 11 (arXiv:2011.03861). Their networks are of springs or of pipes, in which
    learning degrees of freedom are stiffnesses, rest lengths or conductances, and the energy or the power dissipated is
    what settles; here it is that of a layered network.
    """

    requires = frozenset({Capability.LAYERED, Capability.CHAIN})

    def __init__(
        self,
        optimizer: OptimizerFactory,
        eta: float = 0.1,
        free_steps: int = 20,
        clamped_steps: int = 8,
        rate: float = 0.7,
    ) -> None:
        super().__init__(optimizer)
        self.eta = check_number(eta, "algorithm.eta", above=0.0, high=1.0)
        self.free_steps = check_whole(free_steps, "algorithm.free_steps", 1)
        self.clamped_steps = check_whole(clamped_steps, "algorithm.clamped_steps", 1)
        self.rate = check_number(rate, "algorithm.rate", above=0.0, high=1.0)

    def _prepare(self, problem: Problem) -> None:
        self._hidden = hidden_blocks(problem, "coupled learning")
        odd = [block.activation.name for block in self._hidden if block.activation.name in NOT_MONOTONE]
        if odd:
            raise Refused(
                f"coupled learning needs an activation with an inverse, and {odd[0]} falls before it rises; "
                "use model.activation=tanh"
            )

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        problem = self.problem
        free = self.free(problem.walk(batch))
        slope = problem.divisor(batch) * problem.output_gradient(free.outputs, batch)
        prediction = self._prediction(free)
        target = prediction - free.delta(len(free.states), slope)
        here = self.products(free, prediction)
        there = self.products(free, prediction + self.eta * (target - prediction))
        scale = 1 / (problem.divisor(batch) * self.eta)
        loss = problem.output_loss(free.outputs, batch)
        return loss, {name: scale * (here[name] - value) for name, value in there.items()}

    def free(self, walk: ChainWalk) -> ChainWalk:
        """Return the walk at the free equilibrium, from a forward pass."""
        start = walk.at(walk.block_outputs[:-1])
        return settle(start, self._hidden, self.free_steps, self.rate, self._prediction)

    def products(self, walk: ChainWalk, held: Tensor) -> Grads:
        """Settle with the outputs held, and return minus dE/dW of the weights there, summed over rows.

        Args:
            walk: at the states to start from.
            held: s_L, (B, C).
        """
        clamped = settle(walk, self._hidden, self.clamped_steps, self.rate, lambda _: held)
        return clamped.outer([*clamped.states, held])

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
        more = settle(free, self._hidden, 1, self.rate, self._prediction)
        changes = torch.stack([(new - old).norm() for new, old in zip(more.states, free.states, strict=True)])
        return {"unsettled": changes.norm() / torch.stack([state.norm() for state in free.states]).norm()}

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check the limit of a small share, the law of its error, and its two neighbours among the rules."""
        return (
            *(
                Oracle(
                    f"eta = 0.00001: gradient with the outputs' feedback held, {loss}", partial(_off, 1e-5, loss), 1e-3
                )
                for loss in ("cross_entropy", "half_squared_error")
            ),
            Oracle("order of the error in eta, less 1", lambda: abs(_order() - 1), 0.1),
            Oracle("not where the clamped phase has not settled", partial(_off, 1e-5, clamped=1), 0.1, differs=True),
            Oracle("equilibrium propagation's limit, errors times the stiffness", _off_stiff, 1e-3),
            Oracle("not equilibrium propagation's limit", partial(_off_stiff, stiffness=False), 0.05, differs=True),
            Oracle("eta = 1: contrastive Hebbian learning, gamma = 1", partial(_off_hebbian, 1.0), 1e-6),
            Oracle("not at eta = 0.1", partial(_off_hebbian, 0.1), 0.01, differs=True),
        )


def _ready(eta: float, loss: str = "cross_entropy", clamped: int = SETTLED) -> tuple[CoupledLearning, Batch]:
    """Return the rule on a net whose weights are small enough to settle to rounding."""
    problem, batch = toy(loss=loss)
    problem.assign(0.4 * problem.flat())
    return set_up(CoupledLearning(sgd(), eta, SETTLED, clamped, 1.0), problem), batch


def _settled(problem: Problem, batch: Batch, outputs: Tensor | None, steps: int = SETTLED) -> Tensor:
    """Return z_L (B, C) with all hidden states settled, written out, with a graph.

    Args:
        problem: a net of dense blocks.
        batch: whose inputs are held.
        outputs: s_L (B, C), held; or None for what the last block predicts.
        steps: of settling.
    """
    *hidden, last = (cast("Block", block) for block in problem.layered.blocks)
    states = [batch.inputs]
    for block in hidden:
        states.append(block(states[-1]))
    for _ in range(steps):
        z = last.transform(states[-1])
        probabilities = problem.loss.probabilities(z)
        top = (z if probabilities is None else probabilities) if outputs is None else outputs
        above = [s @ block.weight for s, block in zip([*states[2:], top], [*hidden[1:], last], strict=True)]
        drives = [block.transform(x) + sent for block, x, sent in zip(hidden, states, above, strict=False)]
        moved = [block.activation.function(u) for block, u in zip(hidden, drives, strict=True)]
        states = [batch.inputs, *moved]
    return last.transform(states[-1])


def _gradient(problem: Problem, value: Tensor) -> Grads:
    slopes = torch.autograd.grad(value, list(problem.params.values()))
    return dict(zip(problem.params, slopes, strict=True))


def _off(eta: float, loss: str = "cross_entropy", clamped: int = SETTLED) -> float:
    """Return the relative error against the loss's gradient through hidden layers that settle under fixed outputs."""
    rule, batch = _ready(eta, loss, clamped)
    z = _settled(rule.problem, batch, None).detach()
    probabilities = rule.problem.loss.probabilities(z)
    under = _settled(rule.problem, batch, z if probabilities is None else probabilities)
    return relative_error(rule.direction(batch)[1], _gradient(rule.problem, rule.problem.output_loss(under, batch)))


def _order() -> float:
    """Return the power of eta with which the error falls over a factor of two."""
    return math.log2(_off(0.02) / _off(0.01))


def _off_stiff(stiffness: bool = True) -> float:
    """Return the relative error against (s_L - t) H ds_L/dW, or without H, for half a squared error.

    With linear outputs the energy's slope in s_L is s_L - z_L(s_L), so H is 1 less the slope of z_L, and symmetric.
    """
    rule, batch = _ready(1e-4, "half_squared_error")
    free = _settled(rule.problem, batch, None)
    error = (free - batch.targets).detach()
    held = free.detach().requires_grad_()
    if stiffness:
        (sent_back,) = torch.autograd.grad((_settled(rule.problem, batch, held) * error).sum(), held)
        error = error - sent_back
    expected = _gradient(rule.problem, (free * error).sum() / batch.rows)
    return relative_error(rule.direction(batch)[1], expected)


def _off_hebbian(eta: float) -> float:
    """Return the relative error against contrastive Hebbian learning at full feedback, both settled."""
    rule, batch = _ready(eta)
    other = set_up(ContrastiveHebbian(sgd(), 1.0, SETTLED, SETTLED, 1.0), rule.problem)
    return relative_error(rule.direction(batch)[1], other.direction(batch)[1])
