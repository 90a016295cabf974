"""K-FAC: the natural gradient with a Kronecker-factored curvature, one pair of small matrices a layer."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from altprop import Algorithm, Batch, Capability, Oracle, Problem, StepResult, check_name, check_number, check_whole
from altprop.algorithms.second_order import kronecker
from altprop.algorithms.second_order.kronecker import Factors
from altprop.testing import monte_carlo, set_up, toy


class KFAC(Algorithm):
    """Step along B^-1 G A^-1 in each layer, with G the gradient of [W b] and B x A its Kronecker-factored curvature.

    `kronecker` says what A, (m + 1, m + 1), and B, (n, n), are. Every `every` steps they are taken on the batch of the
    step, averaged over time and inverted; in between a step costs two matrix products a layer more than a gradient:

        A <- rho_k A + (1 - rho_k) A_batch,   B alike,   rho_k = min(1 - 1/k, decay) at the k-th time
        V <- momentum V - lr nu (B + sqrt(damping) / pi I)^-1 G (A + pi sqrt(damping) I)^-1,   [W b] <- [W b] + V

    pi shares the damping between the two (`kronecker.split_damping`); nu <= 1 keeps what a step changes of the model's
    distribution below `trust` (`kronecker.clipped`). Weight and bias of a layer are one matrix, with a 1 beside what
    the layer sees. A factor that is not finite or not positive definite leaves the inverse of before, and a direction
    that is not finite adds nothing: the scalar `clip` is 0 in such a step.

    Args:
        lr: learning rate, above 0.
        momentum: at least 0 and below 1.
        damping: lambda, on the scale of the loss's curvature, above 0.
        fisher: type-2, mc or empirical: which curvature the factors are of.
        sharing: expand or reduce: how the places that share a convolution's weights are summed.
        every: T, steps between two refreshes of factors and inverses.
        decay: the largest rho, at least 0 and below 1.
        trust: nats, above 0.

    Raises:
        AltpropError: for an unknown name or a number out of range.

    Paper: Martens and Grosse 2015, arXiv:1503.05671; for convolutions Grosse and Martens 2016, arXiv:1602.01407, and
    Eschenhagen et al. 2023, arXiv:2311.00636. Of the first we leave out the adaptive damping and the exact rescaling
    by a quadratic model, for the fixed damping and the trust region of Ba et al. 2017 that later work uses. Codes
    differ in what T counts: here factors and inverses are both made every T steps, from one batch.

    A layer whose curvature is far below `damping` takes the step lr / damping times its gradient, as gradient descent
    would. That is why ten layers of relu stay at chance at the defaults under torch's initialisation, as they do under
    SGD: a gradient shrinks there by 6^(1/2) a layer, and the first five layers have curvatures of 1e-9 to 1e-6. Under
    He's initialisation the same net has curvatures near 1 and learns. To use curvature so small takes factors of the
    very step and no momentum: damping=1e-6, every=1, momentum=0 brings that net from 2.30 to 0.02 on digits in 400
    steps (Adam, lr=.003, in 600: 0.14 and 0.09), and blows up with momentum=0.9 or with factors that are 3 steps old.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.GRADIENT, Capability.CURVATURE, Capability.LAYERED, Capability.CHAIN, Capability.SUPERVISED}
    )
    state: ClassVar[tuple[str, ...]] = ("factors", "inverses", "velocities", "taken", "refreshed")

    def __init__(
        self,
        lr: float = 0.03,
        momentum: float = 0.9,
        damping: float = 0.03,
        fisher: str = "mc",
        sharing: str = "expand",
        every: int = 10,
        decay: float = 0.95,
        trust: float = 3e-4,
    ) -> None:
        self.lr = check_number(lr, "algorithm.lr", above=0.0)
        self.momentum = check_number(momentum, "algorithm.momentum", 0.0, below=1.0)
        self.damping = check_number(damping, "algorithm.damping", above=0.0)
        self.fisher = check_name(fisher, "algorithm.fisher", kronecker.VARIANTS)
        self.sharing = check_name(sharing, "algorithm.sharing", kronecker.SHARINGS)
        self.every = check_whole(every, "algorithm.every", 1)
        self.decay = check_number(decay, "algorithm.decay", 0.0, below=1.0)
        self.trust = check_number(trust, "algorithm.trust", above=0.0)

    def _setup(self, problem: Problem) -> None:
        kronecker.refuse_other_layers(problem, "kfac")
        self.velocities = kronecker.still(problem)
        self.factors = kronecker.no_factors(self.velocities)
        self.inverses = kronecker.no_factors(self.velocities)
        self.taken = self.refreshed = 0

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
        """Take the factors on a batch into their averages, and invert them."""
        problem = self.problem
        with torch.no_grad():
            found = kronecker.statistics(problem, batch, self.fisher, self.sharing)
            with problem.ledger.work("curvature factors", per="example", examples=batch.rows):
                new = kronecker.factors(found)
            self.refreshed += 1
            keep = min(1 - 1 / self.refreshed, self.decay)
            with problem.ledger.work("inverses of factors", per="call"):
                self.factors = kronecker.averaged(self.factors, new, keep)
                self.inverses = [self.inverse(*pair) for pair in zip(self.factors, self.inverses, strict=True)]

    def inverse(self, one: Factors, old: Factors) -> Factors:
        """Return the damped inverses of A and B."""
        shares = kronecker.split_damping(one, self.damping)
        return Factors(*(kronecker.damped_inverse(*each) for each in zip(one, shares, old, strict=True)))

    def preconditioned(self, gradients: list[Tensor]) -> list[Tensor]:
        """Return B^-1 G A^-1 of each layer, (n, m + 1)."""
        return [b @ g @ a for (a, b), g in zip(self.inverses, gradients, strict=True)]

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check the factors against the Gauss-Newton matrix, and the step against the damped Kronecker product."""
        return (
            Oracle("deep linear, squared error: B x A is the layers' Gauss-Newton block", partial(_off, "none"), 1e-12),
            Oracle("not of a tanh net", partial(_off, "tanh"), 1e-2, differs=True),
            Oracle("not the empirical Fisher", partial(_off, "none", "empirical"), 0.1, differs=True),
            Oracle("mc: the mean of B is that of type-2, abs z", partial(_z_score, 1.0), 4.0),
            Oracle("mc: not half of it, abs z", partial(_z_score, 0.5), 4.0, differs=True),
            Oracle("a step solves with the damped Kronecker product", partial(_solve_error, 1.0), 1e-10),
            Oracle("not with twice the damping", partial(_solve_error, 2.0), 1e-3, differs=True),
        )


def _ready(activation: str = "tanh", **options: object) -> tuple[KFAC, Batch]:
    problem, batch = toy((4, 5, 6, 3), rows=9, activation=activation, loss="mse")
    return set_up(KFAC(**options), problem), batch  # type: ignore[arg-type]


def block_of(problem: Problem, batch: Batch, layer: int) -> Tensor:
    """Return the Gauss-Newton block of [W b] of a layer, rows of [W b] first, from products with unit vectors."""
    here, size = problem.linearize(batch), problem.flat().numel()
    places = problem.unflatten(torch.arange(size, device="cpu"))
    index = kronecker.matrices(problem, places)[layer].flatten()
    unit = torch.eye(size, dtype=problem.dtype, device="cpu")
    return torch.stack([here.ggn_vp(unit[place])[index] for place in index])


def _off(activation: str, fisher: str = "type-2") -> float:
    """Return the largest relative distance of B x A from the layer's Gauss-Newton block."""
    name = "identity" if activation == "none" else activation
    rule, batch = _ready(name, fisher=fisher)
    rule.refresh(batch)
    worst = 0.0
    for layer, one in enumerate(rule.factors):
        exact = block_of(rule.problem, batch, layer)
        worst = max(worst, float((torch.kron(one.b, one.a) - exact).norm() / exact.norm()))
    return worst


def _z_score(share: float) -> float:
    """Return the abs z-score of B of all layers, drawn, against a share of the B of type-2."""
    rule, batch = _ready()

    def b_of(variant: str) -> Tensor:
        found = kronecker.factors(kronecker.statistics(rule.problem, batch, variant, "expand"))
        return torch.cat([one.b.flatten() for one in found])

    return monte_carlo(lambda: torch.stack([b_of("mc") for _ in range(5)]).mean(0), share * b_of("type-2"), 200)


def _solve_error(times: float) -> float:
    """Return the relative error of a layer's direction as the solution of the damped system, one with more damping."""
    rule, batch = _ready()
    rule.refresh(batch)
    gradients = kronecker.matrices(rule.problem, rule.problem.gradient(batch)[1])
    worst = 0.0
    for one, g, v in zip(rule.factors, gradients, rule.preconditioned(gradients), strict=True):
        on_a, on_b = kronecker.split_damping(one, times * rule.damping)
        a, b = (
            m + share * torch.eye(len(m), dtype=m.dtype, device="cpu") for m, share in ((one.a, on_a), (one.b, on_b))
        )
        worst = max(worst, float((torch.kron(b, a) @ v.flatten() - g.flatten()).norm() / g.norm()))
    return worst
