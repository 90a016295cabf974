"""Section 6: what tuning bought and cost, and how far a learner's result hangs on its seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from altprop.report.best_of_k import BestOfK, best_of_k
from altprop.report.format import plural, setting
from altprop.report.leading import foremost
from altprop.report.model import Learner, Option, Report, Run, Table, Tuned, Tuning
from altprop.report.paired import Comparison, compare, compare_family
from altprop.report.results import in_metric, interval_in_metric
from altprop.report.statistics import Interval, median, quantile, wilson_interval
from altprop.report.trials import agreement, tuned_block

COMMAND = "altprop -m +tune=16 algorithm=... optimizer=... task=... seeds=12"
QUARTILES_FROM = 4
EDGE = 0.05


@dataclass(frozen=True)
class Choice:
    """A searched option: its default, the chosen value and the declared space, as text."""

    path: str
    default: str
    chosen: str
    space: str


@dataclass(frozen=True)
class Beside:
    """A tuned learner beside itself at its defaults, on the seeds that both ran.

    Attributes:
        learner: the tuned one. default: the same at its defaults, None if that has no run here.
        failed: of its trials, those without a score; None where they are not all among the records.
        multiple: FLOPs of all trials over the median FLOPs of one run of its own.
        seeds: runs that the medians are over. before, after: median metric at the defaults and as tuned; minus
            infinity where it falls on a failure.
        comparison: tuned against default, in score units. difference: the mean paired difference in the metric's unit.
        fair: against the tuned reference, Holm-adjusted over the tuned learners; None for the reference or without one.
        flags: sentences that must stand beside the row.
    """

    learner: Learner
    default: Learner | None
    tuned: Tuned
    choices: tuple[Choice, ...]
    failed: int | None
    multiple: float | None
    seeds: int
    before: float | None
    after: float | None
    comparison: Comparison | None
    difference: Interval | None
    fair: Comparison | None
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Spread:
    """How a learner's final metric varies over its seeds, in the metric's unit, minus infinity for a failure.

    Attributes:
        rate: failed runs of all, with Wilson's interval.
        quartiles: the worse and the better one; None below 4 runs, of which a quartile says nothing.
    """

    learner: Learner
    n: int
    failed: int
    rate: Interval
    median: float
    quartiles: tuple[float, float] | None
    worst: float
    best: float


@dataclass(frozen=True)
class Searched:
    """A tuning with its learner and its curves over k, in score units (more is better)."""

    tuning: Tuning
    learner: Learner
    curves: BestOfK


def tuned_runs(table: Table) -> dict[str, Tuned]:
    """Return the tuned learners of a workload that ran there, with what their runs say of their tuning."""
    blocks = {name: tuned_block(runs[0].record) for name in table.runs if (runs := table.tried(name))}
    return {name: block for name, block in blocks.items() if block is not None}


def default_of(report: Report, table: Table, name: str, tuned: Tuned) -> str | None:
    """Return the learner that a tuned one is at its defaults: of several settings of that label the likest."""
    mine = table.runs[name][0].record
    paths = [option.path for option in tuned.options]
    found = [
        (agreement(runs[0].record, mine, paths), other)
        for other in table.runs
        if not report.by_name[other].tuned and (runs := table.tried(other)) and runs[0].record.label == tuned.learner
    ]
    return max(found, key=lambda one: one[0])[1] if found else None


def tuning_of(report: Report, table: Table, name: str, tuned: Tuned) -> Tuning | None:
    """Return the tuning that a tuned learner was chosen from."""
    mine = table.runs[name][0].record
    paths = [option.path for option in tuned.options]
    found = [one for one in report.tunings if (one.workload, one.label) == (table.workload, tuned.learner)]
    return max(
        (one for one in found if one.options == tuned.options),
        key=lambda one: agreement(one.trials[0].run.record, mine, paths),
        default=None,
    )


def score(table: Table, *runs: Run) -> float:
    """Return the validation metric of a trial, the mean of its runs', with more being better; -inf where one failed."""
    values = [value for run in runs if run.ended and (value := run.value("validation")) is not None]
    if len(values) < len(runs) or not all(map(math.isfinite, values)):
        return -math.inf
    return table.sign * math.fsum(values) / len(values)


def beside(report: Report, table: Table) -> list[Beside]:
    """Return one row a tuned learner, in the order of the learners."""
    tuned = tuned_runs(table)
    fair = _fair(table, tuned)
    return [_beside(report, table, name, block, fair.get(name)) for name, block in tuned.items()]


