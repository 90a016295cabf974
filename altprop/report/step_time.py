"""Seconds a step of the learners of a table, and what may be claimed of them."""

from __future__ import annotations

from dataclasses import dataclass

from altprop.records.timing import KINDS, MedianInterval
from altprop.report.format import percent

GREY_ABOVE = 0.10
"""Spread, (q75 - q25) / median over the rounds, above which nothing is claimed."""
UNTIMED = (
    "CPU-seconds are each run's own and are shown without claims: "
    "a claim takes a timing pass (altprop-time on the folder of records)."
)


@dataclass(frozen=True)
class StepTime:
    """What was measured of a learner's step.

    Attributes:
        name: of the learner. cpu, wall: median seconds a step.
        interval: of `cpu`. spread: of the rounds.
        ratio: to the reference, round by round; None for the reference and where it was not timed.
        ratio_spread: of these ratios.
        kinds: kind of work -> median CPU seconds a step, measured in rounds of their own.
        block, first, again: see `Timed`.
    """

    name: str
    cpu: float
    wall: float
    interval: MedianInterval
    spread: float
    ratio: MedianInterval | None
    ratio_spread: float
    kinds: dict[str, float]
    block: int
    first: int
    again: int

    @property
    def grey(self) -> str:
        """Why nothing is claimed of its seconds, empty where something is."""
        return f"no claim: spread {percent(self.spread)}" if self.spread > GREY_ABOVE else ""

    @property
    def ratio_grey(self) -> str:
        """Why nothing is claimed of its ratio, empty where something is."""
        return f"no claim: spread {percent(self.ratio_spread)}" if self.ratio_spread > GREY_ABOVE else ""

    @property
    def verdict(self) -> str:
        """What may be said against the reference."""
        if self.ratio is None:
            return ""
        if self.ratio_grey:
            return self.ratio_grey
        return "slower" if self.ratio.low > 1 else "faster" if self.ratio.high < 1 else "not told apart"

    @property
    def shares(self) -> dict[str, float]:
        """Kind of work -> share of the CPU seconds."""
        whole = sum(self.kinds.values())
        return {kind: value / whole for kind, value in self.kinds.items()} if whole else {}


@dataclass(frozen=True)
class TableTiming:
    """The timing record that stands for a workload.

    Attributes:
        rows: learner -> its step, in the order of the learners.
        untimed: learner -> why it was not timed.
        rounds: counted ones.
        reference: learner that ratios are to; None where it was not timed.
        complete: whether every learner with a run that ended was timed.
    """

    rows: dict[str, StepTime]
    untimed: dict[str, str]
    rounds: int
    reference: str | None
    complete: bool

    @property
    def kinds(self) -> list[str]:
        """The kinds of work of which some learner does any."""
        return [kind for kind in KINDS if any(row.kinds.get(kind, 0.0) > 0 for row in self.rows.values())]

    @property
    def coverage(self) -> float:
        """Of the intervals, at least."""
        return min(row.interval.coverage for row in self.rows.values())

    @property
    def note(self) -> str:
        """Where CPU-seconds of this workload come from."""
        if not self.complete:
            return f"{UNTIMED} The one that is here leaves out {', '.join(self.untimed)}."
        text = "CPU-seconds are steps times the seconds a step of the timing pass (section 5)."
        grey = [row.name for row in self.rows.values() if row.grey]
        whose = "every learner" if len(grey) == len(self.rows) else ", ".join(grey)
        return f"{text} Spread above {percent(GREY_ABOVE)}, hence no claim: {whose}." if grey else text

    def claims(self, *names: str) -> bool:
        """Return whether something may be said of these learners' seconds."""
        return self.complete and all(name in self.rows and not self.rows[name].grey for name in names)
