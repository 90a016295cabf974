"""Tuning as the records have it: trials, tunings of trials, and what a tuned run says about its choice.

A *trial* is a run with searched options, or several on a seed each, seen on validation only: it never becomes a row of
a table. A
*tuning* holds the trials of one learner on one workload over one declared search space. Tunings of different length
share their trials, for quasi-random points are nested: trial 3 of 8 is trial 3 of 16.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from altprop.records.record import Record
from altprop.report.model import Option, Run, Trial, Tuned, Tuning, as_number
from altprop.report.settings import settings

ROLES = ("run", "trial", "tuned")


def role_of(record: Record) -> str:
    """Return what a record was made for: "run", "trial" or "tuned"."""
    value = record.data.get("role")
    return value if value in ROLES else "run"


def tuned_block(record: Record) -> Tuned | None:
    """Return what a tuned run says about its tuning, None for any other run."""
    if role_of(record) != "tuned":
        return None
    data = _block(record, "tuned")
    index = as_number(data.get("index"))
    return Tuned(
        learner=str(data.get("learner") or record.label.removesuffix("·tuned")),
        trials=int(as_number(data.get("trials")) or 0),
        index=None if index is None else int(index),
        values=_mapping(data.get("values")),
        options=_options(data),
        validation=as_number(data.get("validation")),
        flops=as_number(data.get("flops")),
        seeds=int(as_number(data.get("seeds")) or 1),
    )


def tunings(records: Sequence[Record]) -> tuple[list[Tuning], list[Record]]:
    """Return the tunings that trials make, in order of workload and label, and the trials that newer ones supersede.

    Two trials are of one tuning if label, workload, search space, defaults and all settings that are not searched are
    equal. Refused trials are left out: their learner is refused as a whole.
    """
    groups: dict[tuple[str, str, str], dict[tuple[float, int], list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.status.value == "refused":
            continue
        data = _block(record, "trial")
        searched = list(_mapping(data.get("values"))) + list(_mapping(data.get("space")))
        same = [data.get("space"), data.get("defaults"), unsearched(record, searched)]
        index = as_number(data.get("index"))
        place = (math.inf if index is None else index, record.seed)
        groups[record.workload, record.label, json.dumps(same, sort_keys=True, default=str)][place].append(record)
    found, left = [], []
    for (workload, label, _), places in sorted(groups.items()):
        trials: list[Trial] = []
        for (index, _), group in sorted(places.items()):
            ordered = sorted(group, key=lambda record: (str(record.measured.get("finished") or ""), record.key))
            left += ordered[:-1]
            run, number = Run(ordered[-1], label), -1 if math.isinf(index) else int(index)
            if number >= 0 and trials and trials[-1].index == number:  # another seed of the same point
                trials[-1] = replace(trials[-1], more=(*trials[-1].more, run))
            else:
                trials.append(Trial(run, number, _mapping(_block(run.record, "trial").get("values"))))
        found.append(Tuning(workload, label, _options(_block(trials[0].run.record, "trial")), trials))
    return found, left


def unsearched(record: Record, searched: Sequence[str]) -> dict[str, Any]:
    """Return a record's settings by dotted path without the searched ones, wherever an interpolation put them."""
    ends = tuple(f".{path}" for path in searched)
    return {path: value for path, value in settings(record).items() if not f".{path}".endswith(ends or ("\0",))}


def agreement(one: Record, other: Record, searched: Sequence[str]) -> int:
    """Count the settings that are not searched in which two records agree."""
    ours, theirs = unsearched(one, searched), unsearched(other, searched)
    return sum(path in theirs and theirs[path] == value for path, value in ours.items())


def _block(record: Record, name: str) -> dict[str, Any]:
    return _mapping(record.data.get(name))


def _mapping(value: Any) -> dict[str, Any]:
    return {str(name): entry for name, entry in value.items()} if isinstance(value, Mapping) else {}


def _options(data: Mapping[str, Any]) -> tuple[Option, ...]:
    """Return the searched options by path, with what a block declares of each."""
    space, defaults = _mapping(data.get("space")), _mapping(data.get("defaults"))
    made = []
    for path in sorted(space or _mapping(data.get("values"))):
        declared = _mapping(space.get(path))
        choices = declared.get("choices")
        made.append(
            Option(
                path=path,
                low=as_number(declared.get("low")),
                high=as_number(declared.get("high")),
                log=declared.get("scale") == "log",
                choices=tuple(choices) if isinstance(choices, list) else (),
                default=defaults.get(path),
            )
        )
    return tuple(made)
