"""Timing records: seconds a step of the learners of one workload, measured round robin in one process.

They lie in the folder `timing` beside the runs, one file a workload, so that whoever copies a folder of records copies
them with it. The report claims nothing about time but from them.
"""

from __future__ import annotations

import hashlib
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any, ClassVar, final

from altprop.records.documents import Document, load_documents, write_document
from altprop.records.folders import Folders

GROUPS = {
    "forward": "forward",
    "backward": "backward",
    "block_forward": "block passes",
    "block_backward": "block passes",
    "transpose": "block passes",
    "cell": "forward",
    "cell_jacobian": "forward",
    "readout": "forward",
    "readout_backward": "backward",
    "jvp": "products",
    "hvp": "products",
    "population": "population",
    "update": "update",
}
"""Kind of work in the ledger -> what it is called in a breakdown; "other" is what no primitive does."""
KINDS = (*dict.fromkeys(GROUPS.values()), "other")
LEAST_ROUNDS = 5
"""Counted rounds without which nothing is written."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class MedianInterval:
    """A median with an interval between two of the values, whatever their distribution.

    Attributes:
        estimate: the median.
        low, high: limits.
        coverage: probability that such an interval holds the median of what the values are drawn from.
    """

    estimate: float
    low: float
    high: float
    coverage: float


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> MedianInterval:
    """Return the median and the narrowest pair of order statistics x(k), x(n+1-k) that covers it as wanted.

    The pair misses where fewer than k of n values fall on one side of the true median: with probability
    2 P(Binomial(n, 1/2) < k). Five values reach .9375 at best, then the whole range is given; ten reach .979.

    >>> median_interval([5.0, 1.0, 2.0, 4.0, 3.0])
    MedianInterval(estimate=3.0, low=1.0, high=5.0, coverage=0.9375)
    >>> found = median_interval([float(value) for value in range(1, 11)])
    >>> found.estimate, found.low, found.high, round(found.coverage, 3)
    (5.5, 2.0, 9.0, 0.979)
    """
    x, n = sorted(values), len(values)
    rank, missed = 1, 2 * 0.5**n
    while 2 * (rank + 1) <= n:
        more = missed + 2 * math.comb(n, rank) * 0.5**n
        if more > 1 - confidence:
            break
        rank, missed = rank + 1, more
    return MedianInterval(statistics.median(x), x[rank - 1], x[n - rank], max(0.0, 1 - missed))


def spread(values: Sequence[float]) -> float:
    """Return the middle half's width over the median, (q75 - q25) / median, with linear quartiles.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
    0.6666666666666666
    """
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def ratios(mine: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return mine over the reference's, round by round, so that what slows both down cancels.

    >>> ratios([2.0, 4.5], [1.0, 1.5])
    [2.0, 3.0]
    """
    return [a / b for a, b in zip(mine, reference, strict=True)]


@dataclass(frozen=True)
class Timed:
    """What was measured of one learner, or why nothing was.

    Attributes:
        label, cell, seed: of the run that was rebuilt.
        fingerprint: of the machine and versions that timed it, as in a run's provenance.
        reference, control: roles.
        cpu, wall: seconds a step, one a counted round; empty where it was not timed.
        breakdown: kind of work -> CPU seconds a step, one a round of their own.
        block: steps a round. first: steps taken before the first counted round. again: returns to the first state.
        reason: why it was not timed, empty where it was.
        failed: whether it raised while it was timed.
    """

    label: str
    cell: str
    seed: int
    fingerprint: str
    reference: bool = False
    control: bool = False
    cpu: tuple[float, ...] = ()
    wall: tuple[float, ...] = ()
    breakdown: Mapping[str, Sequence[float]] | None = None
    block: int = 0
    first: int = 0
    again: int = 0
    reason: str = ""
    failed: bool = False


@final
class Timing(Document):
    """One timing pass over one workload; passes are told apart by their content."""

    folder: ClassVar[str] = "timing"
    fields: ClassVar[Mapping[str, type]] = {
        "workload": str,
        "rounds": int,
        "protocol": dict,
        "learners": list,
        "measured": dict,
        "provenance": dict,
    }

    @property
    def identity(self) -> tuple[str, ...]:
        return (self.digest,)

    @classmethod
    def problem_of(cls, data: Mapping[str, Any]) -> str | None:
        if data["rounds"] < LEAST_ROUNDS:
            return f"it has {data['rounds']} rounds, and {LEAST_ROUNDS} are the least"
        for entry in data["learners"]:
            if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in ("label", "cell")):
                return "a learner of it has no label or no cell"
            if entry.get("status") == "timed" and (problem := _bad_rounds(entry, data["rounds"])):
                return f"its learner {entry['label']!r} {problem}"
            _timed(entry)
        return None

    @property
    def workload(self) -> str:
        """The name of the task with its model."""
        return str(self.data["workload"])

    @cached_property
    def learners(self) -> tuple[Timed, ...]:
        """The learners in the order in which they were timed."""
        return tuple(_timed(entry) for entry in self.data["learners"])


