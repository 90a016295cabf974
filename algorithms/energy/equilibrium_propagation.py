"""Equilibrium propagation: weights learn from how a settled network moves when its outputs are nudged."""

import math
from collections.abc import Callable, Mapping
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
    check_name,
    check_number,
    check_whole,
)
from altprop.algorithms.energy.settling import hidden_blocks, settle
from altprop.testing import relative_error, set_up, sgd, toy

NUDGES = ("centred", "one_sided", "random_sign")
NOT_MONOTONE = ("gelu", "silu")


class EquilibriumPropagation(DirectionAlgorithm):
    r"""Settle freely, settle again with the loss pulling at the outputs, and learn from the difference.

    The hidden layers have states s_1 .. s_(L-1), (B, n_l), s_0 the inputs, which the weights W_l of the model connect
    in both directions. With f the activation, G' its inverse and l_i the loss of a row, read out of the last state by
    the last block f_L, the energy of a row is

        F_i(beta) = sum_(l < L) [G(s_l) - b_l s_l - s_l W_l s_(l-1)] + beta l_i(f_L(s_(L-1))),

    and states settle from those of a forward pass by steps of

        s_l <- (1 - rate) s_l + rate f(W_l s_(l-1) + b_l + W_(l+1)^T s_(l+1) - [l = L-1] beta dl_i/ds_(L-1)),

    `free_steps` with beta = 0, from there `nudged_steps` with beta. Predictions are those of the free equilibrium. The
    direction is the mean over rows of

        (dF_i(beta)/dW at s^beta - dF_i(-beta)/dW at s^-beta) / (2 beta)    centred,
        (dF_i(beta)/dW at s^beta - dF_i(0)/dW at s^0) / beta                one_sided; random_sign draws beta's sign,

    for a hidden layer the difference of two products s_l s_(l-1)^T. Settled, it is the gradient of the loss at the free
    equilibrium, centred with an error of order beta^2 and one-sided of order beta. No activation is differentiated.

    With one hidden layer the free equilibrium is the forward pass. Settling needs weights that are not too large for
    the slope of f: bounded activations (tanh, sigmoid) settle best. Normalisation and noise have no energy here and are
    refused, as are gelu and silu, which have no inverse.

    Args:
        optimizer: the optimizer axis; directions are no gradients, so closures are refused.
        nudge: centred, one_sided or random_sign.
        beta: strength of the nudge, above 0.
        free_steps, nudged_steps: of settling, at least 1.
        rate: of settling, above 0 and at most 1.

    Raises:
        AltpropError: for an unknown nudge or a number out of range.

    Paper: Scellier and Bengio 2017, Equilibrium Propagation, Frontiers in Computational Neuroscience; the readout of
    the loss and the centred estimate: Laborieux et al. 2021, Scaling Equilibrium Propagation to Deep ConvNets,
    Frontiers in Neuroscience. There states start at 0 and f is a hard sigmoid.
    """

    requires = frozenset({Capability.LAYERED, Capability.CHAIN})

    def __init__(
        self,
        optimizer: OptimizerFactory,
        nudge: str = "centred",
        beta: float = 0.5,
        free_steps: int = 20,
        nudged_steps: int = 8,
        rate: float = 0.7,
    ) -> None:
        super().__init__(optimizer)
        self.nudge = check_name(nudge, "algorithm.nudge", NUDGES)
        self.beta = check_number(beta, "algorithm.beta", above=0.0)
        self.free_steps = check_whole(free_steps, "algorithm.free_steps", 1)
        self.nudged_steps = check_whole(nudged_steps, "algorithm.nudged_steps", 1)
        self.rate = check_number(rate, "algorithm.rate", above=0.0, high=1.0)

    def _prepare(self, problem: Problem) -> None:
        self._hidden = hidden_blocks(problem, "equilibrium propagation")
        odd = [block.activation.name for block in self._hidden if block.activation.name in NOT_MONOTONE]
        if odd:
            raise Refused(
                f"equilibrium propagation needs an activation with an inverse, and {odd[0]} falls before it rises; "
                "use model.activation=tanh"
            )

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        problem = self.problem
        free = self.free(problem.walk(batch))
        loss = problem.output_loss(free.outputs, batch)
        beta: float | Tensor = self.beta
        if self.nudge == "random_sign":
            beta = self.beta * problem.random.rademacher(1)
        there = self.nudged(batch, free, beta)
        back = self.nudged(batch, free, -beta) if self.nudge == "centred" else self.products(batch, free, 0.0)
        scale = -1 / (problem.divisor(batch) * beta * (2 if self.nudge == "centred" else 1))
        return loss, {name: scale * (value - back[name]) for name, value in there.items()}

    def free(self, walk: ChainWalk) -> ChainWalk:
        """Return the walk at the free equilibrium, from a forward pass."""
        return self._settled(walk.at(walk.block_outputs[:-1]), self.free_steps)

    def nudged(self, batch: Batch, free: ChainWalk, beta: float | Tensor) -> Grads:
        """Settle from the free equilibrium under a nudge, and return the products there.

        Args:
            batch: that is learned from.
            free: at the free equilibrium.
            beta: strength and sign.
        """
        walk = self._settled(free, self.nudged_steps, lambda walk: self._pull(batch, walk, beta))
        return self.products(batch, walk, beta)

    def products(self, batch: Batch, walk: ChainWalk, beta: float | Tensor) -> Grads:
        """Return minus dF/dW at the states of a walk, summed over rows; the nudge's own for the last block."""
        return walk.outer([*walk.states, self._pull(batch, walk, beta)])

    def _pull(self, batch: Batch, walk: ChainWalk, beta: float | Tensor) -> Tensor:
        """Return -beta dl_i/dz_L of each row, (B, C): what pulls at the last block."""
        slope = self.problem.divisor(batch) * self.problem.output_gradient(walk.outputs, batch)
        return -beta * walk.delta(len(walk.states), slope)

    def _settled(self, walk: ChainWalk, steps: int, pull: Callable[[ChainWalk], Tensor] | None = None) -> ChainWalk:
        return settle(walk, self._hidden, steps, self.rate, pull)

    def _predictor(self) -> Callable[[Tensor], Tensor]:
        return self._predict

    def _predict(self, inputs: Tensor) -> Tensor:
        """Return the outputs (B, C) at the free equilibrium."""
        return self.free(ChainWalk(self.problem, inputs)).outputs

    def _probe(self, batch: Batch) -> Mapping[str, Tensor | float]:
        """Return how far another step would move the free states, and how far the nudge does, as shares of them."""
        free = self.free(self.problem.walk(batch))
        more = self._settled(free, 1)
        nudged = self._settled(free, self.nudged_steps, lambda walk: self._pull(batch, walk, self.beta))
        return {"unsettled": _moved(free, more), "nudged_by": _moved(free, nudged)}

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check the estimate against the gradient of the loss at the free equilibrium, and its two laws of error."""

        def rule(nudge: str = "centred", beta: float = 1e-3, **options: int) -> "EquilibriumPropagation":
            settling = {"free_steps": 150, "nudged_steps": 150} | options
            return cls(sgd(), nudge, beta, **settling)

        return (
            Oracle("centred: the gradient at the free equilibrium", lambda: _off(rule()), 1e-5),
            Oracle("one-sided, to order beta", lambda: _off(rule("one_sided")), 5e-3),
            Oracle("not the gradient of the forward pass", lambda: _off(rule(), unrolled=0), 0.02, differs=True),
            Oracle("not one-sided, freely unsettled", lambda: _off(rule("one_sided", free_steps=1)), 0.1, differs=True),
            Oracle("not after one nudged step", lambda: _off(rule(nudged_steps=1)), 1e-3, differs=True),
            Oracle("centred: order of the error, less 2", lambda: abs(_order(rule, "centred") - 2), 0.1),
            Oracle("one-sided: order of the error, less 1", lambda: abs(_order(rule, "one_sided") - 1), 0.1),
            Oracle("the free equilibrium is the energy's minimum", lambda: _slope_at_rest(rule()), 1e-12),
        )


def _moved(before: ChainWalk, after: ChainWalk) -> Tensor:
    """Return the norm of the change of all states, relative to that of the states; 0 where there are none."""
    if not before.states:
        return torch.zeros_like(before.outputs[0, 0])
    pairs = zip(before.states, after.states, strict=True)
    changes, sizes = zip(*(((new - old).norm(), old.norm()) for old, new in pairs), strict=True)
    share: Tensor = torch.stack(changes).norm() / torch.stack(sizes).norm()
    return share


def _small() -> tuple[Problem, Batch]:
    """Return a problem whose weights are small enough to settle to rounding in a hundred steps."""
    problem, batch = toy()
    problem.assign(0.25 * problem.flat())
    return problem, batch


def _off(rule: EquilibriumPropagation, unrolled: int = 300) -> float:
    """Return the relative error of the direction against autograd through so many steps of settling."""
    problem, batch = _small()
    set_up(rule, problem)
    blocks = [cast("Block", block) for block in problem.layered.blocks]
    states, x = [], batch.inputs
    for block in blocks[:-1]:
        x = block(x)
        states.append(x)
    for _ in range(unrolled):
        drives = [block.transform(x) for block, x in zip(blocks, [batch.inputs, *states], strict=False)][:-1]
        above = [s @ block.weight for s, block in zip(states[1:], blocks[1:], strict=False)]
        drives = [z + above[i] if i < len(above) else z for i, z in enumerate(drives)]
        states = [
            0.5 * s + 0.5 * block.activation.function(u) for s, u, block in zip(states, drives, blocks, strict=False)
        ]
    loss = problem.output_loss(blocks[-1](states[-1]), batch)
    slopes = torch.autograd.grad(loss, list(problem.params.values()))
    return relative_error(rule.direction(batch)[1], dict(zip(problem.params, slopes, strict=True)))


def _order(rule: Callable[[str, float], EquilibriumPropagation], nudge: str) -> float:
    """Return the power of beta with which the error falls over a factor of two."""
    coarse, fine = (_off(rule(nudge, beta)) for beta in (0.02, 0.01))
    return math.log2(coarse / fine)


def _slope_at_rest(rule: EquilibriumPropagation) -> float:
    """Return the largest slope of the energy in a state at the free equilibrium, for tanh: G' = artanh."""
    problem, batch = _small()
    walk = set_up(rule, problem).free(problem.walk(batch))
    states = [state.requires_grad_() for state in walk.states]
    energy, x = torch.zeros_like(problem.flat()[0]), batch.inputs
    for block, state in zip([cast("Block", one) for one in problem.layered.blocks], states, strict=False):
        conjugate = state * state.atanh() + 0.5 * torch.log1p(-state * state)
        energy, x = energy + (conjugate - state * block.transform(x)).sum(), state
    return max(float(slope.abs().max()) for slope in torch.autograd.grad(energy, states))
