"""What a report is about: learners, tables (one a workload) and runs, with the numbers their records hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from altprop.records.cards import CardRecord
from altprop.records.claims import Claim
from altprop.records.oracle_checks import OracleCheck
from altprop.records.record import Record, UnreadableRecordError
from altprop.report.canvas import Array
from altprop.report.step_time import TableTiming
from altprop.report.style import LearnerStyle

CURRENCIES = {
    "flops": "FLOPs",
    "steps": "steps",
    "forward_equivalents": "forward-equivalents",
    "cpu_seconds": "CPU-seconds",
}
CROWD = 12
"""Learners that a figure draws at most."""
SINGLES = 150
"""Runs and trials of which a page shows each with its layers; a published page shows no single ones of more."""
ENDED = frozenset({"completed", "reached_target"})


@dataclass(frozen=True)
class Curve:
    """A metric along a run: `x[currency]`, `fraction` and `values`, each (evaluations,)."""

    x: dict[str, Array]
    fraction: Array
    values: Array


@dataclass(frozen=True)
class Run:
    """One run as the report needs it; the dictionaries are those of its record, empty where it has none.

    Attributes:
        step_seconds: CPU seconds of its learner's step, from the timing pass; None where its own clock stands.
    """

    record: Record
    learner: str
    step_seconds: float | None = None

    @property
    def seed(self) -> int:
        return self.record.seed

    @property
    def status(self) -> str:
        return str(self.record.status.value)

    @property
    def ended(self) -> bool:
        """Whether the run came to a proper end; all others but the refused ones count as failed."""
        return self.status in ENDED

    @cached_property
    def result(self) -> dict[str, Any]:
        return self.record.result

    def block(self, name: str) -> dict[str, Any]:
        """Return a dictionary inside the result, empty if it is not there."""
        value = self.result.get(name)
        return value if isinstance(value, dict) else {}

    def value(self, name: str) -> float | None:
        """Return a number of the result, None if missing."""
        return as_number(self.result.get(name))

    def spent(self, currency: str) -> float | None:
        """Return what the run spent in all, in a currency."""
        if currency == "cpu_seconds":
            steps = self.spent("steps")
            if self.step_seconds is not None and steps is not None:
                return steps * self.step_seconds
            return as_number(self.record.measured.get("cpu_seconds"))
        return as_number(self.block("ledger").get(currency))

    def octets(self, name: str) -> float | None:
        """Return bytes as measured; "peak_bytes" are those of all that lives in a step, the learner's state with it."""
        known = self.record.measured
        if name != "peak_bytes":
            return as_number(known.get(name))
        live, state = as_number(known.get("live_bytes")), as_number(known.get("state_bytes"), 0.0)
        return None if live is None or state is None else live + state

    @cached_property
    def trace(self) -> list[dict[str, Any]]:
        """Rows of the trace; none if it cannot be read."""
        try:
            return self.record.trace()
        except UnreadableRecordError:
            return []

    @cached_property
    def probes(self) -> list[dict[str, Any]]:
        """The probe rows of the trace."""
        return [row for row in self.trace if row.get("kind") == "probe"]

    @cached_property
    def clock(self) -> tuple[list[float], list[float]]:
        """Steps and the learner's CPU-seconds at them: steps times seconds a step where the timing pass gives these."""
        try:
            rows = self.record.clock()
        except UnreadableRecordError:
            rows = []
        known = {0.0: 0.0} | {
            float(row["step"]): float(row["cpu_seconds"])
            for row in rows
            if as_number(row.get("cpu_seconds")) is not None
        }
        steps = sorted(known)
        if self.step_seconds is not None:
            ends = sorted({0.0, *steps, self.spent("steps") or 0.0})
            return ends, [step * self.step_seconds for step in ends]
        return steps, [known[step] for step in steps]

    def curve(self, split: str, metric: str) -> Curve | None:
        """Return the evaluations of a split, None if there are none."""
        rows = [row for row in self.trace if row.get("kind") == "evaluation" and row.get("split") == split]
        if not rows:
            return None
        steps = _column(rows, "step")
        x = {name: _column(rows, name) for name in ("flops", "forward_equivalents")}
        x |= {"steps": steps, "cpu_seconds": np.interp(steps, *self.clock, right=math.nan)}
        values = np.array([as_number((row.get("metrics") or {}).get(metric), math.nan) for row in rows], dtype=float)
        return Curve(x, _column(rows, "fraction"), values)

    def hit(self, target: str, currency: str) -> tuple[float, float] | None:
        """Return the interval (previous evaluation, hit] in a currency; None if the target was not met."""
        entry = self.block("hits").get(target)
        if not isinstance(entry, dict):
            return None
        name = "step" if currency == "steps" else currency
        pair = entry.get(name)
        if pair is None and "step" in entry:
            curve = self.curve("validation", "") or self.curve("train", "")
            if currency == "cpu_seconds":
                pair = np.interp(entry["step"], *self.clock).tolist()
            elif curve is not None:
                pair = np.interp(entry["step"], curve.x["steps"], curve.x[currency]).tolist()
        if pair is None:
            return None
        before = as_number(pair[0])
        return (0.0 if before is None else before), float(pair[1])


