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
"""Seed of every trial: none of those that evaluate the choice, which are 0, 1, 2, ... unless listed otherwise."""
# Where a learner's own options lie in a cell's configuration.
_PARTS = {"algorithm": ("algorithm",), "optimizer": ("algorithm", "optimizer"), "dropout": ("dropout",)}
_ENDED = frozenset({RunStatus.COMPLETED, RunStatus.REACHED_TARGET})
_PATIENCE = 0.5
"""Seconds between two looks at a trial that another worker has."""


def run_tuning(cell: Cell) -> list[Outcome]:
    """Run a learner with its defaults, `tune` trials, and the chosen values on the same seeds as the defaults.

    A trial sees validation data only; the test set is opened for the choice. Trials are records like others: what is
    there is not run again, and trials of a smaller tuning are trials of a larger one. A learner without a declared
    option runs with its defaults.

    Args:
        cell: with `settings.tune` above 0.

    Returns:
        The outcomes of the defaults, the trials and the tuned runs.

    Raises:
        KeyboardInterrupt: after the run at hand was saved so that it can be resumed.
        AltpropError: for a space that names no option of the learner, or where no record can be written at all.
    """
    if TRIAL_SEED in cell.settings.seeds:
        raise AltpropError(f"seed {TRIAL_SEED} is the seed of trials, and tuned values are evaluated on others")
    fixed = {override.lstrip("+~").partition("=")[0] for override in cell.overrides}
    space = Space.read(cell.declared, fixed)
    defaults = {one.name: _option(cell, one.name) for one in space.dimensions}
    trials = [
        _trial(cell, index, values, space, defaults) for index, values in enumerate(space.trials(cell.settings.tune))
    ]
    outcomes = run_seeds(cell)
    if not trials or all(outcome.status == RunStatus.REFUSED for outcome in outcomes):
        return outcomes
    store = RunStore(cell.settings.runs_dir)
    tried = _settled(trials)
    outcomes += tried
    records = [_record(store, outcome) for outcome in tried]
    best = choose(records)
    if best is None:
        return outcomes
    tuned = {
        "trials": len(trials),
        "index": best,
        "values": dict(trials[best].about["trial"]["values"]),
        "defaults": defaults,
        "space": space.described(),
        "validation": records[best].result["validation"],
        "flops": sum(_flops(record) for record in records),
        "learner": cell.label,
    }
    # Its place in the key keeps it apart from the same values set by hand, and from other tunings.
    chosen = _with_options(cell, tuned["values"], {"tuned": [len(trials), best]})
    return outcomes + run_seeds(replace(chosen, label=f"{cell.label}·tuned", role="tuned", about={"tuned": tuned}))


def choose(records: Sequence[Record]) -> int | None:
    """Return the place of the trial with the best final validation metric, the first of equals; None if all failed.

    Raises:
        AltpropError: where the task has no validation data to choose on.
    """
    ended = {place: record for place, record in enumerate(records) if record.status in _ENDED}
    if not ended:
        return None
    values = {place: record.result.get("validation") for place, record in ended.items()}
    if all(value is None for value in values.values()):
        task = records[0].data["axes"]["task"]
        raise AltpropError(f"tune= chooses on validation data, and task {task} has none")
    sign = 1.0 if next(iter(ended.values())).result.get("higher_is_better", True) else -1.0
    worth = {p: sign * float(v) for p, v in values.items() if v is not None and math.isfinite(float(v))}
    return min(worth, key=lambda place: (-worth[place], place), default=None)


def _trial(cell: Cell, index: int, values: Mapping[str, Any], space: Space, defaults: Mapping[str, Any]) -> Cell:
    """Return the cell of one trial: one seed, no probes, no look at the test set."""
    about = {"index": index, "values": dict(values), "space": space.described(), "defaults": dict(defaults)}
    chosen = _with_options(cell, values, {"probes": {"tier": "off"}, "trial": True})
    settings = replace(cell.settings, seeds=(TRIAL_SEED,), probes="off", tune=0)
    return replace(chosen, settings=settings, role="trial", about={"trial": about})


def _settled(trials: Sequence[Cell]) -> list[Outcome]:
    """Run all trials, wait for those that another worker has, and return their outcomes in order."""
    found: dict[int, Outcome] = {}
    executed = frozenset().union(*(run_at_once(group) for group in _alike(trials)))
    while len(found) < len(trials):
        for index, trial in enumerate(trials):
            if index not in found:
                (outcome,) = run_seeds(trial)
                if outcome.status != "running":
                    found[index] = outcome
        if len(found) < len(trials):
            time.sleep(_PATIENCE)
    outcomes = (found[index] for index in range(len(trials)))
    return [replace(outcome, executed=outcome.executed or outcome.key in executed) for outcome in outcomes]


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
