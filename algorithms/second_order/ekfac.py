"""E-KFAC: the curvature's own diagonal in the eigenbasis of the Kronecker factors."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from altprop import Algorithm, Batch, Capability, Oracle, Problem, StepResult, check_name, check_number, check_whole
from altprop.algorithms.second_order import kronecker
from altprop.algorithms.second_order.kronecker import Factors, Statistics
from altprop.testing import set_up, toy


class EKFAC(Algorithm):
    """Rescale the gradient G of [W b] in the eigenbasis Q_B x Q_A of K-FAC's factors by the curvature's own diagonal.

    `kronecker` says what A and B are. K-FAC takes the products of their eigenvalues for the curvature along the basis;
    here it is measured, s = E[(Q_B^T G_i Q_A)^2], (n, m + 1), over the gradients G_i of single examples, which is the
    best diagonal in that basis. Factors and their eigenvectors are made every `every` steps, s every `rescale`:

        V <- momentum V - lr nu Q_B [(Q_B^T G Q_A) / (s + damping)] Q_A^T,    [W b] <- [W b] + V

    s is averaged over time within one basis and starts anew in the next. nu <= 1 keeps what a step changes of the
    model's distribution below `trust` (`kronecker.clipped`). What is not finite leaves factors, s and weights as they
    are.

    Args:
        lr: learning rate, above 0.
        momentum: at least 0 and below 1.
        damping: on the scale of the loss's curvature, above 0.
        fisher: type-2, mc or empirical: which curvature it is of.
        sharing: expand or reduce: how the places that share a convolution's weights are summed.
        every: steps between two bases.
        rescale: steps between two measurements of s, in whose place a new basis counts as well.
        decay: the largest weight of the past in an average, at least 0 and below 1.
        trust: nats, above 0.

    Raises:
        AltpropError: for an unknown name or a number out of range.

    Paper: George, Laurent, Bouthillier, Ballas and Vincent 2018, arXiv:1806.03884. They measure s in every step or
    average it from the gradients of the steps themselves, which is the empirical Fisher; here `fisher` decides.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.GRADIENT, Capability.CURVATURE, Capability.LAYERED, Capability.CHAIN, Capability.SUPERVISED}
    )
    state: ClassVar[tuple[str, ...]] = ("factors", "bases", "scales", "velocities", "taken", "refreshed", "measured")

    def __init__(
        self,
        lr: float = 0.03,
        momentum: float = 0.9,
        damping: float = 0.03,
        fisher: str = "mc",
        sharing: str = "expand",
        every: int = 20,
        rescale: int = 5,
        decay: float = 0.95,
        trust: float = 3e-4,
    ) -> None:
        self.lr = check_number(lr, "algorithm.lr", above=0.0)
        self.momentum = check_number(momentum, "algorithm.momentum", 0.0, below=1.0)
        self.damping = check_number(damping, "algorithm.damping", above=0.0)
        self.fisher = check_name(fisher, "algorithm.fisher", kronecker.VARIANTS)
        self.sharing = check_name(sharing, "algorithm.sharing", kronecker.SHARINGS)
        self.every = check_whole(every, "algorithm.every", 1)
        self.rescale = check_whole(rescale, "algorithm.rescale", 1)
        self.decay = check_number(decay, "algorithm.decay", 0.0, below=1.0)
        self.trust = check_number(trust, "algorithm.trust", above=0.0)

    def _setup(self, problem: Problem) -> None:
        kronecker.refuse_other_layers(problem, "ekfac")
        self.velocities, self.scales = kronecker.still(problem), kronecker.still(problem)
        self.factors = kronecker.no_factors(self.velocities)
        self.bases = kronecker.no_factors(self.velocities)
        self.taken = self.refreshed = self.measured = 0

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        anew = self.taken % self.every == 0
        with problem.same_noise():
            loss, grads = problem.gradient(batch)
            if anew or self.taken % self.rescale == 0:
                self.refresh(batch, anew)
        self.taken += 1
        pace = self.lr, self.momentum, self.trust
        clip = kronecker.descended(problem, grads, self.velocities, self.preconditioned, pace)
        return StepResult(loss, {"clip": clip})

    def refresh(self, batch: Batch, anew: bool) -> None:
        """Measure s on a batch, in a basis of that batch's factors where it is `anew`."""
        problem = self.problem
        with torch.no_grad():
            found = kronecker.statistics(problem, batch, self.fisher, self.sharing)
            if anew:
                self._turn(found, batch)
            with problem.ledger.work("scales in the eigenbasis", per="example", examples=batch.rows):
                new = kronecker.scales(found, [Factors(*pair) for pair in self.bases])
            self.measured += 1
            keep = min(1 - 1 / self.measured, self.decay)
            self.scales = kronecker.averaged_diagonals(self.scales, new, keep)

    def _turn(self, found: Statistics, batch: Batch) -> None:
        """Take the factors of a batch into their averages, and their eigenvectors for the basis."""
        with self.problem.ledger.work("curvature factors", per="example", examples=batch.rows):
            new = kronecker.factors(found)
        self.refreshed, self.measured = self.refreshed + 1, 0
        with self.problem.ledger.work("eigenbases of factors", per="call"):
            self.factors = kronecker.averaged(self.factors, new, min(1 - 1 / self.refreshed, self.decay))
            self.bases = [Factors(*(torch.linalg.eigh(one)[1] for one in pair)) for pair in self.factors]

    def preconditioned(self, gradients: list[Tensor]) -> list[Tensor]:
        """Return the gradients of each layer, (n, m + 1), over s + damping in the eigenbasis."""
        found = []
        for (q_a, q_b), s, g in zip(self.bases, self.scales, gradients, strict=True):
            turned = (q_b.mT @ g @ q_a) / (s.clamp(min=0) + self.damping)
            found.append(q_b @ turned @ q_a.mT)
        return found

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check s against the Gauss-Newton matrix itself, and the step against a solve with the matrix that s makes."""
        return (
            Oracle("type-2: s is the diagonal of the layer's Gauss-Newton block in the eigenbasis", _diagonal, 1e-12),
            Oracle("not the products of K-FAC's eigenvalues", partial(_diagonal, True), 1e-2, differs=True),
            Oracle(
                "deep linear: s is those products, and so E-KFAC is K-FAC", partial(_diagonal, True, "identity"), 1e-12
            ),
            Oracle("a step solves with Q (s + damping) Q^T", partial(_solve_error, 1.0), 1e-10),
            Oracle("not with twice the damping", partial(_solve_error, 2.0), 1e-3, differs=True),
        )


def _ready(activation: str = "tanh") -> tuple[EKFAC, Batch]:
    problem, batch = toy((4, 5, 6, 3), rows=9, activation=activation, loss="mse")
    rule = set_up(EKFAC(fisher="type-2"), problem)
    rule.refresh(batch, True)
    return rule, batch


def _diagonal(products: bool = False, activation: str = "tanh") -> float:
    """Return the largest relative distance of s, or of the products of eigenvalues, from the exact diagonal."""
    rule, batch = _ready(activation)
    here, size = rule.problem.linearize(batch), rule.problem.flat().numel()
    places = kronecker.matrices(rule.problem, rule.problem.unflatten(torch.arange(size, device="cpu")))
    unit = torch.eye(size, dtype=rule.problem.dtype, device="cpu")
    worst = 0.0
    for place, one, (q_a, q_b), s in zip(places, rule.factors, rule.bases, rule.scales, strict=True):
        index = place.flatten()
        block = torch.stack([here.ggn_vp(unit[row])[index] for row in index])
        q = torch.kron(q_b, q_a)
        exact = (q.T @ block @ q).diagonal().reshape(s.shape)
        found = torch.outer(torch.linalg.eigvalsh(one.b), torch.linalg.eigvalsh(one.a)) if products else s
        worst = max(worst, float((found - exact).norm() / exact.norm()))
    return worst


def _solve_error(times: float) -> float:
    """Return the relative error of a layer's direction as the solution with Q (s + times damping) Q^T."""
    rule, batch = _ready()
    gradients = kronecker.matrices(rule.problem, rule.problem.gradient(batch)[1])
    worst = 0.0
    for (q_a, q_b), s, g, v in zip(rule.bases, rule.scales, gradients, rule.preconditioned(gradients), strict=True):
        q = torch.kron(q_b, q_a)
        matrix = q @ torch.diag(s.flatten() + times * rule.damping) @ q.T
        worst = max(worst, float((matrix @ v.flatten() - g.flatten()).norm() / g.norm()))
    return worst
