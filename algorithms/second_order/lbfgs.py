"""L-BFGS: quasi-Newton directions from the last few steps, on the whole set or on mini-batches."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    Batch,
    BatchMode,
    Capability,
    Oracle,
    Problem,
    StepResult,
    check_name,
    check_whole,
)
from altprop.algorithms.second_order.bfgs import BFGS, LEAST_CURVATURE, next_known
from altprop.algorithms.second_order.descent import Place, descend, unit_first
from altprop.algorithms.second_order.line_search import SEARCHES
from altprop.testing import set_up, toy


class LBFGS(Algorithm):
    """Search along d = -H g, with H the inverse Hessian that BFGS would build from the last `memory` pairs alone.

    With s_k the steps and y_k the changes of the gradient on them, rho_k = 1 / (y_k . s_k), H g is made by two loops of
    inner products, from H_0 = (y . s / y . y) I of the last pair:

        newest to oldest:  a_k = rho_k s_k . q,  q <- q - a_k y_k;     r = H_0 q;
        oldest to newest:  r <- r + (a_k - rho_k y_k . r) s_k

    Both gradients of a pair are of one batch and under one noise, so that y is curvature and not the difference of two
    batches: on mini-batches the gradient at the new place is taken on the old batch, which the line search does anyway.
    A pair with y . s not above 1e-10 |y| |s|, or one that is not finite, is left out. Where a direction does not
    descend or a search finds no decrease, the memory is emptied; then nothing moves.

    Args:
        memory: pairs that are kept, at least 1.
        line_search: strong_wolfe or backtracking.
        batch_mode: full, or mini for the task's batches.

    Raises:
        AltpropError: for an unknown name or a number out of range.

    Paper: Liu and Nocedal 1989, doi:10.1007/BF01589116; on batches, Berahas, Nocedal and Takac 2016, arXiv:1605.06049.
    It differs from optimizer=lbfgs (torch's) in that a step is one line search.
    """

    not_stacked: ClassVar[str] = "each seed's line search ends at the values that it meets"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENT})
    batch: BatchMode = BatchMode.FULL
    state: ClassVar[tuple[str, ...]] = ("pairs", "known")

    def __init__(self, memory: int = 10, line_search: str = "strong_wolfe", batch_mode: str = "full") -> None:
        self.memory = check_whole(memory, "algorithm.memory", 1)
        self.search = SEARCHES[check_name(line_search, "algorithm.line_search", tuple(SEARCHES))]()
        self.batch = BatchMode(check_name(batch_mode, "algorithm.batch_mode", ("full", "mini")))

    def _setup(self, problem: Problem) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.known: Place | None = None

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        moved = descend(self.problem, batch, self.known, self.direction, self.search, self._first)
        if moved.step == 0 or moved.restarted:
            self.pairs = []
        if moved.after is not None:
            self.learn(moved.step * moved.direction, moved.after[1] - moved.gradient)
        self.known = next_known(self.problem, moved, self.batch is BatchMode.FULL)
        return StepResult(moved.loss, {**moved.scalars, "pairs": float(len(self.pairs))})

    def _first(self, slope: float, size: float, restarted: bool) -> float:
        return unit_first(slope, size, restarted or not self.pairs)

    def direction(self, gradient: Tensor) -> Tensor:
        """Return -H g, (D,)."""
        if not self.pairs:
            return -gradient
        ledger = self.problem.ledger
        with ledger.work("slopes", per="call", calls=2):
            s, y = self.pairs[-1]
            scale = y.dot(s) / y.dot(y)
        with ledger.work("two loops", per="call", calls=len(self.pairs)):
            q, shares = gradient, []
            for s, y in reversed(self.pairs):
                shares.append(s.dot(q) / y.dot(s))
                q = q - shares[-1] * y
            r = scale * q
            for (s, y), share in zip(self.pairs, reversed(shares), strict=True):
                r = r + (share - y.dot(r) / y.dot(s)) * s
            return -r

    def learn(self, s: Tensor, y: Tensor) -> None:
        """Keep a pair, (D,) each, and forget the oldest where there are too many."""
        with self.problem.ledger.work("slopes", per="call", calls=2):
            curvature, square = y.dot(s), y.dot(y)
        if bool((curvature > LEAST_CURVATURE * s.norm() * square.sqrt()) & torch.isfinite(square)):
            self.pairs = [*self.pairs, (s, y)][-self.memory :]

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check it against conjugate gradients on a quadratic, and against BFGS."""
        return (
            Oracle("exact searches on a quadratic are conjugate gradients", partial(_against_cg, True), 1e-10),
            Oracle("not steepest descent", partial(_against_cg, False), 1e-3, differs=True),
            Oracle("with all pairs kept it is BFGS from the same H_0", partial(_against_bfgs, 20), 1e-10),
            Oracle("not with two of them", partial(_against_bfgs, 2), 1e-3, differs=True),
        )


def _against_cg(learns: bool, memory: int = 3) -> float:
    """Return the largest relative distance of a gradient from that of conjugate gradients, over exact searches."""
    problem, batch = toy((5, 1), rows=20, loss="half_squared_error")
    rule = set_up(LBFGS(memory), problem)
    here = problem.linearize(batch)
    size = len(here.gradient)
    hessian = torch.stack([here.hvp(v) for v in torch.eye(size, dtype=problem.dtype, device="cpu")])
    ours = theirs = here.gradient
    conjugate = -theirs
    worst = 0.0
    for _ in range(size - 1):
        direction = rule.direction(ours)
        s = -(ours.dot(direction) / direction.dot(hessian @ direction)) * direction
        if learns:
            rule.learn(s, hessian @ s)
        ours = ours + hessian @ s
        following = theirs + (theirs.dot(theirs) / conjugate.dot(hessian @ conjugate)) * (hessian @ conjugate)
        conjugate = following.dot(following) / theirs.dot(theirs) * conjugate - following
        theirs = following
        worst = max(worst, float((ours - theirs).norm() / here.gradient.norm()))
    return worst


def _against_bfgs(memory: int) -> float:
    """Return the relative distance of a direction from that of BFGS which starts from the H_0 of the last pair."""
    problem, batch = toy((4, 5, 3))
    rule, full = set_up(LBFGS(memory), problem), set_up(BFGS(), problem)
    for _ in range(6):
        rule.step(batch)
    gradient = problem.flatten(problem.gradient(batch)[1])
    pairs = set_up(LBFGS(20), problem)
    other, _ = toy((4, 5, 3))
    again = set_up(LBFGS(20), other)
    for _ in range(6):
        again.step(batch)
    pairs.pairs = again.pairs
    s, y = rule.pairs[-1]
    full.inverse = (y.dot(s) / y.dot(y)) * torch.eye(len(s), dtype=s.dtype, device="cpu")
    for pair in rule.pairs if memory > 2 else pairs.pairs:
        full.learn(*pair)
    expected = full.direction(gradient)
    return float((rule.direction(gradient) - expected).norm() / expected.norm())
