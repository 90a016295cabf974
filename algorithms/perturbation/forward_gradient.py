"""Forward gradients: the slope of the loss along a random direction, times that direction; no backward pass."""

from collections.abc import Callable
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
    check_name,
    check_whole,
)
from altprop.algorithms.perturbation.nodes import (
    Kept,
    disturbed_outputs,
    for_each_row,
    kept_pass,
    parameters_of,
    refuse_what_no_node_reaches,
)
from altprop.testing import monte_carlo, relative_error, set_up, sgd, toy

PERTURBED = ("weights", "activations")
DRAWS = ("normal", "rademacher")


class ForwardGradient(DirectionAlgorithm):
    """Step along (slope of the loss along v) v, with v drawn anew in each step: an unbiased estimate of the gradient.

    With E[v v^T] = I, the mean of (g . v) v is g. The slope g . v is exact: forward-mode differentiation gives it in
    one pass forward, without storing activations. What is drawn decides the variance:

        weights      v like all D parameters, one slope s = dL/dtheta . v for the whole batch; direction s v.
                     |s v - g|^2 is about (D + 1) |g|^2 (normal v).
        activations  u_l like the pre-activations z_l of each hidden block, rows of their own, and one slope for each
                     example i, s_i = sum over l of dL_i/dz_(l,i) . u_(l,i); then, as backpropagation has it,
                     delta_(l,i) = s_i u_(l,i), dW_l = delta_l^T x_l, db_l = sum over rows of delta_l.
                     The error is about n |g|^2 for n hidden units, over examples whose draws are independent.

    With `perturb=activations` the output block takes its own error dL/dz_L, which needs no way back. A step costs a
    jvp for each direction, and with activations one pass forward and the products above.

    Args:
        optimizer: how the direction becomes an update; it is no gradient, so closures are refused.
        perturb: weights or activations.
        directions: K, how many draws are averaged in a step.
        draw: normal, or rademacher (each element -1 or 1), whose error is smaller by the gradient's own square.

    Raises:
        AltpropError: for unknown names or a number below 1.
        Refused: at set-up with activations, for a model with normalisation or a noise that learns.

    Paper: Baydin, Pearlmutter, Syme, Wood and Torr 2022, Gradients without backpropagation (weights, one normal
    direction); Ren, Kornblith, Liao and Hinton 2023, Scaling forward gradient with local losses (activations). The
    local losses of the latter are no part of this learner: there is one loss, at the output.
    """

    requires = frozenset({Capability.GRADIENT})

    def __init__(
        self, optimizer: OptimizerFactory, perturb: str = "weights", directions: int = 1, draw: str = "normal"
    ) -> None:
        super().__init__(optimizer)
        self.perturb = check_name(perturb, "algorithm.perturb", PERTURBED)
        self.directions = check_whole(directions, "algorithm.directions", 1)
        self.draw = check_name(draw, "algorithm.draw", DRAWS)

    def _prepare(self, problem: Problem) -> None:
        if self.perturb == "activations":
            problem.refuse_unless("forward_gradient with perturb=activations", {Capability.LAYERED, Capability.CHAIN})
            refuse_what_no_node_reaches(problem)

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        if self.perturb == "weights":
            loss, total = self.along_weights(batch, [self._drawn(self.problem.flat().shape) for _ in self._times()])
            return loss, {name: value / self.directions for name, value in total.items()}
        problem = self.problem
        kept = kept_pass(problem, batch)
        draws = [[self._drawn(shape) for shape in kept.shapes[:-1]] for _ in self._times()]
        error = problem.output_gradient(kept.outputs, batch)
        deltas = [total / self.directions for total in self.along_activations(batch, error, draws)]
        return problem.output_loss(kept.outputs, batch), parameters_of(kept, [*deltas, error])

    def _times(self) -> range:
        return range(self.directions)

    def _drawn(self, shape: torch.Size) -> Tensor:
        random = self.problem.random
        return random.normal(*shape) if self.draw == "normal" else random.rademacher(*shape)

    def along_weights(self, batch: Batch, directions: list[Tensor]) -> tuple[Tensor, Grads]:
        """Return the loss and the sum of (g . v) v by parameter name, over the directions v, each (D,)."""
        problem = self.problem
        total = torch.zeros_like(problem.flat())
        for v in directions:
            loss, slope = problem.jvp(batch, problem.unflatten(v), penalty=False)
            total = total + slope * v
        return loss, problem.unflatten(total)

    def along_activations(self, batch: Batch, error: Tensor, draws: list[list[Tensor]]) -> list[Tensor]:
        """Return the sum of s_i u_(l,i) for each hidden block, shaped like its pre-activation.

        Args:
            batch: whose inputs are run.
            error: (B, C), the derivative of the loss in the outputs.
            draws: of each direction, u_l for each hidden block.
        """
        totals = [torch.zeros_like(u) for u in draws[0]]
        for u in draws:
            if u:  # a linear model has no hidden block
                slopes = self._slopes(batch, error, u)
                totals = [total + for_each_row(slopes, one) * one for total, one in zip(totals, u, strict=True)]
        return totals

    def _slopes(self, batch: Batch, error: Tensor, u: list[Tensor]) -> Tensor:
        """Return s (B,), the slope of each example's share of the loss where its pre-activations move along u."""

        def outputs(*disturbances: Tensor) -> Tensor:
            return disturbed_outputs(self.problem, batch.inputs, disturbances)

        _, moved = self.problem.push(outputs, [torch.zeros_like(one) for one in u], u)
        return (error * moved).sum(1)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that slope times direction is the gradient: over a basis to rounding, over draws in the mean."""
        return (
            Oracle("weights: over an orthonormal basis = the gradient", partial(_basis_of_weights, 1), 1e-12),
            Oracle("not along every second direction", partial(_basis_of_weights, 2), 0.05, differs=True),
            Oracle("activations: over an orthonormal basis = the gradient", partial(_basis_of_nodes, _own), 1e-12),
            Oracle("not with the batch's slope for every example", partial(_basis_of_nodes, _mean), 0.05, differs=True),
            Oracle("weights, normal: mean = the gradient, abs z", partial(_mean_error, "weights", "normal"), 4.0),
            Oracle(
                "activations, rademacher: mean = the gradient, abs z",
                partial(_mean_error, "activations", "rademacher"),
                4.0,
            ),
            Oracle("not minus the gradient: abs z", partial(_mean_error, "weights", "normal", -1.0), 4.0, differs=True),
        )


def _ready(perturb: str, draw: str = "normal") -> tuple[ForwardGradient, Batch]:
    problem, batch = toy((4, 5, 4, 3))
    return set_up(ForwardGradient(sgd(), perturb, draw=draw), problem), batch


def _basis_of_weights(every: int) -> float:
    """Return the relative error of the sum over each row, or every second one, of a random orthonormal basis."""
    rule, batch = _ready("weights")
    size = rule.problem.flat().numel()
    basis = torch.linalg.qr(rule.problem.random.normal(size, size)).Q
    return relative_error(rule.along_weights(batch, list(basis[::every]))[1], rule.problem.gradient(batch)[1])


def _own(slopes: Tensor) -> Tensor:
    return slopes


def _mean(slopes: Tensor) -> Tensor:
    return slopes.mean().expand_as(slopes)


def _basis_of_nodes(seen: Callable[[Tensor], Tensor]) -> float:
    """Return the relative error of the sum over the axes of all hidden units, each example with slopes as `seen`."""
    rule, batch = _ready("activations")
    problem = rule.problem
    kept: Kept = kept_pass(problem, batch)
    widths = [shape[1] for shape in kept.shapes[:-1]]
    axes = torch.eye(sum(widths), dtype=problem.dtype).split(widths, dim=1)
    rows = len(batch.index)
    draws = [[axis[k].expand(rows, -1) for axis in axes] for k in range(sum(widths))]
    error = problem.output_gradient(kept.outputs, batch)
    plain = rule._slopes
    rule._slopes = lambda *given: seen(plain(*given))  # type: ignore[method-assign]
    deltas = rule.along_activations(batch, error, draws)
    return relative_error(parameters_of(kept, [*deltas, error]), problem.gradient(batch)[1])


def _mean_error(perturb: str, draw: str, sign: float = 1.0) -> float:
    """Return the largest abs z-score of the mean of many estimates against the gradient, or minus that."""
    rule, batch = _ready(perturb, draw)
    problem = rule.problem
    expected = sign * problem.flatten(problem.gradient(batch)[1])
    return monte_carlo(lambda: problem.flatten(rule.direction(batch)[1]), expected, 500)