@dataclass(frozen=True)
class Learner:
    """A row of every table: its name, role and looks."""

    name: str
    axes: dict[str, str]
    reference: bool
    control: bool
    style: LearnerStyle
    index: int
    tuned: bool = False


@dataclass(frozen=True)
class Option:
    """A searched option as its learner declares it: a range, on a linear or logarithmic scale, or choices."""

    path: str
    low: float | None
    high: float | None
    log: bool
    choices: tuple[Any, ...]
    default: Any


@dataclass(frozen=True)
class Tuned:
    """What a tuned run says of its tuning.

    Attributes:
        learner: label of the same learner at its defaults. trials: how many were run for it. seeds: of each trial.
        index: of the chosen trial. values: option -> chosen value. options: the searched ones.
        validation: metric of the chosen trial. flops: what all trials spent.
    """

    learner: str
    trials: int
    index: int | None
    values: dict[str, Any]
    options: tuple[Option, ...]
    validation: float | None
    flops: float | None
    seeds: int = 1

    @property
    def effort(self) -> str:
        """The number of trials, and of seeds of each where there are several."""
        return f"{self.trials}" if self.seeds == 1 else f"{self.trials} × {self.seeds} seeds"


@dataclass(frozen=True)
class Trial:
    """One trial: its run, its number in the tuning, the values of the searched options and runs on further seeds."""

    run: Run
    index: int
    values: dict[str, Any]
    more: tuple[Run, ...] = ()

    @property
    def runs(self) -> tuple[Run, ...]:
        """Its runs, a seed each."""
        return self.run, *self.more


@dataclass(frozen=True)
class Tuning:
    """The trials of one learner on one workload, by their number.

    Attributes:
        label: of the learner without its searched options.
        learner: name of the learner whose colours they take; None where it has no run in the report.
    """

    workload: str
    label: str
    options: tuple[Option, ...]
    trials: list[Trial]
    learner: str | None = None


