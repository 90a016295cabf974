"""Time to target of a whole table: every learner, every target, every currency, with one horizon a currency."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from altprop.report.model import CURRENCIES, Table
from altprop.report.target import Outcome, TimeToTarget, common_horizon, outcome, time_to_target


@dataclass(frozen=True)
class TargetTimes:
    """One target of a workload in one currency: learner -> its rate and speed, with the common horizon."""

    target: str
    value: float
    horizon: float
    learners: dict[str, TimeToTarget]

    @property
    def places(self) -> dict[str, int]:
        """Learner -> its place: by hit rate, then by restricted mean; equal ones share a place, without a hit none.

        The rate comes first, for no speed makes up for seeds on which a learner fails: the lucky seeds of a learner
        that fails on others never rank it before one that always arrives.
        """
        order = {name: one.order for name, one in self.learners.items() if one.hits}
        return {name: 1 + sum(other < mine for other in order.values()) for name, mine in order.items()}


def outcomes(table: Table, learner: str, target: str, currency: str) -> list[Outcome]:
    """Return the outcomes of a learner's runs against a target."""
    found = []
    for run in table.tried(learner):
        one = outcome(run.status, run.hit(target, currency), run.spent(currency) or 0.0)
        if one is not None:
            found.append(one)
    return found


def horizon(table: Table, currency: str) -> float:
    """Return the smallest horizon of the workload's learners in a currency."""
    tried = [run for name in table.runs for run in table.tried(name)]
    return common_horizon([(run.status, run.spent(currency) or 0.0) for run in tried])


def target_times(table: Table, currency: str) -> list[TargetTimes]:
    """Return the rate and speed of every learner against every target."""
    tau = horizon(table, currency)
    rows = []
    for target, value in table.targets.items():
        known = {name: outcomes(table, name, target, currency) for name in table.runs}
        done = {name: time_to_target(runs, tau) for name, runs in known.items() if runs}
        rows.append(TargetTimes(target, value, tau, done))
    return rows


def currencies(table: Table) -> list[str]:
    """Return the currencies in which the workload's runs are known, FLOPs first."""
    tried = [run for name in table.runs for run in table.tried(name) if run.block("ledger")]
    return [name for name in CURRENCIES if any((run.spent(name) or 0) > 0 for run in tried)]


def ranking_flips(table: Table, target: str) -> list[tuple[str, str, str, str]]:
    """Return the pairs whose order hangs on the currency: (ahead, behind, in this one, not in that one).

    Seconds count only where the timing pass lets something be claimed of both learners' steps.
    """
    known: dict[str, dict[str, int]] = {}
    for currency in currencies(table):
        chosen = next((row for row in target_times(table, currency) if row.target == target), None)
        if chosen is not None:
            known[currency] = chosen.places
    flips = []
    for a, b in combinations(dict.fromkeys(name for places in known.values() for name in places), 2):
        # Where a learner has no place its time is not known in that currency.
        told = [c for c, places in known.items() if a in places and b in places and _told(table, c, a, b)]
        for one, other in combinations(told, 2):
            lead = [known[c][a] - known[c][b] for c in (one, other)]
            if lead[0] * lead[1] < 0:
                flips.append((*((a, b) if lead[0] < 0 else (b, a)), one, other))
                break
    return flips


def _told(table: Table, currency: str, a: str, b: str) -> bool:
    """Return whether the order of two learners may be told in a currency."""
    return currency != "cpu_seconds" or (table.timing is not None and table.timing.claims(a, b))
