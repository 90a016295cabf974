"""Node perturbation: noise on every unit, and one number, what the loss did, broadcast to all of them."""

from functools import partial
from types import MappingProxyType

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
    check_number,
    check_whole,
)
from altprop.algorithms.perturbation.checks import order
from altprop.algorithms.perturbation.nodes import (
    Kept,
    disturbed_outputs,
    example_shares,
    for_each_row,
    kept_pass,
    parameters_of,
    refuse_what_no_node_reaches,
)
from altprop.testing import relative_error, set_up, sgd, toy


class NodePerturbation(DirectionAlgorithm):
    """Learn at each synapse from three factors: the noise of its unit, what it was given, and what the loss did.

    Each pre-activation z_(l,i) of block l and example i, those of the output block too, is disturbed by sigma xi_(l,i),
    xi from N(0, I), and with L_i the example's share of the batch's loss

        sides = 1:  s_i = (L_i(z + sigma xi) - L_i(z)) / sigma
        sides = 2:  s_i = (L_i(z + sigma xi) - L_i(z - sigma xi)) / (2 sigma)
        dW_l = sum over i of s_i xi_(l,i) x_(l,i)^T,    db_l = sum over i of s_i xi_(l,i),

    with x_l what block l is given in the pass without noise. As sigma -> 0 it is the forward gradient along xi, whose
    mean is the gradient; the bias is of order sigma^2. Nothing is differentiated, the activation neither: a net of
    sign units learns. A step costs one pass forward that keeps x_l, and `sides` more for each draw.

    Args:
        optimizer: how the direction becomes an update; it is no gradient, so closures are refused.
        sigma: standard deviation of the noise, in units of the pre-activations. Below 1e-4 the rounding of float32
            outweighs the difference of the losses.
        sides: 1, against the loss without noise, or 2.
        samples: how many draws are averaged in a step.

    Raises:
        AltpropError: for values outside these.
        Refused: at set-up, for a model with normalisation or a noise that learns.

    Paper: Fiete and Seung 2006, Gradient learning in spiking neural networks by dynamic perturbation of conductances;
    the variance in nets: Werfel, Xie and Seung 2005. Some take x_l from the noisy pass; the mean is the same to
    first order in sigma.
    """

    requires = frozenset({Capability.LAYERED, Capability.CHAIN, Capability.SUPERVISED})
    exempt = MappingProxyType(
        {
            "changes_nothing_without_an_error": (
                "at a minimum noise raises the loss by a term of order sigma^2, and with one side that times the noise "
                "is a random step"
            )
        }
    )

    def __init__(self, optimizer: OptimizerFactory, sigma: float = 0.01, sides: int = 1, samples: int = 1) -> None:
        super().__init__(optimizer)
        self.sigma = check_number(sigma, "algorithm.sigma", above=0.0)
        self.sides = check_whole(sides, "algorithm.sides", 1, 2)
        self.samples = check_whole(samples, "algorithm.samples", 1)

    def _prepare(self, problem: Problem) -> None:
        refuse_what_no_node_reaches(problem)

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        problem = self.problem
        kept = kept_pass(problem, batch)
        draws = [[problem.random.normal(*shape) for shape in kept.shapes] for _ in range(self.samples)]
        return problem.output_loss(kept.outputs, batch), self.along(batch, kept, draws)

    def along(self, batch: Batch, kept: Kept, draws: list[list[Tensor]]) -> Grads:
        """Return the mean over the draws, each xi_l for every block, of the direction that it gives."""
        totals = [torch.zeros_like(xi) for xi in draws[0]]
        for draw in draws:
            slopes = self._slopes(batch, kept, draw) / len(draws)
            totals = [total + for_each_row(slopes, xi) * xi for total, xi in zip(totals, draw, strict=True)]
        return parameters_of(kept, totals)

    def _slopes(self, batch: Batch, kept: Kept, draw: list[Tensor]) -> Tensor:
        """Return s (B,), from the losses of the examples with noise and without, or with its mirror image."""
        above = self._losses(batch, [self.sigma * xi for xi in draw])
        if self.sides == 2:
            below = self._losses(batch, [-self.sigma * xi for xi in draw])
        else:
            below = self.problem.loss.per_element(kept.outputs, batch.targets)
        return example_shares(self.problem, batch, above) * (above - below) / (self.sides * self.sigma)

    def _losses(self, batch: Batch, disturbances: list[Tensor]) -> Tensor:
        """Return the loss of each example, (B,), under disturbed pre-activations."""
        problem = self.problem
        with torch.no_grad(), problem.ledger.primitive("forward", batch.rows):
            outputs = disturbed_outputs(problem, batch.inputs, disturbances)
            return problem.loss.per_element(outputs, batch.targets)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check the sum over all units, what a quadratic allows, and how the error falls with sigma."""
        return (
            Oracle("over the axes of all units = the gradient", partial(_over_axes, 2, 1e-4), 1e-7),
            Oracle("not with a sigma of 1", partial(_over_axes, 2, 1.0), 0.02, differs=True),
            Oracle(
                "linear net and squared error: two sides are exact at sigma = 1",
                partial(_over_axes, 2, 1.0, "identity", "half_squared_error"),
                1e-12,
            ),
            Oracle("not one side", partial(_over_axes, 1, 1.0, "identity", "half_squared_error"), 0.02, differs=True),
            Oracle("one side: error O(sigma), slope off 1 by", partial(_order_error, 1, 1), 0.1),
            Oracle("two sides: error O(sigma^2), slope off 2 by", partial(_order_error, 2, 2), 0.1),
            Oracle("not one side: error O(sigma^2)", partial(_order_error, 1, 2), 0.1, differs=True),
        )


def _over_axes(sides: int, sigma: float, activation: str = "tanh", loss: str = "cross_entropy") -> float:
    """Return the relative error of the sum over the axes of all units against the gradient."""
    problem, batch = toy((4, 5, 4, 3), activation=activation, loss=loss)
    rule = set_up(NodePerturbation(sgd(), sigma, sides), problem)
    kept = kept_pass(problem, batch)
    widths = [shape[1] for shape in kept.shapes]
    axes = torch.eye(sum(widths), dtype=problem.dtype).split(widths, dim=1)
    draws = [[axis[k].expand(len(batch.index), -1) for axis in axes] for k in range(sum(widths))]
    mean = rule.along(batch, kept, draws)
    return relative_error({name: len(draws) * value for name, value in mean.items()}, problem.gradient(batch)[1])


def _order_error(sides: int, claimed: int) -> float:
    """Return how far the order of the error is from the claimed one, between sigma = .03 and .003."""
    return abs(order(partial(_over_axes, sides), (0.03, 0.01, 0.003)) - claimed)
