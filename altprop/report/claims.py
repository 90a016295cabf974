"""Claims put to the test: the comparisons that a claim speaks of, with intervals, and what they make of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from altprop.records.claims import Claim
from altprop.report.data_sets import data_sets
from altprop.report.gains import LAYERS, MIN_VALUES, gains, series
from altprop.report.model import Report, Table
from altprop.report.paired import CLAIM_SEEDS, Comparison, beyond_p, compare, holm, sign_flip_p, sign_test_p
from altprop.report.statistics import t_interval
from altprop.report.target import CENSORED

LEVEL = 0.05
HELD, FELL, OPEN = "held", "did not hold", "not to be told here"


@dataclass(frozen=True)
class Tested:
    """One learner beside another on one workload, as a claim speaks of them.

    Attributes:
        comparison: of final metrics, of when a target was met, or of slopes; more, or sooner, is ahead.
        beyond: p of a difference outside the margin of equivalence; None where none is declared or a run failed.
        verdict: held, did not hold, or not to be told here.
    """

    learner: str
    than: str
    workload: str
    comparison: Comparison
    beyond: float | None = None
    verdict: str = OPEN


@dataclass(frozen=True)
class Outcome:
    """A claim with its comparisons and what they make of it; `missing` names what could not be compared."""

    claim: Claim
    tested: list[Tested]
    missing: list[str]

    @property
    def needed(self) -> int:
        """Comparisons of which it must hold."""
        return self.claim.at_least or len(self.tested) + len(self.missing)

    @property
    def verdict(self) -> str:
        """Held where enough comparisons show it; fallen where so many show the contrary that not enough are left."""
        held = sum(one.verdict == HELD for one in self.tested)
        fell = sum(one.verdict == FELL for one in self.tested)
        if held >= self.needed > 0:
            return HELD
        return FELL if fell > max(len(self.tested) + len(self.missing) - self.needed, 0) else OPEN


def outcomes(report: Report, claims: Sequence[Claim]) -> list[Outcome]:
    """Return what runs make of claims; p-values are Holm-adjusted over all comparisons of all claims."""
    raw = [_outcome(report, claim) for claim in claims]
    every = [one for outcome in raw for one in outcome.tested]
    family = zip(
        holm([one.comparison.p for one in every]),
        holm([_or_one(one.comparison.equivalence) for one in every]),
        holm([_or_one(one.beyond) for one in every]),
        strict=True,
    )
    return [
        replace(outcome, tested=[_judged(outcome.claim, one, next(family), len(every)) for one in outcome.tested])
        for outcome in raw
    ]


def _or_one(p: float | None) -> float:
    return 1.0 if p is None else p


def _judged(claim: Claim, one: Tested, adjusted: tuple[float, float, float], family: int) -> Tested:
    """Return a comparison with its adjusted p-values and its verdict, which takes as many seeds as any claim does."""
    p, alike, beyond = adjusted
    known = replace(
        one.comparison,
        adjusted=p,
        family=family,
        equivalence=None if one.comparison.equivalence is None else alike,
    )
    found = replace(one, comparison=known, beyond=None if one.beyond is None else beyond)
    return replace(found, verdict=_verdict(claim, found))


def _verdict(claim: Claim, one: Tested) -> str:
    known = one.comparison
    if known.seeds < CLAIM_SEEDS:
        return OPEN
    differs = known.adjusted < LEVEL
    if claim.says in ("equivalent", "as_good"):
        ahead = differs and known.direction > 0 and claim.says == "as_good"
        apart = differs if one.beyond is None else one.beyond < LEVEL
        return HELD if known.equivalent or ahead else FELL if apart else OPEN
    wanted = -1 if claim.says in ("worse", "falls_with_depth") else 1
    if differs:
        return HELD if known.direction == wanted else FELL
    return FELL if known.equivalent else OPEN


def _outcome(report: Report, claim: Claim) -> Outcome:
    tested, missing = [], []
    for learner in claim.learners:
        found = list(
            _trends(report, claim, learner) if claim.says == "falls_with_depth" else _pairs(report, claim, learner)
        )
        tested += found
        absent = [name for name in claim.workloads if name not in {one.workload for one in found}]
        missing += [f"{learner} on {name}" for name in absent] if claim.workloads else [learner] * (not found)
    return Outcome(claim, tested, missing)


def _pairs(report: Report, claim: Claim, learner: str) -> Iterator[Tested]:
    for table in report.tables:
        than = claim.than or table.reference
        if than is None or (claim.workloads and table.workload not in claim.workloads):
            continue
        if not (table.tried(learner) and table.tried(than)):
            continue
        if claim.says != "sooner":
            ours, theirs = table.scores(learner), table.scores(than)
            yield Tested(
                learner, than, table.workload, compare(ours, theirs, table.margin), _beyond(ours, theirs, table)
            )
        elif claim.target in table.targets:
            met = _sooner(_hits(table, claim, learner), _hits(table, claim, than))
            yield Tested(learner, than, table.workload, met)


def _beyond(ours: Mapping[int, float], theirs: Mapping[int, float], table: Table) -> float | None:
    differences = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    known = table.margin is not None and all(map(math.isfinite, differences))
    return beyond_p(differences, table.margin) if known and table.margin is not None else None


def _hits(table: Table, claim: Claim, learner: str) -> dict[int, tuple[float, float]]:
    """Return seed -> between which two evaluations the target was met, in the claim's currency.

    A run that came to its end without may have met it later, from where it ended on; one that broke off never does.
    """
    found = {}
    for run in table.tried(learner):
        hit = run.hit(claim.target, claim.currency)
        ended = run.spent(claim.currency) if run.ended or run.status in CENSORED else None
        found[run.seed] = hit or ((math.inf if ended is None else ended), math.inf)
    return found


def _sooner(ours: Mapping[int, tuple[float, float]], theirs: Mapping[int, tuple[float, float]]) -> Comparison:
    """Compare by seed when a target was met: who met it by the evaluation before which the other did not.

    Evaluations lie on a grid, so that intervals which overlap tell nothing and are a tie.
    """
    seeds = ours.keys() & theirs.keys()
    wins = sum(ours[seed][1] <= theirs[seed][0] and ours[seed] != theirs[seed] for seed in seeds)
    losses = sum(theirs[seed][1] <= ours[seed][0] and ours[seed] != theirs[seed] for seed in seeds)
    ties = len(seeds) - wins - losses
    return Comparison(len(seeds), wins, losses, ties, None, "sign", sign_test_p(wins, losses))


def _trends(report: Report, claim: Claim, learner: str) -> Iterator[Tested]:
    """Yield the slope of a learner's gain on the reference over depth, of each data set given at several depths."""
    for by_depth in (one for tables in data_sets(report.tables) for one in series(tables, LAYERS)):
        first = next(iter(by_depth.values()))
        task = first.workload.partition("[")[0]
        if claim.workloads and task not in claim.workloads:
            continue
        for gain in gains(report, by_depth):
            if gain.learner.name == learner and len(gain.values) >= MIN_VALUES and gain.slopes.size and not gain.failed:
                slopes = gain.slopes
                yield Tested(learner, str(first.reference), task, _of_slopes(slopes))


def _of_slopes(slopes: np.ndarray) -> Comparison:
    wins, losses = int((slopes > 0).sum()), int((slopes < 0).sum())
    ties = slopes.size - wins - losses
    return Comparison(slopes.size, wins, losses, ties, t_interval(slopes), "sign-flip", sign_flip_p(slopes))
