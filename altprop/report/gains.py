"""What learners gain on the reference over a number that workloads of one data set differ in: examples, or depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from altprop.report.model import Learner, Report, Table
from altprop.report.reached import shown
from altprop.report.statistics import RESAMPLES, SEED, Floats, Interval

MIN_VALUES = 3
"""Values of the quantity over which gains are drawn; a mean is of as many seeds at least."""


@dataclass(frozen=True)
class Quantity:
    """A number that workloads of one data set may differ in.

    Attributes:
        name: as an axis tells it, such as "training examples".
        short: under a value at the head of a column.
        of: a workload's value, 0 where it has none or several.
    """

    name: str
    short: str
    of: Callable[[Table], int]


@dataclass(frozen=True)
class Gain:
    """A learner's paired differences to the reference over a quantity, more being better.

    Attributes:
        by_value: value, ascending -> seed -> difference, of workloads where both ran and seeds that both completed.
        crossing: value at which the mean difference last changes its sign, with its 95 % interval; None where it does
            not, or the interval leaves the values.
        falls: whether it is ahead before, and behind from there on.
        failed: value -> seeds of which a run failed, where there are any: no interval and no slope is of the others.
    """

    learner: Learner
    by_value: Mapping[int, Mapping[int, float]]
    crossing: Interval | None = None
    falls: bool = True
    failed: Mapping[int, int] = field(default_factory=dict)

    @cached_property
    def values(self) -> list[int]:
        """The quantity, ascending."""
        return list(self.by_value)

    @cached_property
    def differences(self) -> list[Floats]:
        """Of each value, (seeds,)."""
        return [np.array(list(each.values())) for each in self.by_value.values()]

    @cached_property
    def means(self) -> Floats:
        """Mean difference at each value, (values,)."""
        return np.array([each.mean() for each in self.differences])

    @cached_property
    def slopes(self) -> Floats:
        """Least-squares slope over the quantity's binary logarithm of each seed that ended at all values, (seeds,)."""
        common = set.intersection(*(set(each) for each in self.by_value.values()))
        x = np.log2(np.array(self.values, dtype=float))
        weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        return np.array(
            [
                sum(w * each[seed] for w, each in zip(weights, self.by_value.values(), strict=True))
                for seed in sorted(common)
            ]
        )


def _examples(table: Table) -> int:
    return _one({int(run.block("sizes").get("train") or 0) for run in table.everything})


def _layers(table: Table) -> int:
    return _one({len(_hidden(run.record.data["config"])) for run in table.everything})


def _widths(table: Table) -> tuple[int, ...]:
    """Return the widths that occur in a workload's nets, each once."""
    return tuple(sorted({width for run in table.everything for width in _hidden(run.record.data["config"])}))


def _hidden(config: Mapping[str, Any]) -> Sequence[int]:
    return (config.get("model") or {}).get("hidden") or ()


def _one(found: set[int]) -> int:
    return found.pop() if len(found) == 1 else 0


EXAMPLES = Quantity("training examples", "examples", _examples)
LAYERS = Quantity("hidden layers", "layers", _layers)
QUANTITIES = (EXAMPLES, LAYERS)


def series(tables: Sequence[Table], quantity: Quantity) -> list[dict[int, Table]]:
    """Return the workloads of a data set by their values, ascending, which differ in this quantity and no other.

    Args:
        tables: of one data set.
        quantity: one of `QUANTITIES`.
    """
    alike: dict[tuple[Any, ...], list[Table]] = {}
    for table in tables:
        others = tuple(other.of(table) for other in QUANTITIES if other is not quantity)
        alike.setdefault((*others, (table.facts.get("axes") or {}).get("model"), _widths(table)), []).append(table)
    found = [{value: table for table in group if (value := quantity.of(table))} for group in alike.values()]
    whole = [one for one, group in zip(found, alike.values(), strict=True) if MIN_VALUES <= len(one) == len(group)]
    return [dict(sorted(one.items())) for one in whole]


def gains(report: Report, by_value: Mapping[int, Table]) -> list[Gain]:
    """Return the gain of every learner but reference and controls that ran beside the reference at two values or more.

    Args:
        report: whose learners they are.
        by_value: value of a quantity -> workload, ascending.
    """
    found = []
    for learner in shown(report, list(by_value.values())):
        every = {value: _paired(table, learner) for value, table in by_value.items() if learner.name != table.reference}
        finite = {value: {s: x for s, x in each.items() if math.isfinite(x)} for value, each in every.items()}
        known = {value: each for value, each in finite.items() if len(each) >= MIN_VALUES}
        failed = {value: lost for value, each in every.items() if (lost := len(each) - len(finite[value]))}
        if len(known) > 1:
            found.append(_crossed(Gain(learner, known, failed=failed), list(by_value)))
    return found


def _paired(table: Table, learner: Learner) -> dict[int, float]:
    """Return seed -> difference to the reference, no number where a run failed."""
    if table.reference is None:
        return {}
    ours, theirs = table.scores(learner.name), table.scores(table.reference)
    return {seed: ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())}


def _crossed(gain: Gain, every: Sequence[int]) -> Gain:
    """Add where the mean difference last changes its sign, by linear interpolation over the logarithm of the value.

    The seeds of each value are resampled by themselves, 4,000 times, by a generator of our own seed. Between values
    that are no neighbours nothing is read off.
    """
    means = gain.means
    place = _last_change(means)
    if place is None or every.index(gain.values[place + 1]) != every.index(gain.values[place]) + 1:
        return gain
    falls = bool(means[place] > 0)
    rng = np.random.default_rng(SEED)
    drawn = np.stack(
        [each[rng.integers(0, each.size, (RESAMPLES, each.size))].mean(1) for each in gain.differences], axis=1
    )
    sign = 1.0 if falls else -1.0
    logs = np.log(np.array(gain.values, dtype=float))
    crossings = np.array([_crossing(sign * row, logs) for row in drawn])
    low, high = np.quantile(crossings, [0.025, 0.975], method="lower")
    if not (math.isfinite(low) and math.isfinite(high)):
        return replace(gain, falls=falls)
    at = math.exp(_crossing(sign * means, logs))
    return replace(gain, falls=falls, crossing=Interval(at, math.exp(low), math.exp(high), "bootstrap"))


def _last_change(means: Floats) -> int | None:
    """Return the last place after which the sign changes, None where it does not."""
    changes = np.flatnonzero((means[:-1] > 0) != (means[1:] > 0))
    return int(changes[-1]) if changes.size else None


def _crossing(means: Floats, logs: Floats) -> float:
    """Return the log size from which on means (k,) stay at 0 or below; minus or plus infinity outside of the sizes.

    >>> round(float(np.exp(_crossing(np.array([1.0, 1.0, -1.0]), np.log([10.0, 100.0, 400.0])))), 9)
    200.0
    """
    ahead = np.flatnonzero(means > 0)
    if not ahead.size:
        return -math.inf
    last = int(ahead[-1])
    if last == len(means) - 1:
        return math.inf
    return float(logs[last] + (logs[last + 1] - logs[last]) * means[last] / (means[last] - means[last + 1]))
