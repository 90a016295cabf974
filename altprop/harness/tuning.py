"""A tuning: quasi-random trials of a learner's declared options, the best one by validation, and its fresh seeds."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml

from altprop.errors import AltpropError, near
from altprop.harness.cell import Cell
from altprop.harness.execution import run_at_once, run_seeds
from altprop.harness.planning import Outcome
from altprop.records.record import Record
from altprop.records.status import RunStatus
from altprop.records.store import RunStore
from altprop.search_space import Space

TRIAL_SEED = 10_000
"""First seed of every trial: none of those that evaluate the choice, which are 0, 1, 2, ... unless listed otherwise."""
# Where a learner's own options lie in a cell's configuration.
_PARTS = {"algorithm": ("algorithm",), "optimizer": ("algorithm", "optimizer"), "dropout": ("dropout",)}
_ENDED = frozenset({RunStatus.COMPLETED, RunStatus.REACHED_TARGET})
_PATIENCE = 0.5
"""Seconds between two looks at a trial that another worker has."""


def run_tuning(cell: Cell) -> list[Outcome]:
    """Run a learner with its defaults, `tune` trials, and the chosen values on the same seeds as the defaults.

    A trial runs on `tune_seeds` seeds, is judged by the mean of their validation metrics, and has failed where one of
    them did. It sees validation data only; the test set is opened for the choice. Trials are records like others: what
    is there is not run again, and trials of a smaller tuning are trials of a larger one. A learner without a declared
    option runs with its defaults.

    Args:
        cell: with `settings.tune` above 0.

    Returns:
        The outcomes of the defaults, the trials and the tuned runs.

    Raises:
        KeyboardInterrupt: after the run at hand was saved so that it can be resumed.
        AltpropError: for a space that names no option of the learner, or where no record can be written at all.
    """
    seeds = tuple(range(TRIAL_SEED, TRIAL_SEED + cell.settings.tune_seeds))
    taken = sorted(set(seeds) & set(cell.settings.seeds))
    if taken:
        raise AltpropError(f"seed {taken[0]} is a seed of trials, and tuned values are evaluated on others")
    fixed = {override.lstrip("+~").partition("=")[0] for override in cell.overrides}
    space = Space.read(cell.declared, fixed)
    defaults = {one.name: _option(cell, one.name) for one in space.dimensions}
    trials = [
        _trial(cell, index, values, space, defaults, seeds)
        for index, values in enumerate(space.trials(cell.settings.tune))
    ]
    outcomes = run_seeds(cell)
    if not trials or all(outcome.status == RunStatus.REFUSED for outcome in outcomes):
        return outcomes
    store = RunStore(cell.settings.runs_dir)
    tried = _settled(trials)
    outcomes += [outcome for trial in tried for outcome in trial]
    records = [[_record(store, outcome) for outcome in trial] for trial in tried]
    best = choose(records)
    if best is None:
        return outcomes
    tuned: dict[str, Any] = {
        "trials": len(trials),
        "index": best,
        "values": dict(trials[best].about["trial"]["values"]),
        "defaults": defaults,
        "space": space.described(),
        "validation": _mean(records[best]),
        "flops": sum(_flops(record) for trial in records for record in trial),
        "learner": cell.label,
    }
    # Its place in the key keeps it apart from the same values set by hand, and from other tunings.
    place = [len(trials), best]
    if len(seeds) > 1:
        tuned["seeds"] = len(seeds)
        place.append(len(seeds))
    chosen = _with_options(cell, tuned["values"], {"tuned": place})
    return outcomes + run_seeds(replace(chosen, label=f"{cell.label}·tuned", role="tuned", about={"tuned": tuned}))


def choose(trials: Sequence[Sequence[Record]]) -> int | None:
    """Return the place of the trial with the best final validation metric, the first of equals; None if all failed.

    Args:
        trials: the records of the seeds of each.

    Raises:
        AltpropError: where the task has no validation data to choose on.
    """
    ended = {
        place: records for place, records in enumerate(trials) if all(record.status in _ENDED for record in records)
    }
    if not ended:
        return None
    values = {place: _mean(records) for place, records in ended.items()}
    first = next(iter(ended.values()))[0]
    if all(value is None for value in values.values()):
        raise AltpropError(f"tune= chooses on validation data, and task {first.data['axes']['task']} has none")
    sign = 1.0 if first.result.get("higher_is_better", True) else -1.0
    worth = {place: sign * value for place, value in values.items() if value is not None and math.isfinite(value)}
    return min(worth, key=lambda place: (-worth[place], place), default=None)


def _mean(records: Sequence[Record]) -> float | None:
    """Return the mean of the validation metrics of a trial's seeds, None where one has none."""
    values = [float(value) for record in records if (value := record.result.get("validation")) is not None]
    return math.fsum(values) / len(values) if len(values) == len(records) else None


