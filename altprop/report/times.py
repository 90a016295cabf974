"""Time to target of a whole table: every learner, every target, every currency, with one horizon a currency."""

from __future__ import annotations

from dataclasses import dataclass

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
    """Outcomes of a learner's runs against a target."""
    found = []
    for run in table.tried(learner):
        one = outcome(run.status, run.hit(target, currency), run.spent(currency) or 0.0)
        if one is not None:
            found.append(one)
    return found


def horizon(table: Table, currency: str) -> float:
    """The smallest horizon of the workload's learners in a currency."""
    tried = [run for name in table.runs for run in table.tried(name)]
    return common_horizon([(run.status, run.spent(currency) or 0.0) for run in tried])


def target_times(table: Table, currency: str) -> list[TargetTimes]:
    """Rate and speed of every learner against every target."""
    tau = horizon(table, currency)
    rows = []
    for target, value in table.targets.items():
        known = {name: outcomes(table, name, target, currency) for name in table.runs}
        done = {name: time_to_target(runs, tau) for name, runs in known.items() if runs}
        rows.append(TargetTimes(target, value, tau, done))
    return rows


def currencies(table: Table) -> list[str]:
    """The currencies in which the workload's runs are known, FLOPs first."""
    tried = [run for name in table.runs for run in table.tried(name) if run.block("ledger")]
    return [name for name in CURRENCIES if any((run.spent(name) or 0) > 0 for run in tried)]


def ranking_flips(table: Table, target: str) -> list[tuple[str, str, str, str]]:
    """Pairs whose order hangs on the currency: (ahead, behind, in this one, not in that one).

    Seconds count only where the timing pass lets something be claimed of both learners' steps.
    """
    known: dict[str, dict[str, int]] = {}
    for currency in currencies(table):
        chosen = next((row for row in target_times(table, currency) if row.target == target), None)
        if chosen is not None:
            known[currency] = chosen.places
    if not known:
        return []
    first = next(iter(known))
    names = list(known[first])
    flips = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            ahead, behind = (a, b) if known[first][a] <= known[first][b] else (b, a)
            for other in list(known)[1:]:
                timing = table.timing
                if "cpu_seconds" in (first, other) and (timing is None or not timing.claims(a, b)):
                    continue
                if known[first][ahead] < known[first][behind] and known[other][ahead] > known[other][behind]:
                    flips.append((ahead, behind, first, other))
                    break
    return flips
