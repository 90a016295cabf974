"""Names of learners: two settings of one learner in one workload are two learners, named by what differs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from altprop.records.record import Record
from altprop.report.format import plural
from altprop.report.settings import settings
from altprop.report.trials import tuned_block


def name_variants(records: Sequence[Record]) -> dict[str, str]:
    """Run key -> name of its learner.

    That is the label, unless one workload holds several cells of that label: then "label [what=value]" with
    the settings in which those cells differ, or the cell's hash where no setting tells them apart. Learners tuned with
    different numbers of trials are told apart by these: what was chosen differs between workloads.
    """
    labels = _told_by_trials(records)
    cells: dict[tuple[str, str], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        cells[labels[record.key], record.workload][str(record.data.get("cell") or "")].append(record)
    names: dict[str, str] = {}
    for (label, _), by_cell in cells.items():
        suffixes = _suffixes({cell: group[0] for cell, group in by_cell.items()})
        for cell, group in by_cell.items():
            for record in group:
                names[record.key] = f"{label} {suffixes[cell]}".strip()
    return names


def _told_by_trials(records: Sequence[Record]) -> dict[str, str]:
    """Run key -> label, with the number of trials where one workload holds tuned runs of one label and several."""
    counts: dict[tuple[str, str], set[int]] = defaultdict(set)
    trials = {record.key: tuned.trials for record in records if (tuned := tuned_block(record)) is not None}
    for record in records:
        if record.key in trials:
            counts[record.label, record.workload].add(trials[record.key])
    several = {label for (label, _), found in counts.items() if len(found) > 1}
    return {
        record.key: f"{record.label} [{plural(trials[record.key], 'trial')}]"
        if record.label in several and record.key in trials
        else record.label
        for record in records
    }


def _suffixes(cells: Mapping[str, Record]) -> dict[str, str]:
    if len(cells) < 2:
        return dict.fromkeys(cells, "")
    known = {cell: settings(record) for cell, record in cells.items()}
    paths = sorted({path for flat in known.values() for path in flat})
    differing = [path for path in paths if len({repr(flat.get(path)) for flat in known.values()}) > 1]
    texts = {
        cell: "[" + ", ".join(f"{path.rsplit('.', 1)[-1]}={_written(flat.get(path))}" for path in differing[:3]) + "]"
        for cell, flat in known.items()
    }
    if differing and len(set(texts.values())) == len(texts):
        return texts
    return {cell: f"[{cell[:8] or 'no cell'}]" for cell in cells}


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