def _trial(
    cell: Cell,
    index: int,
    values: Mapping[str, Any],
    space: Space,
    defaults: Mapping[str, Any],
    seeds: tuple[int, ...],
) -> Cell:
    """Return the cell of one trial: seeds of its own, no probes, no look at the test set."""
    about = {"index": index, "values": dict(values), "space": space.described(), "defaults": dict(defaults)}
    chosen = _with_options(cell, values, {"probes": {"tier": "off"}, "trial": True})
    settings = replace(cell.settings, seeds=seeds, probes="off", tune=0)
    return replace(chosen, settings=settings, role="trial", about={"trial": about})


def _settled(trials: Sequence[Cell]) -> list[list[Outcome]]:
    """Run all trials, wait for those that another worker has, and return the outcomes of each one's seeds in order."""
    found: dict[int, list[Outcome]] = {}
    executed = frozenset().union(*(run_at_once(group) for group in _alike(trials)))
    while len(found) < len(trials):
        for index, trial in enumerate(trials):
            if index not in found:
                outcomes = run_seeds(trial)
                if all(outcome.status != "running" for outcome in outcomes):
                    found[index] = outcomes
        if len(found) < len(trials):
            time.sleep(_PATIENCE)
    return [
        [replace(outcome, executed=outcome.executed or outcome.key in executed) for outcome in found[index]]
        for index in range(len(trials))
    ]


def _alike(trials: Sequence[Cell]) -> list[list[Cell]]:
    """Return the trials in groups that differ in numbers that need not be whole; those may be stacked."""
    groups: dict[str, list[Cell]] = {}
    for trial in trials:
        values = trial.about["trial"]["values"]
        fixed = {name: value for name, value in values.items() if not isinstance(value, float)}
        groups.setdefault(json.dumps(fixed, sort_keys=True), []).append(trial)
    return list(groups.values())


def _record(store: RunStore, outcome: Outcome) -> Record:
    record = store.read(str(outcome.key))
    if record is None:
        raise AltpropError(f"the record {outcome.key} of a trial is gone; run the same command again")
    return record


def _flops(record: Record) -> float:
    return float((record.result.get("ledger") or {}).get("flops", 0.0))


def _option(cell: Cell, name: str) -> Any:
    """Return the value of a learner's option, such as optimizer.lr.

    Raises:
        AltpropError: where the learner has no such option.
    """
    group, _, key = name.partition(".")
    node: Any = cell.config
    for step in _PARTS[group]:
        node = node.get(step) or {}
    if key not in node:
        raise AltpropError(f"search of {name}: there is no such option; {near(key, node)}")
    return node[key]


def _with_options(cell: Cell, values: Mapping[str, Any], more: Mapping[str, Any]) -> Cell:
    """Return a cell with other values of the learner's options.

    Args:
        cell: the original.
        values: dotted option -> value.
        more: laid over the top level of the configuration.
    """
    config, full = dict(cell.config), yaml.safe_load(cell.full_yaml) if cell.full_yaml else {}
    for name, value in values.items():
        group, _, key = name.partition(".")
        config = _put(config, [*_PARTS[group], key], value)
        for path in {(group,), _PARTS[group]}:
            full = _put(full, [*path, key], value)
    # Written as Hydra reads it on the command line.
    written = [f"{name}={json.dumps(value).replace(' ', '')}" for name, value in values.items()]
    text = yaml.safe_dump(full, sort_keys=True) if cell.full_yaml else ""
    return replace(cell, config={**config, **more}, overrides=(*cell.overrides, *written), full_yaml=text)


def _put(node: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return a copy of nested mappings with one value replaced."""
    first, *rest = path
    return {**node, first: _put(node.get(first) or {}, rest, value) if rest else value}
