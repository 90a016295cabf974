"""Whether a rerun reproduces what was published: run by run to the bit, and figure by figure within the seeds' spread.

Bits can only agree where the fingerprints do (same versions, processor, threads) and as many seeds ran as one. What the
published record does not tell is not compared: later code measures more. So is the hash of the trace, which covers what
probes recorded.
Elsewhere training is chaotic enough that a seed's number is a fresh draw from the seeds' distribution, so a figure is
held against that distribution:

    |mean(here) - mean(published)| <= t(.975, n - 1) * s * sqrt(1/n + 1/m) + 1e-6 |mean(published)|

with s the standard deviation over n published seeds and m seeds here: the interval that holds the mean of m new runs in
95 of 100 cases. Runs without the figure (diverged, never hit the target) may differ in number by one in ten, rounded
up; a single seed may not.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from altprop.records import provenance
from altprop.records.encode import canonical_json
from altprop.records.folders import Folders
from altprop.records.frame import read_all
from altprop.records.key import relevant
from altprop.records.record import Record

ROUNDING = 1e-6
"""Relative difference that is put down to rounding."""
MEASURED_SPREAD = 0.25
"""Relative difference of seconds and bytes that a quiet machine of the same kind may show."""


class Verdict(StrEnum):
    """What a comparison says about one figure."""

    SAME = "same"
    WITHIN = "within the stated spread"
    DIFFERENT = "different"


@dataclass(frozen=True)
class RunComparison:
    """One published run beside its rerun.

    Args:
        workload: The task with its model.
        label: The learner.
        seed: The seed.
        differing: Dotted paths at which the `result` blocks differ, status included; none if all bits agree.
        obstacles: The fingerprint's fields that differ, as texts; none if bitwise equality was to be expected.
    """

    workload: str
    label: str
    seed: int
    differing: tuple[str, ...]
    obstacles: tuple[str, ...]

    @property
    def bitwise(self) -> bool:
        """Whether the `result` blocks are equal bit for bit."""
        return not self.differing


@dataclass(frozen=True)
class FigureComparison:
    """One number of the report, over the seeds of a cell that both sides have.

    Args:
        workload: The task with its model.
        label: The learner.
        figure: What is compared, such as "test accuracy" or "flops to 90%".
        published: The values of the published runs, None where a run has none (a target never hit).
        here: The values of the rerun, in the same order of seeds.
        spread: How far the means may lie apart; NaN where one published seed or none has the figure.
        verdict: What follows.
    """

    workload: str
    label: str
    figure: str
    published: tuple[float | None, ...]
    here: tuple[float | None, ...]
    spread: float
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """All of it.

    Args:
        runs: The runs that both sides have.
        figures: Deterministic figures, on which the verdict rests.
        measured: Seconds and bytes, for information; empty where the processors differ.
        missing: Published runs that were not rerun.
        extra: Runs here that were not published.
        unreadable: A sentence for each record that could not be read.
    """

    runs: tuple[RunComparison, ...]
    figures: tuple[FigureComparison, ...]
    measured: tuple[FigureComparison, ...]
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = field(default=())

    @property
    def bitwise_expected(self) -> bool:
        """Whether all fingerprints agree, so that every `result` block has to be equal bit for bit."""
        return bool(self.runs) and not any(run.obstacles for run in self.runs)

    @property
    def reproduced(self) -> bool:
        """Whether nothing is missing or different; on equal fingerprints, whether all is equal bit for bit."""
        if self.missing or not self.runs or (self.bitwise_expected and not all(run.bitwise for run in self.runs)):
            return False
        return all(figure.verdict is not Verdict.DIFFERENT for figure in self.figures)

    def table(self) -> str:
        """Return plain text: what could be expected, a line a figure, and every difference in bits."""
        equal = sum(run.bitwise for run in self.runs)
        lines = [f"{equal} of {len(self.runs)} result blocks are equal bit for bit."]
        if self.bitwise_expected:
            lines.append("The fingerprints are equal, so all of them should be.")
        else:
            obstacles = sorted({text for run in self.runs for text in run.obstacles})
            lines.append("The fingerprints differ, so equal bits cannot be expected: " + "; ".join(obstacles) + ".")
        lines += ["", *_aligned(["task", "learner", "figure", "published", "here", "spread", "verdict"], self.figures)]
        if self.measured:
            lines += ["", f"Measured, for information (spread at least {MEASURED_SPREAD:.0%}):"]
            lines += _aligned(["task", "learner", "figure", "published", "here", "spread", "verdict"], self.measured)
        if self.bitwise_expected and equal < len(self.runs):
            lines += ["", "Differing fields:"]
            lines += [f"  {_name(run)}: {_listed(run.differing)}" for run in self.runs if run.differing]
        for title, names in (
            ("Not rerun", self.missing),
            ("Not published", self.extra),
            ("Unreadable", self.unreadable),
        ):
            if names:
                lines += ["", f"{title}:", *(f"  {name}" for name in names)]
        lines += ["", "Reproduced." if self.reproduced else "NOT reproduced."]
        return "\n".join(lines) + "\n"


def compare(published: Folders, here: Folders) -> Comparison:
    """Compare two sets of records, matched by configuration and seed, or else by label, workload and seed.

    Args:
        published: The folders of the published records.
        here: The folders of the rerun.

    Raises:
        AltpropError: A folder does not exist.
    """
    theirs, unreadable = read_all(published)
    ours, also_unreadable = read_all(here)
    pairs, missing, extra = _matched(theirs, ours)
    cells: dict[tuple[str, str, str], list[tuple[Record, Record]]] = defaultdict(list)
    for old, new in pairs:
        cells[old.workload, old.label, str(old.data.get("cell"))].append((old, new))
    figures = [figure for cell in cells.values() for figure in _figures(cell)]
    measured = [figure for cell in cells.values() for figure in _measured(cell)]
    return Comparison(
        tuple(_run(old, new) for old, new in pairs),
        tuple(figures),
        tuple(measured),
        tuple(map(_name, missing)),
        tuple(map(_name, extra)),
        (*unreadable, *also_unreadable),
    )


def _matched(
    theirs: list[Record], ours: list[Record]
) -> tuple[list[tuple[Record, Record]], list[Record], list[Record]]:
    """Return the pairs, what only the published side has, and what only the rerun has.

    Configurations come first: alone in its folder, a workload may have a shorter name than among others of its kind.
    """
    known, fresh = _by_configuration(theirs), _by_configuration(ours)
    pairs = [(runs[0], fresh[which][0]) for which, runs in known.items() if len(runs) == len(fresh.get(which, ())) == 1]
    paired = {id(record) for pair in pairs for record in pair}
    new, missing = _by_name(ours), []
    for name, settings in _by_name(theirs).items():
        others = new.get(name, {})
        if len(settings) == len(others) == 1:  # A renamed or added option is no reason not to compare.
            others = dict.fromkeys(settings, next(iter(others.values())))
        for setting, record in settings.items():
            other = others.get(setting)
            if id(record) in paired:
                continue
            if other is None or id(other) in paired:
                missing.append(record)
            else:
                pairs.append((record, other))
                paired.add(id(other))
    extra = [record for settings in new.values() for record in settings.values() if id(record) not in paired]
    return pairs, missing, extra


def _by_configuration(records: list[Record]) -> dict[str, list[Record]]:
    """Return axes, label, seed and all options on which a result depends -> the records with them."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        trial = (record.data.get("trial") or {}).get("values")
        options = [record.data["axes"], record.label, record.seed, trial, relevant(record.data["config"])]
        found[canonical_json(options)].append(record)
    return found