def _fair(table: Table, tuned: Mapping[str, Tuned]) -> dict[str, Comparison]:
    """Compare every tuned learner with the tuned reference: what both are with their options chosen the same way."""
    label = next((run.record.label for run in table.runs.get(table.reference or "", [])), None)
    reference = next((name for name, block in tuned.items() if name == table.reference or block.learner == label), None)
    if reference is None:
        return {}
    return compare_family({name: table.scores(name) for name in tuned}, reference)


def _beside(report: Report, table: Table, name: str, tuned: Tuned, fair: Comparison | None) -> Beside:
    default = default_of(report, table, name, tuned)
    mine = table.scores(name)
    theirs = table.scores(default) if default else {}
    shared = sorted(set(mine) & set(theirs)) if default else sorted(mine)
    comparison = compare(mine, theirs) if default and shared else None
    tuning = tuning_of(report, table, name, tuned)
    trials = _counted(tuning, tuned)
    flops = [value for run in table.tried(name) if (value := run.spent("flops"))]
    return Beside(
        learner=report.by_name[name],
        default=report.by_name[default] if default else None,
        tuned=tuned,
        choices=tuple(
            Choice(o.path, setting(o.default), setting(tuned.values.get(o.path)), space_of(o)) for o in tuned.options
        ),
        failed=sum(math.isinf(score(table, *runs)) for _, runs in trials) if len(trials) >= tuned.trials > 0 else None,
        multiple=tuned.flops / float(np.median(flops)) if tuned.flops is not None and flops else None,
        seeds=len(shared),
        before=in_metric(median(np.array([theirs[s] for s in shared])), table.sign) if default and shared else None,
        after=in_metric(median(np.array([mine[s] for s in shared])), table.sign) if shared else None,
        comparison=comparison,
        difference=interval_in_metric(comparison.difference, table.sign) if comparison else None,
        fair=fair,
        flags=tuple(_flags(table, name, tuned, tuning)),
    )


def _counted(tuning: Tuning | None, tuned: Tuned) -> list[tuple[int, tuple[Run, ...]]]:
    """Return the number and the runs of each trial that a choice was made from: a larger tuning has more of both."""
    found = tuning.trials if tuning else []
    return [
        (trial.index, trial.runs[: tuned.seeds])
        for trial in found
        if trial.index < tuned.trials and len(trial.runs) >= tuned.seeds
    ]


def _flags(table: Table, name: str, tuned: Tuned, tuning: Tuning | None) -> list[str]:
    """Return what makes a choice doubtful: at the edge of its space, not the best, or on seeds that the trials saw."""
    found = []
    for option in tuned.options:
        place = _place(option, tuned.values.get(option.path))
        if place is not None and not EDGE < place < 1 - EDGE:
            found.append(f"{option.path} at the {'lower' if place < 0.5 else 'upper'} edge of its space")
    trials = _counted(tuning, tuned)
    if len(trials) < tuned.trials:
        found.append(f"{len(trials)} of {plural(tuned.trials, 'trial')} among the records")
        return found
    scores = {index: score(table, *runs) for index, runs in trials}
    if scores and scores.get(tuned.index if tuned.index is not None else -1, -math.inf) < max(scores.values()):
        found.append("the chosen trial is not the best on validation")
    seen = {run.seed for _, runs in trials for run in runs} & {run.seed for run in table.tried(name)}
    if seen:
        found.append(f"seed {min(seen)} was also a trial's: not fresh")
    return found