@dataclass(frozen=True)
class Table:
    """One workload: its runs by learner (in the order of the learners) and the facts that all runs share.

    Attributes:
        timing: seconds a step of its learners; None without a timing record that matches.
    """

    workload: str
    runs: dict[str, list[Run]]
    facts: dict[str, Any]
    reference: str | None
    timing: TableTiming | None = None

    @property
    def metric(self) -> str:
        return str(self.facts.get("metric") or "metric")

    @property
    def sign(self) -> int:
        """+1 where more is better, -1 where less is."""
        return 1 if self.facts.get("higher_is_better", True) else -1

    @cached_property
    def everything(self) -> list[Run]:
        return [run for runs in self.runs.values() for run in runs]

    @cached_property
    def quality(self) -> str:
        """Where the final value of the metric stands: on the test set, or on what there is instead."""
        for name in ("test", "validation"):
            if any(run.ended and run.value(name) is not None for run in self.everything):
                return name
        return "test"

    @cached_property
    def split(self) -> str:
        """The split whose evaluations make the curves."""
        seen = {row.get("split") for run in self.everything for row in run.trace if row.get("kind") == "evaluation"}
        return next((name for name in ("validation", "train") if name in seen), "validation")

    @property
    def targets(self) -> dict[str, float]:
        """Declared targets, name -> value of the metric, the easiest first."""
        known = {name: as_number(value) for name, value in (self.facts.get("targets") or {}).items()}
        pairs = [(name, value) for name, value in known.items() if value is not None]
        return dict(sorted(pairs, key=lambda pair: self.sign * pair[1]))

    @property
    def marks(self) -> list[tuple[str, float]]:
        """Chance, oracle and baselines, as far as the records have them: (name, value of the metric)."""
        known = {"chance": self.facts.get("chance"), "oracle": self.facts.get("oracle")}
        known |= dict(self.facts.get("baselines") or {})
        numbers = [(str(name), as_number(value)) for name, value in known.items()]
        return [(name, value) for name, value in numbers if value is not None]

    @property
    def unit(self) -> tuple[float, float] | None:
        """Chance and the gap from there to the tuned reference, as the targets imply them."""
        shares = [(float(n[:-1]) / 100, v) for n, v in self.targets.items() if n.endswith("%") and _is_float(n[:-1])]
        if len(shares) < 2 or shares[0][0] == shares[-1][0]:
            return None
        gap = (shares[-1][1] - shares[0][1]) / (shares[-1][0] - shares[0][0])
        return (shares[0][1] - shares[0][0] * gap, gap) if gap else None

    @property
    def margin(self) -> float | None:
        """The difference of the metric up to which learners count as equivalent, as the task declares it beforehand."""
        value = as_number(self.facts.get("margin"))
        return value if value is not None and value > 0 else None

    def tried(self, learner: str) -> list[Run]:
        """Return the learner's runs, refused ones left out."""
        return [run for run in self.runs.get(learner, []) if run.status != "refused"]

    def score(self, run: Run) -> float:
        """Return the final metric with more being better, minus infinity for a failed run."""
        value = run.value(self.quality)
        return self.sign * value if run.ended and value is not None and math.isfinite(value) else -math.inf

    def scores(self, learner: str) -> dict[int, float]:
        """Return seed -> score of a learner."""
        return {run.seed: self.score(run) for run in self.tried(learner)}


@dataclass(frozen=True)
class Report:
    """Everything that the page is made of.

    Attributes:
        left_out: sentences on what the archives among the records leave out of the traces.
        drawn: number of learners that a figure may draw.
        published: whether the page is to stay small: it may leave single runs out.
    """

    title: str
    learners: list[Learner]
    tables: list[Table]
    unreadable: list[str]
    superseded: list[Record]
    tunings: list[Tuning] = field(default_factory=list)
    oracle_checks: list[OracleCheck] = field(default_factory=list)
    cards: list[CardRecord] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    timing_notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    drawn: int = CROWD
    published: bool = False

    @cached_property
    def twins(self) -> dict[str, str]:
        """Learner -> an earlier one with its very results in every run: one rule here under two names, counted once."""
        known: dict[tuple[Any, ...], str] = {}
        found: dict[str, str] = {}
        for learner in self.learners:
            runs = [run for table in self.tables for run in table.tried(learner.name)]
            results = tuple(
                (run.record.workload, run.seed, run.status, repr(run.block("test_metrics"))) for run in runs
            )
            if runs and not learner.control and any(run.block("test_metrics") for run in runs):
                first = known.setdefault(results, learner.name)
                found |= {learner.name: first} if first != learner.name else {}
        return found

    @cached_property
    def by_name(self) -> dict[str, Learner]:
        return {learner.name: learner for learner in self.learners}

    @cached_property
    def runs(self) -> list[Run]:
        return [run for table in self.tables for run in table.everything]

    @property
    def trials(self) -> int:
        """How many trials there are."""
        return sum(len(tuning.trials) for tuning in self.tunings)

    @property
    def singles(self) -> bool:
        """Whether single runs and trials are shown: of many, a published page leaves them to its records."""
        return not self.published or len(self.runs) + self.trials <= SINGLES


def as_number(value: Any, missing: float | None = None) -> float | None:
    """Return a number as a float, `missing` for anything else; a truth value is no number.

    >>> as_number(3), as_number("3"), as_number(True)
    (3.0, None, None)
    """
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else missing


def _is_float(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _column(rows: Sequence[dict[str, Any]], name: str) -> Array:
    return np.array([as_number(row.get(name), math.nan) for row in rows], dtype=float)
