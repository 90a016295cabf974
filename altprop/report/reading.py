"""From folders of records to the report's model: who is a learner, which runs belong together, what a table holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from altprop.errors import AltpropError, near
from altprop.records.cards import load_cards
from altprop.records.claims import load_claims, read_claims
from altprop.records.folders import left_out
from altprop.records.frame import read_all
from altprop.records.oracle_checks import load_oracle_checks
from altprop.records.record import Record
from altprop.report.health import natural
from altprop.report.model import Learner, Report, Run, Table, Tuning
from altprop.report.naming import name_variants
from altprop.report.style import assign
from altprop.report.timing import attach
from altprop.report.trials import agreement, role_of, tuned_block, tunings


def read(runs: Sequence[Path], title: str, keys: Collection[str] | None = None, reference: str | None = None) -> Report:
    """Read the records below some folders, all of them or those with the given run keys.

    Raises:
        AltpropError: a folder is missing, there is no record in any of them, or no learner has the reference's name.
    """
    records, unreadable = read_all(list(runs))
    if keys is not None:
        records = [record for record in records if record.key in set(keys)]
    if not records:
        worst = f" ({len(unreadable)} unreadable: {unreadable[0]})" if unreadable else ""
        raise AltpropError(f"there are no records in {_places(runs)}{worst}")
    trials = [record for record in records if role_of(record) == "trial"]
    records = [record for record in records if role_of(record) != "trial"]
    if not records:
        raise AltpropError(
            f"there are only tuning trials in {_places(runs)} ({len(trials)}) and no run to report on: "
            "start the sweep again to finish it"
        )
    names = name_variants(records)
    kept, superseded = _newest(records, names)
    workloads: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for record in kept:
        workloads[record.workload][names[record.key]].append(Run(record, names[record.key]))
    learners = _learners(kept, names, reference)
    tables = [
        _table(name, cells, learners) for name, cells in sorted(workloads.items(), key=lambda item: natural(item[0]))
    ]
    found, older = tunings(trials)
    placed = [replace(tuning, learner=_searched(tuning, tables)) for tuning in found]
    oracle_checks, broken = load_oracle_checks(list(runs))
    cards, torn = load_cards(list(runs))
    claims, worn = load_claims(list(runs))
    report = Report(
        title,
        learners,
        tables,
        unreadable + broken + torn + worn,
        superseded + older,
        placed,
        oracle_checks,
        cards,
        [claim for one in claims for claim in read_claims(one.data["claims"])],
        left_out=left_out(runs),
    )
    return attach(report, runs)


def _places(runs: Sequence[Path]) -> str:
    return ", ".join(repr(str(folder)) for folder in runs)


def _searched(tuning: Tuning, tables: Sequence[Table]) -> str | None:
    """Return the learner that a tuning searched: the one at its defaults, else the tuned one; of several the likest."""
    trial = tuning.trials[0].run.record
    paths = [option.path for option in tuning.options]
    found = []
    for runs in (runs for table in tables if table.workload == tuning.workload for runs in table.runs.values()):
        tuned = tuned_block(runs[0].record)
        if (tuned.learner if tuned else runs[0].record.label) == tuning.label:
            found.append((tuned is None, agreement(runs[0].record, trial, paths), runs[0].learner))
    return max(found, key=lambda one: one[:2])[2] if found else None


def _newest(records: Sequence[Record], names: dict[str, str]) -> tuple[list[Record], list[Record]]:
    """Return, of several runs of one learner, workload and seed, the one that finished last; and the others."""
    groups: dict[tuple[str, str, int], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.workload, names[record.key], record.seed].append(record)
    kept, left = [], []
    for group in groups.values():
        ordered = sorted(group, key=lambda record: (str(record.measured.get("finished") or ""), record.key))
        kept.append(ordered[-1])
        left += ordered[:-1]
    return kept, left


def _learners(records: Sequence[Record], names: dict[str, str], reference: str | None) -> list[Learner]:
    """Return the reference first, then learners, then controls, each by name.

    Without a name the reference is the first learner by name whose records are flagged so.
    """
    known = {names[record.key] for record in records}
    if reference is not None and reference not in known:
        raise AltpropError(f"no learner of the report is called {reference}; {near(reference, known)}")
    firsts: dict[str, Record] = {}
    roles: dict[str, str] = {}
    for record in records:
        name = names[record.key]
        firsts.setdefault(name, record)
        first = name == reference if reference is not None else bool(record.data.get("reference"))
        role = "reference" if first else "control" if record.data.get("control") else "learner"
        roles[name] = min(role, roles.get(name, role), key=("reference", "control", "learner").index)
    rank = {"reference": 0, "learner": 1, "control": 2}
    # A tuned learner stands right behind itself at its defaults.
    tuned = {name: tuned_block(record) for name, record in firsts.items()}
    base = {name: block.learner if (block := tuned[name]) else firsts[name].label for name in firsts}
    ordered = sorted(firsts, key=lambda name: (rank[roles[name]], base[name], tuned[name] is not None, name))
    # One reference: a second learner that is flagged so is drawn and tested like any other.
    places = {firsts[name].label: place for place, name in reversed(list(enumerate(ordered))) if not tuned[name]}
    twins = {
        place: places[block.learner]
        for place, name in enumerate(ordered)
        if (block := tuned[name]) and places.get(block.learner, place) < place
    }
    drawn = ["learner" if roles[n] == "reference" and i > 0 else roles[n] for i, n in enumerate(ordered)]
    return [
        Learner(
            name, _axes(firsts[name]), role == "reference", role == "control", style, index, tuned[name] is not None
        )
        for index, (name, role, style) in enumerate(zip(ordered, drawn, assign(drawn, twins), strict=True))
    ]


def _axes(record: Record) -> dict[str, str]:
    return {str(axis): str(value) for axis, value in record.data["axes"].items()}


_SHARED = ("metric", "higher_is_better", "chance", "oracle", "baselines", "targets", "sizes", "budget", "panels")
"""What all runs of a workload have in common in their results."""


def _table(workload: str, cells: dict[str, list[Run]], learners: Sequence[Learner]) -> Table:
    runs = {one.name: sorted(cells[one.name], key=lambda run: run.seed) for one in learners if one.name in cells}
    facts: dict[str, Any] = {}
    for run in (run for group in runs.values() for run in group):
        for name in _SHARED:
            if facts.get(name) in (None, {}):
                facts[name] = run.result.get(name)
        facts.setdefault("axes", _axes(run.record))
        if facts.get("margin") is None:
            facts["margin"] = (run.record.data["config"].get("task") or {}).get("equivalence_margin")
    reference = next((one.name for one in learners if one.reference and one.name in runs), None)
    return Table(workload, runs, facts, reference)
