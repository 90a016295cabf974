"""What a cell has to run: whether it can, what its runs are called, and how a run of it came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from altprop import catalogue
from altprop.errors import Refused
from altprop.harness.cell import Cell
from altprop.harness.data import data_digest
from altprop.records import key as keys
from altprop.records import source
from altprop.records.status import RunStatus


@dataclass(frozen=True)
class RunIdentity:
    """What tells a run from every other one.

    Attributes:
        cell: that it is a run of.
        seed: of the run.
        key: of the run, the name of its folder.
        cell_key: that all seeds of the cell share.
    """

    cell: Cell
    seed: int
    key: str
    cell_key: str


@dataclass(frozen=True)
class Plan:
    """The runs of a cell, before any is looked for.

    Attributes:
        cell: with the digest of its data.
        runs: one a seed, in the order of the settings.
        failure: why none of them can begin, or None.
    """

    cell: Cell
    runs: tuple[RunIdentity, ...] = field(default=())
    failure: Exception | None = None


def plan(cell: Cell) -> Plan:
    """Name the runs of a cell, and find out what keeps them from beginning."""
    settings = cell.settings
    sentence = refuse(cell)
    failure: Exception | None = None if sentence is None else Refused(sentence)
    try:
        code = sources(cell)
    except Exception as error:  # a plugin's file may hold anything
        code, failure = "unavailable", error
    # A run that never begins needs no data.
    digest = data_digest(cell.config["task"], settings) if failure is None else ""
    cell = replace(cell, data=digest)
    cell_key = keys.cell_key(cell.config, code, digest, settings.device_type, settings.precision, settings.threads)
    runs = (RunIdentity(cell, seed, keys.run_key(cell_key, seed), cell_key) for seed in settings.seeds)
    return Plan(cell, tuple(runs), failure)


def refuse(cell: Cell) -> str | None:
    """Return the sentence that refuses a cell before its classes are imported, or None; they are asked again later."""
    names = (cell.axes["algorithm"], cell.axes["task"], cell.axes["model"])
    config = cell.config
    return catalogue.refusal_of(names, config["algorithm"], config["task"], config["model"], cell.folders)


def sources(cell: Cell) -> str:
    """Return the hash of the code that defines the cell's parts.

    Raises:
        AltpropError: for a module that cannot be found.
    """
    modules = {"altprop.problem"}
    for part in (cell.config["algorithm"], cell.config["dropout"], cell.config["task"], cell.config["model"]):
        target = part.get("_target_")
        named = (part.get(option) for option in part.get("code") or ())
        modules |= {str(path).rpartition(".")[0] for path in (target, *named) if path} - {""}
    if catalogue.model_offers(cell.config["model"]) is None:
        modules.add("altprop.models.custom")
    if cell.axes["optimizer"] != "none":
        modules.add("altprop.optim")
    if cell.settings.probes != "off":
        modules.add(f"altprop.probes.{cell.settings.probes}")
    return source.source_hash(modules)


@dataclass(frozen=True)
class Outcome:
    """How one run of a cell ended in this command.

    Attributes:
        label, workload, seed: which.
        status: of the record.
        reason: its sentence.
        executed: whether it ran now (False: the record was there, or another worker has it).
        test: the metric on the test set, or None.
        metric: its name.
        key: of the record.
        role: of the run.
        notes: what the task says of its data.
        objective: what a search minimises: the final validation metric, negated where more is better, or None.
    """

    label: str
    workload: str
    seed: int
    status: str
    reason: str
    executed: bool
    test: float | None = None
    metric: str | None = None
    key: str | None = None
    role: str = "run"
    objective: float | None = None
    notes: tuple[str, ...] = ()


def outcome_of(run: RunIdentity, data: Mapping[str, Any], executed: bool) -> Outcome:
    """Return how a run came out, from the content of its record.

    Args:
        run: which.
        data: of record.json.
        executed: whether it ran in this command.
    """
    result = data.get("result") or {}
    ended = data["status"] in (RunStatus.COMPLETED, RunStatus.REACHED_TARGET)
    value = result.get("validation") if ended else None
    return Outcome(
        run.cell.label,
        run.cell.workload,
        run.seed,
        str(data["status"]),
        str(data["reason"]),
        executed,
        result.get("test"),
        result.get("metric"),
        str(data["key"]),
        run.cell.role,
        None if value is None else -value if result.get("higher_is_better", True) else value,
        tuple(result.get("notes") or ()),
    )


def running_elsewhere(run: RunIdentity) -> Outcome:
    """Return what is known of a run that another worker has."""
    cell, sentence = run.cell, "another worker has this run"
    return Outcome(cell.label, cell.workload, run.seed, "running", sentence, False, key=run.key, role=cell.role)