def _by_name(records: list[Record]) -> dict[tuple[str, str, int], dict[str, Record]]:
    """Return workload, label and seed -> configuration -> the newest record with it."""
    found: dict[tuple[str, str, int], dict[str, Record]] = defaultdict(dict)
    for record in sorted(records, key=lambda run: str(run.data["measured"].get("finished"))):
        found[record.workload, record.label, record.seed][_setting(record)] = record
    return found


def _setting(record: Record) -> str:
    """Return what tells runs of one label and seed apart: a trial's values, or the whole configuration."""
    trial = record.data.get("trial")
    return canonical_json(trial["values"] if trial else relevant(record.data["config"]))


def _run(old: Record, new: Record) -> RunComparison:
    told = {name: value for name, value in old.data["result"].items() if name != "trace_sha256"}
    paths = differing_paths(told, _as_far_as(told, new.data["result"]))
    if old.status is not new.status and "status" not in paths:
        paths.insert(0, "status")
    obstacles = provenance.differences(old.data["provenance"], new.data["provenance"])
    # Products over other numbers of stacked seeds round otherwise.
    groups = [record.data["measured"].get("stacked", 1) for record in (old, new)]
    if groups[0] != groups[1]:
        obstacles.append("seeds that ran as one {} / {}".format(*groups))
    return RunComparison(old.workload, old.label, old.seed, tuple(paths), tuple(obstacles))