def _place(option: Option, value: Any) -> float | None:
    """Return where a value lies in an option's range, 0 to 1 on its scale; None for choices and undeclared ranges."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or option.low is None or option.high is None:
        return None
    low, high, at = option.low, option.high, float(value)
    if option.log:
        if min(low, high, at) <= 0:
            return None
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low) if high > low else None


def space_of(option: Option) -> str:
    """Describe a declared search space in words."""
    if option.choices:
        return "one of " + ", ".join(setting(choice) for choice in option.choices)
    if option.low is None or option.high is None:
        return "not declared"
    return f"{setting(option.low)} to {setting(option.high)}{', log' if option.log else ''}"


def spreads(report: Report, table: Table) -> list[Spread]:
    """Return one row a learner that ran, tuned or not."""
    made = []
    for name in table.runs:
        scores = np.sort(np.array(list(table.scores(name).values()), dtype=float))
        if not scores.size:
            continue
        failed = int(np.isinf(scores).sum())
        middle = [in_metric(quantile(scores, level), table.sign) for level in (0.25, 0.75)]
        made.append(
            Spread(
                learner=report.by_name[name],
                n=scores.size,
                failed=failed,
                rate=wilson_interval(failed, scores.size),
                median=in_metric(median(scores), table.sign),
                quartiles=(middle[0], middle[1]) if scores.size >= QUARTILES_FROM else None,
                worst=in_metric(float(scores[0]), table.sign),
                best=in_metric(float(scores[-1]), table.sign),
            )
        )
    return made


def searched(report: Report, table: Table) -> list[Searched]:
    """Return the tunings of a workload whose learner has runs there, in the order of the learners."""
    found = [one for one in report.tunings if one.workload == table.workload and one.learner is not None]
    made = [
        Searched(tuning, report.by_name[str(tuning.learner)], best_of_k([score(table, *t.runs) for t in tuning.trials]))
        for tuning in found
    ]
    return sorted(made, key=lambda one: one.learner.index)


def best_searched(report: Report, found: Sequence[Searched]) -> list[Searched]:
    """Return the tunings that are drawn: all, or on a published page those of a crowd whose trials reached the best."""
    best = {one.learner.name: max(one.curves.expected, default=-math.inf) for one in found}
    learners = list({one.learner.name: one.learner for one in found}.values())
    drawn = {one.name for one in foremost(report, learners, lambda one: best[one.name])}
    return [one for one in found if one.learner.name in drawn]


def steps_of_k(found: Sequence[Searched]) -> list[int]:
    """Return the numbers of trials that the table of the best of k shows: powers of two and every learner's own number.

    Of more than eight the powers of two alone, and the largest number.
    """
    largest = max((one.curves.n for one in found), default=0)
    powers = [2**power for power in range(largest.bit_length()) if 2**power <= largest]
    both = sorted({*powers, *(one.curves.n for one in found)})
    return both if len(both) <= 8 else sorted({*powers, largest})


def orphans(report: Report) -> list[str]:
    """Return the trials without a run of their learner on their workload, each a sentence."""
    return [
        f"{tuning.label} on {tuning.workload}: {plural(len(tuning.trials), 'trial')} and no run, so nothing is shown."
        for tuning in report.tunings
        if tuning.learner is None
    ]


def caveats(report: Report, table: Table) -> list[str]:
    """Return what must be known of tuning to read a table: who was tuned, how long, and what stands beside it."""
    ran = [name for name in table.runs if table.tried(name) and not report.by_name[name].control]
    tuned = {name: block for name, block in tuned_runs(table).items() if name in ran}
    if not tuned:
        return (
            ["No learner was tuned: each ran with the options that its configuration gives it."] if len(ran) > 1 else []
        )
    defaults = {name: default_of(report, table, name, block) for name, block in tuned.items()}
    found = []
    if len({(block.trials, block.seeds) for block in tuned.values()}) == 1:
        one = next(iter(tuned.values()))
        trials = plural(one.trials, "trial") + (f" of {one.seeds} seeds" if one.seeds > 1 else "")
        found.append(f"Tuned with {trials} each: an equal number for {plural(len(tuned), 'tuned learner')}.")
    else:
        listed = ", ".join(f"{name} {block.effort}" for name, block in tuned.items())
        found.append(
            f"Tuned with unequal numbers of trials: {listed}. A longer search finds more: compare them in section 6 at "
            f"a number of trials that all had."
        )
    beside_it = [name for name in tuned if defaults[name]]
    if beside_it:
        found.append("Default beside tuned: each tuned learner stands right behind itself at its defaults.")
    alone = [name for name in tuned if not defaults[name]]
    if alone:
        found.append(f"No run at the defaults stands beside {', '.join(alone)}.")
    plain = [name for name in ran if name not in tuned and name not in defaults.values()]
    if plain:
        found.append(f"Not tuned, among learners that were: {', '.join(plain)}.")
    if table.reference in ran and table.reference not in tuned:
        found.append(
            "Differences and tests above are against the reference at its defaults; section 6 has the tuned learners "
            "against the tuned reference."
            if any(defaults[name] == table.reference for name in tuned)
            else "The reference was not tuned: a tuned learner that is ahead of it has shown the use of tuning."
        )
    return found
