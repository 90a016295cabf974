"""Differences between learners, paired by seed, with exact tests and Holm's correction.

The family of tests is declared beforehand: each learner against the one reference learner, per task; controls, which
are there to fail, are not of it. A test on n seeds has a smallest reachable p, 2^(1-n): where that, times the size of
the family, is not below .05, no data could have shown a difference, and the report says so instead of "not shown to
differ". That two learners are equivalent is said only where their task declares a margin beforehand and the mean
difference is shown to lie inside it: two one-sided tests (Schuirmann 1987), each an exact sign-flip test of the
distance to one end of the margin, the larger p of the two, Holm's correction over the same family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from altprop.report.statistics import SEED, Floats, Interval, t_interval

LEVEL = 0.05
CLAIM_SEEDS = 12
NOT_SHOWN = "not shown to differ"
EXACT_UP_TO = 20
FLIPS = 200_000


def sign_flip_p(differences: Sequence[float] | Floats) -> float:
    """Return the two-sided p of the paired sign-flip (Fisher randomisation) test of a zero mean difference.

    All 2^n sign patterns are enumerated for n <= 20; beyond, 200,000 patterns are drawn from a seeded generator and
    p = (1 + hits) / (1 + draws). Sums that differ from the observed one by rounding only count as equal.

    >>> sign_flip_p([1.0, 2.0, 3.0])
    0.25
    """
    d = np.asarray(differences, dtype=float)
    if d.size == 0:
        return 1.0
    threshold = abs(float(d.sum())) - 1e-9 * float(np.abs(d).sum())
    if d.size <= EXACT_UP_TO:
        sums = np.zeros(1)
        for value in d:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= threshold))
    rng = np.random.default_rng(SEED)
    hits = 0
    for _ in range(20):
        signs = rng.integers(0, 2, (FLIPS // 20, d.size)) * 2 - 1
        hits += int(np.sum(np.abs(signs @ d) >= threshold))
    return (1 + hits) / (1 + FLIPS)


def equivalence_p(differences: Sequence[float] | Floats, margin: float) -> float:
    """Return the p of two one-sided sign-flip tests: whether the mean difference lies within plus or minus `margin`.

    >>> equivalence_p([0.0] * 5, 0.1), equivalence_p([0.5] * 5, 0.1)
    (0.03125, 1.0)
    """
    d = np.asarray(differences, dtype=float)
    return max(_one_sided_p(d + margin), _one_sided_p(margin - d))


def beyond_p(differences: Sequence[float] | Floats, margin: float) -> float:
    """Return the two-sided p of sign-flip tests: whether the mean difference lies outside plus or minus `margin`.

    >>> beyond_p([0.5] * 5, 0.1), beyond_p([-0.5] * 5, 0.1), beyond_p([0.0] * 5, 0.1)
    (0.0625, 0.0625, 1.0)
    """
    d = np.asarray(differences, dtype=float)
    return min(1.0, 2 * min(_one_sided_p(d - margin), _one_sided_p(-margin - d)))


def _one_sided_p(d: Floats) -> float:
    """Return the share of sign patterns whose sum is as large as the observed one, drawn where there are too many."""
    threshold = float(d.sum()) - 1e-9 * float(np.abs(d).sum())
    if d.size <= EXACT_UP_TO:
        sums = np.zeros(1)
        for value in d:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(sums >= threshold))
    signs = np.random.default_rng(SEED).integers(0, 2, (FLIPS // 20, d.size)) * 2 - 1
    return (1 + int(np.sum(signs @ d >= threshold))) / (1 + len(signs))


def sign_test_p(wins: int, losses: int) -> float:
    """Return p of the two-sided exact sign test of fair wins and losses; ties are left out by the caller.

    >>> sign_test_p(0, 5)
    0.0625
    """
    n, k = wins + losses, min(wins, losses)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, math.ldexp(tail, 1 - n))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, in the order given.

    >>> holm([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    adjusted = [1.0] * len(p_values)
    worst = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def smallest_p(seeds: int, family: int) -> float:
    """Return the smallest p that `seeds` paired runs can reach, corrected for `family` comparisons: 2^(1-n) x family.

    >>> smallest_p(5, 1), smallest_p(6, 1)
    (0.0625, 0.03125)
    """
    return math.ldexp(max(family, 1), 1 - seeds)


@dataclass(frozen=True)
class Comparison:
    """A learner against the reference on one task, over the seeds both ran.

    Attributes:
        seeds: paired seeds. wins, losses, ties: of the learner, a failure being a loss and two failures a tie.
        difference: mean paired difference with its t-interval in score units (more is better); None with a failure.
        test: "sign-flip" or "sign".
        p: two-sided. adjusted: Holm's p over the family. family: comparisons in it.
        margin: within which learners count as equivalent. equivalence: Holm's p of that; None where it is not tested.
    """

    seeds: int
    wins: int
    losses: int
    ties: int
    difference: Interval | None
    test: str
    p: float
    adjusted: float = 1.0
    family: int = 1
    margin: float | None = None
    equivalence: float | None = None

    @property
    def equivalent(self) -> bool:
        """Whether the mean difference was shown to lie within the margin."""
        return self.equivalence is not None and self.equivalence < LEVEL

    @property
    def telling(self) -> int:
        """Seeds that can tell: the sign test leaves ties out, so that seeds on which both failed show nothing."""
        return self.seeds - self.ties if self.test == "sign" else self.seeds

    @property
    def could_tell(self) -> bool:
        """Whether any data on so many seeds could have been significant."""
        return smallest_p(self.telling, self.family) < LEVEL

    @property
    def direction(self) -> int:
        """+1 where the learner is ahead, -1 where it is behind, 0 where neither is."""
        lead = self.difference.estimate if self.difference is not None else float(self.wins - self.losses)
        return (lead > 0) - (lead < 0)

    @property
    def brief(self) -> str:
        """The verdict as it stands in a table, under a sentence that says it in full."""
        return self.verdict if self.could_tell or not self.seeds else "too few seeds to tell"

    @property
    def verdict(self) -> str:
        """What the test allows to be said, in words."""
        if self.seeds == 0:
            return "no seed in common"
        if not self.could_tell:
            among = f" without a tie, of {self.seeds}," if self.telling < self.seeds else ""
            return f"{self.telling} {'seed' if self.telling == 1 else 'seeds'}{among} cannot show a difference here"
        if self.adjusted >= LEVEL and not self.equivalent:
            return NOT_SHOWN
        word = "better" if self.direction > 0 else "worse"
        if self.equivalent:
            inside = f"within ±{self.margin:g}"
            word = f"equivalent {inside}" if self.adjusted >= LEVEL else f"{word}, but {inside}"
        return word if self.seeds >= CLAIM_SEEDS else f"{word}, on too few seeds to claim"


def compare(learner: Mapping[int, float], reference: Mapping[int, float], margin: float | None = None) -> Comparison:
    """Compare scores by seed (failures as minus infinity); the p-values are not yet adjusted.

    Without a failure the exact sign-flip test of the mean difference; with one, the exact sign test.
    """
    seeds = sorted(set(learner) & set(reference))
    ours = np.array([learner[seed] for seed in seeds], dtype=float)
    theirs = np.array([reference[seed] for seed in seeds], dtype=float)
    wins, losses = int(np.sum(ours > theirs)), int(np.sum(ours < theirs))
    ties = len(seeds) - wins - losses
    if not seeds or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return Comparison(len(seeds), wins, losses, ties, None, "sign", sign_test_p(wins, losses))
    differences = ours - theirs
    p = sign_flip_p(differences)
    alike = None if margin is None else equivalence_p(differences, margin)
    difference = t_interval(differences)
    return Comparison(len(seeds), wins, losses, ties, difference, "sign-flip", p, margin=margin, equivalence=alike)


def compare_family(
    learners: Mapping[str, Mapping[int, float]], reference: str, margin: float | None = None
) -> dict[str, Comparison]:
    """Compare every learner of one task with the reference, Holm-adjusted over exactly these comparisons.

    Args:
        learners: label -> seed -> score, the reference among them.
        reference: label of the reference learner.
        margin: within which learners count as equivalent; None where the task declares none.
    """
    names = [name for name in learners if name != reference]
    raw = [compare(learners[name], learners[reference], margin) for name in names]
    adjusted = holm([comparison.p for comparison in raw])
    alike = holm([1.0 if comparison.equivalence is None else comparison.equivalence for comparison in raw])
    return {
        name: replace(
            comparison, adjusted=p, family=len(names), equivalence=None if comparison.equivalence is None else same
        )
        for name, comparison, p, same in zip(names, raw, adjusted, alike, strict=True)
    }