def _as_far_as(old: Any, new: Any) -> Any:
    """Return of a nested value what the old one tells of too."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {name: _as_far_as(value, new[name]) for name, value in old.items() if name in new}
    return new


def _figures(cell: list[tuple[Record, Record]]) -> list[FigureComparison]:
    first = cell[0][0].data["result"]
    figures = [_figure(cell, "runs that ended well", lambda record: 1.0 if _well(record) else None)]
    if any(old.data["result"].get("test") is not None for old, _ in cell):
        figures.append(_figure(cell, f"test {first.get('metric')}", lambda record: record.data["result"].get("test")))
    targets = dict.fromkeys(name for old, _ in cell for name in old.data["result"].get("hits") or {})
    figures += [_figure(cell, f"flops to {name}", _hit(name)) for name in targets]
    if any(_ledger(old) is not None for old, _ in cell):
        figures.append(_figure(cell, "flops", _ledger))
    return figures


def _well(record: Record) -> bool:
    return record.status.value in {"completed", "reached_target"}


def _ledger(record: Record) -> float | None:
    value = (record.data["result"].get("ledger") or {}).get("flops")
    return None if value is None else float(value)


def _hit(target: str) -> Callable[[Record], float | None]:
    def read(record: Record) -> float | None:
        hit = (record.data["result"].get("hits") or {}).get(target)
        return None if not hit or not _well(record) else float(hit["flops"][1])

    return read


def _measured(cell: list[tuple[Record, Record]]) -> list[FigureComparison]:
    """Return seconds and bytes, where both sides ran on the same kind of processor with as many threads."""
    for old, new in cell:
        theirs, ours = old.data["provenance"], new.data["provenance"]
        if any(theirs.get(name) != ours.get(name) for name in ("cpu", "threads", "device")):
            return []

    def reader(name: str) -> Callable[[Record], float | None]:
        return lambda record: record.data["measured"].get(name)

    names = [
        name
        for name in ("cpu_seconds", "live_bytes", "saved_bytes")
        if any(old.data["measured"].get(name) is not None for old, _ in cell)
    ]
    return [_figure(cell, name.replace("_", " "), reader(name), MEASURED_SPREAD) for name in names]


def _figure(
    cell: list[tuple[Record, Record]], name: str, read: Callable[[Record], float | None], least: float = ROUNDING
) -> FigureComparison:
    published, here = tuple(read(old) for old, _ in cell), tuple(read(new) for _, new in cell)
    spread, verdict = compare_means(published, here, least)
    return FigureComparison(cell[0][0].workload, cell[0][0].label, name, published, here, spread, verdict)


def _name(run: Record | RunComparison) -> str:
    return f"{run.workload} {run.label} seed {run.seed}"


def _listed(paths: tuple[str, ...]) -> str:
    return ", ".join(paths[:6]) + (f" and {len(paths) - 6} more" if len(paths) > 6 else "")


def _shown(values: tuple[float | None, ...]) -> str:
    known = finite(values)
    mean = f"{statistics.fmean(known):.4g}" if known else "none"
    return mean if len(known) == len(values) else f"{mean} ({len(known)}/{len(values)})"


def _aligned(head: list[str], figures: Iterable[FigureComparison]) -> list[str]:
    rows = [head]
    for entry in figures:
        spread = "-" if math.isnan(entry.spread) else f"{entry.spread:.2g}"
        values = [_shown(entry.published), _shown(entry.here), spread, entry.verdict.value]
        rows.append([entry.workload, entry.label, entry.figure, *values])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def compare_means(
    published: Iterable[float | None], here: Iterable[float | None], least: float = ROUNDING
) -> tuple[float, Verdict]:
    """Return how far the means may lie apart and the verdict; the rule stands at the head of this module.

    Args:
        published: One value a seed, None or an infinity where there is none.
        here: The values of the same seeds, as many.
        least: The relative difference that is always allowed.

    >>> compare_means([0.90, 0.92, 0.94], [0.91, 0.92, 0.92])[1].value
    'within the stated spread'
    >>> compare_means([0.90, 0.92, 0.94], [0.71, 0.72, 0.72])[1].value
    'different'
    """
    old, new = list(published), list(here)
    known, fresh = finite(old), finite(new)
    spread = _spread(known, len(fresh), least)
    if [_value(entry) for entry in old] == [_value(entry) for entry in new]:
        return spread, Verdict.SAME
    allowed = math.ceil(len(old) / 10) if len(old) > 1 else 0
    if abs(len(known) - len(fresh)) > allowed:
        return spread, Verdict.DIFFERENT
    if not known or not fresh:  # At most one seed in ten has the figure, and on one side alone: nothing to compare.
        return spread, Verdict.WITHIN
    apart = abs(statistics.fmean(fresh) - statistics.fmean(known))
    return spread, Verdict.WITHIN if apart <= spread else Verdict.DIFFERENT


def _spread(known: list[float], fresh: int, least: float) -> float:
    if not known:
        return math.nan
    floor = least * abs(statistics.fmean(known))
    if len(known) < 2 or not fresh:
        return floor
    from scipy import stats

    quantile = float(stats.t.ppf(0.975, len(known) - 1))
    return quantile * statistics.stdev(known) * math.sqrt(1 / len(known) + 1 / fresh) + floor


def _value(entry: float | None) -> float | None:
    return entry if entry is not None and math.isfinite(entry) else None


def finite(values: Iterable[float | None]) -> list[float]:
    """Return the values that are there: neither None nor infinite nor NaN."""
    return [float(entry) for entry in values if entry is not None and math.isfinite(entry)]


def differing_paths(old: Any, new: Any, path: str = "") -> list[str]:
    """Return the dotted paths at which two nested values differ in any bit; NaN equals NaN, 0.0 is not -0.0.

    >>> differing_paths({"a": 1, "b": [1.0, 2.0]}, {"a": 1, "b": [1.0, 2.5], "c": None})
    ['b[1]', 'c']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        names = dict.fromkeys([*old, *new])
        absent = object()
        return [
            found
            for name in names
            for found in differing_paths(
                old.get(name, absent), new.get(name, absent), f"{path}.{name}" if path else name
            )
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            found
            for index, (left, right) in enumerate(zip(old, new, strict=True))
            for found in differing_paths(left, right, f"{path}[{index}]")
        ]
    return [] if type(old) is type(new) and repr(old) == repr(new) else [path]