def file_name(workload: str) -> str:
    """Return the name of a workload's file.

    >>> file_name("digits[hidden=[8]]"), file_name("../x")
    ('digits-hidden-8-bde969c1.json', 'x-d6b96a97.json')
    """
    plain = re.sub(r"[^A-Za-z0-9]+", "-", workload).strip("-")[:80]
    return f"{plain or 'workload'}-{hashlib.sha256(workload.encode()).hexdigest()[:8]}.json"


def write_timing(
    runs_dir: str | PathLike[str],
    workload: str,
    rounds: int,
    learners: Sequence[Timed],
    protocol: Mapping[str, Any],
    measured: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Timing:
    """Make a timing pass permanent, in place of an older one of the workload: a crash leaves the old or the new.

    Args:
        runs_dir: the folder of records.
        workload: that the learners were timed on.
        rounds: counted ones.
        learners: in the order in which they took turns.
        protocol: how it was measured, for people to read.
        measured: when and where.
        provenance: as in a run's record.

    Raises:
        AltpropError: the disk is full or the folder cannot be written, in one line.
    """
    reference = next((one for one in learners if one.reference and one.cpu), None)
    data = {
        "workload": workload,
        "rounds": rounds,
        "protocol": dict(protocol),
        "reference": None if reference is None else reference.label,
        "learners": [_entry(one, reference) for one in learners],
        "measured": dict(measured),
        "provenance": dict(provenance),
    }
    return write_document(runs_dir, Timing, file_name(workload), data)


def _entry(one: Timed, reference: Timed | None) -> dict[str, Any]:
    """Return what the file holds of a learner: the rounds, and what follows from them for whoever opens it."""
    entry: dict[str, Any] = {
        "label": one.label,
        "cell": one.cell,
        "seed": one.seed,
        "fingerprint": one.fingerprint,
        "reference": one.reference,
        "control": one.control,
        "status": "timed" if one.cpu else "failed" if one.failed else "not timed",
        "reason": one.reason,
    }
    if not one.cpu:
        return entry
    entry |= {
        "block": one.block,
        "first_step": one.first,
        "restarts": one.again,
        "cpu_seconds_a_step": list(one.cpu),
        "wall_seconds_a_step": list(one.wall),
        "median": statistics.median(one.cpu),
        "spread": spread(one.cpu),
        "breakdown": {kind: list(values) for kind, values in (one.breakdown or {}).items()},
    }
    if reference is not None:
        each = ratios(one.cpu, reference.cpu)
        found = median_interval(each)
        entry["ratio"] = {
            "rounds": each,
            "median": found.estimate,
            "interval": [found.low, found.high],
            "coverage": found.coverage,
            "spread": spread(each),
        }
    return entry


def load_timings(runs: Folders = "runs") -> tuple[list[Timing], list[str]]:
    """Return the different timing passes of folders of records, sorted by workload, the latest first.

    The second list and the argument are as for `load_documents`.
    """
    found, unreadable = load_documents(Timing, runs)
    ordered = sorted(found, key=lambda one: (one.finished, one.digest), reverse=True)
    return sorted(ordered, key=lambda one: one.workload), unreadable


def _timed(entry: Mapping[str, Any]) -> Timed:
    return Timed(
        label=entry["label"],
        cell=entry["cell"],
        seed=int(entry.get("seed") or 0),
        fingerprint=str(entry.get("fingerprint") or ""),
        reference=bool(entry.get("reference")),
        control=bool(entry.get("control")),
        cpu=tuple(entry.get("cpu_seconds_a_step") or ()),
        wall=tuple(entry.get("wall_seconds_a_step") or ()),
        breakdown=entry.get("breakdown") or {},
        block=int(entry.get("block") or 0),
        first=int(entry.get("first_step") or 0),
        again=int(entry.get("restarts") or 0),
        reason=str(entry.get("reason") or ""),
        failed=entry.get("status") == "failed",
    )


def _bad_rounds(entry: Mapping[str, Any], rounds: int) -> str | None:
    for name in ("cpu_seconds_a_step", "wall_seconds_a_step"):
        values = entry.get(name)
        if not isinstance(values, list) or len(values) != rounds or not all(_positive(value) for value in values):
            return f"does not have {rounds} positive figures in {name}"
    kinds = entry.get("breakdown")
    if not isinstance(kinds, dict) or not all(
        isinstance(values, list) and values and all(_positive(value) or value == 0 for value in values)
        for values in kinds.values()
    ):
        return "has no usable breakdown"
    return None


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
