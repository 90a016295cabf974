"""The diagonal of the Gauss-Newton matrix, from the layers' own squares, as a preconditioner."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from altprop import Algorithm, Batch, Capability, Oracle, Problem, StepResult, check_name, check_number, check_whole
from altprop.algorithms.second_order import kronecker
from altprop.testing import monte_carlo, set_up, toy


class DiagonalGaussNewton(Algorithm):
    """Divide the gradient by the diagonal of the curvature, element by element.

    In a layer with inputs a and cotangents g of its pre-activations that diagonal is s = E[(sum_t g_t a_t^T)^2], (n,
    m + 1) for [W b], which for dense layers is one product of squares, (g^2)^T (a^2): no gradient of a single example
    is made (`kronecker.diagonals`). It is taken on the batch of the step every `every` steps, averaged over time, and

        V <- momentum V - lr nu G / (s + damping),    [W b] <- [W b] + V

    where nu <= 1 keeps what a step changes of the model's distribution, as s has it, below `trust`
    (`kronecker.clipped`). What is not finite leaves s and weights; `clip` is 0 then.

    Args:
        lr: learning rate, above 0.
        momentum: at least 0 and below 1.
        damping: on the scale of the loss's curvature, above 0.
        fisher: type-2 for the exact diagonal, mc for its estimate from one drawn target a row, or empirical.
        every: steps between two measurements of s.
        decay: the largest weight of the past in the average, at least 0 and below 1.
        trust: nats, above 0.

    Raises:
        AltpropError: for an unknown name or a number out of range.

    Paper: Dangel, Kunstner and Hennig 2020, arXiv:1912.10985 (BackPACK's DiagGGN and DiagGGN-MC), whose step is without
    momentum, average and trust region.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.GRADIENT, Capability.CURVATURE, Capability.LAYERED, Capability.CHAIN, Capability.SUPERVISED}
    )
    state: ClassVar[tuple[str, ...]] = ("scales", "velocities", "taken", "measured")

    def __init__(
        self,
        lr: float = 0.03,
        momentum: float = 0.9,
        damping: float = 0.03,
        fisher: str = "mc",
        every: int = 1,
        decay: float = 0.95,
        trust: float = 3e-3,
    ) -> None:
        self.lr = check_number(lr, "algorithm.lr", above=0.0)
        self.momentum = check_number(momentum, "algorithm.momentum", 0.0, below=1.0)
        self.damping = check_number(damping, "algorithm.damping", above=0.0)
        self.fisher = check_name(fisher, "algorithm.fisher", kronecker.VARIANTS)
        self.every = check_whole(every, "algorithm.every", 1)
        self.decay = check_number(decay, "algorithm.decay", 0.0, below=1.0)
        self.trust = check_number(trust, "algorithm.trust", above=0.0)

    def _setup(self, problem: Problem) -> None:
        kronecker.refuse_other_layers(problem, "diagonal_gauss_newton")
        self.velocities, self.scales = kronecker.still(problem), kronecker.still(problem)
        self.taken = self.measured = 0

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        with problem.same_noise():
            loss, grads = problem.gradient(batch)
            if self.taken % self.every == 0:
                self.refresh(batch)
        self.taken += 1
        pace = self.lr, self.momentum, self.trust
        clip = kronecker.descended(problem, grads, self.velocities, self.preconditioned, pace)
        return StepResult(loss, {"clip": clip})

    def refresh(self, batch: Batch) -> None:
        """Take the diagonal on a batch into its average."""
        problem = self.problem
        with torch.no_grad():
            found = kronecker.statistics(problem, batch, self.fisher, "expand")
            with problem.ledger.work("diagonal of the curvature", per="example", examples=batch.rows):
                new = kronecker.diagonals(found)
        self.measured += 1
        keep = min(1 - 1 / self.measured, self.decay)
        self.scales = kronecker.averaged_diagonals(self.scales, new, keep)

    def preconditioned(self, gradients: list[Tensor]) -> list[Tensor]:
        """Return the gradients of each layer, (n, m + 1), over s + damping."""
        return [g / (s.clamp(min=0) + self.damping) for g, s in zip(gradients, self.scales, strict=True)]

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check s against the diagonal of the Gauss-Newton matrix itself."""
        return (
            *(Oracle(f"type-2: s is the exact diagonal, {e}", partial(_off, "type-2", e), 1e-12) for e in LOSSES),
            Oracle("the empirical one is not", partial(_off, "empirical", "mse"), 0.1, differs=True),
            Oracle("mc: the mean of s is that of type-2, abs z", partial(_z_score, 1.0), 4.0),
            Oracle("mc: not half of it, abs z", partial(_z_score, 0.5), 4.0, differs=True),
        )


LOSSES = ("cross_entropy", "mse")


def _ready(fisher: str, loss: str) -> tuple[DiagonalGaussNewton, Batch]:
    problem, batch = toy((4, 5, 3), rows=9, loss=loss)
    return set_up(DiagonalGaussNewton(fisher=fisher), problem), batch


def _off(fisher: str, loss: str) -> float:
    """Return the largest relative distance of a layer's s from the exact diagonal."""
    rule, batch = _ready(fisher, loss)
    rule.refresh(batch)
    problem = rule.problem
    here = problem.linearize(batch)
    unit = torch.eye(len(here.gradient), dtype=problem.dtype, device="cpu")
    diagonal = torch.stack([here.ggn_vp(row)[place] for place, row in enumerate(unit)])
    exact = kronecker.matrices(problem, problem.unflatten(diagonal))
    return max(float((s - e).norm() / e.norm()) for s, e in zip(rule.scales, exact, strict=True))


def _z_score(share: float) -> float:
    rule, batch = _ready("mc", "mse")

    def s_of(variant: str) -> Tensor:
        found = kronecker.diagonals(kronecker.statistics(rule.problem, batch, variant, "expand"))
        return torch.cat([one.flatten() for one in found])

    return monte_carlo(lambda: torch.stack([s_of("mc") for _ in range(5)]).mean(0), share * s_of("type-2"), 150)
