"""Section 9: whether all learners got the same data, weights and batches, and what the runs were made with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from altprop.report.blocks import Block, Cell, Cells, Code, Fold, Grid, Text, note
from altprop.report.format import plural
from altprop.report.model import Report, Run, Table, as_number
from altprop.report.settings import flatten

SHARED = {"data": "data", "split": "split"}
PER_SEED = {"initial_weights": "initial weights", "batch_order": "batch order"}


@dataclass(frozen=True)
class Check:
    """The result of one comparison of hashes.

    Attributes:
        workload: where. what: data, split, initial weights or batch order.
        state: "equal", "different" or "nothing to compare".
        sentence: the result in words.
    """

    workload: str
    what: str
    state: str
    sentence: str


def checks(report: Report) -> list[Check]:
    """Make a report's identity checks: data and split a workload, weights and batches a (model, batch size, seed).

    Models are one where their options are: another initialisation has other weights.
    """
    found = []
    for table in report.tables:
        runs = [run for name in table.runs for run in table.tried(name) if run.block("identity")]
        if not runs:
            continue
        found += [_shared(table, runs, field, name) for field, name in SHARED.items()]
        found += [_per_seed(table, runs, field, name) for field, name in PER_SEED.items()]
    return found


def problems(found: Iterable[Check], workload: str) -> list[str]:
    """Return the failed checks of a workload, as caveats of its verdict."""
    return [
        f"The {check.what} were not the same for all: {check.sentence}"
        for check in found
        if check.workload == workload and check.state == "different"
    ]


def _hash(run: Run, field: str) -> str:
    value = run.block("identity").get(field)
    return value if isinstance(value, str) else ""


def _shared(table: Table, runs: Sequence[Run], field: str, name: str) -> Check:
    by_hash: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if value := _hash(run, field):
            by_hash[value].append(run)
    total = sum(map(len, by_hash.values()))
    if total < 2:
        return Check(table.workload, name, "nothing to compare", f"{plural(total, 'run')} with a hash.")
    if len(by_hash) == 1:
        return Check(table.workload, name, "equal", f"One hash in all {total} runs: {next(iter(by_hash))[:12]}.")
    parts = [f"{value[:12]} in {_who(group)}" for value, group in sorted(by_hash.items(), key=lambda p: -len(p[1]))]
    return Check(table.workload, name, "different", f"{len(by_hash)} hashes: {'; '.join(parts)}.")


def _per_seed(table: Table, runs: Sequence[Run], field: str, name: str) -> Check:
    own = sum(bool(run.result.get("own_model")) for run in runs)
    grouped: dict[tuple[str, str, int, str], list[Run]] = defaultdict(list)
    for run in runs:
        if _hash(run, field) and not run.result.get("own_model"):
            options = repr(sorted(flatten(run.record.data["config"].get("model") or {}).items()))
            grouped[run.record.data["axes"].get("model", ""), batch_size(run), run.seed, options].append(run)
    compared = {place: group for place, group in grouped.items() if len(group) > 1}
    aside = f" {plural(own, 'run has', 'runs have')} a model of {'its' if own == 1 else 'their'} own." if own else ""
    if not compared:
        return Check(
            table.workload, name, "nothing to compare", f"No two runs share model, batch size and seed.{aside}"
        )
    broken = {place: group for place, group in compared.items() if len({_hash(run, field) for run in group}) > 1}
    if not broken:
        total = sum(map(len, compared.values()))
        groups = plural(
            len(compared), "group of one (model, batch size, seed)", "groups of one (model, batch size, seed)"
        )
        return Check(table.workload, name, "equal", f"Equal within {groups}, {total} runs compared.{aside}")
    (model, size, seed, _), group = next(iter(sorted(broken.items())))
    hashes = {_hash(run, field)[:12]: run.learner for run in group}
    parts = ", ".join(f"{value} ({learner})" for value, learner in sorted(hashes.items()))
    where = f"model {model}, batch size {size or 'unknown'}, seed {seed}"
    count = plural(len(broken), "group differs", "groups differ")
    return Check(table.workload, name, "different", f"{count}; in {where}: {parts}.{aside}")


def batch_size(run: Run) -> str:
    """Return the batch size that the run's configuration names, empty if it names none."""
    flat = flatten(run.record.data["config"])
    named = {path: value for path, value in flat.items() if path.rsplit(".", 1)[-1] == "batch_size"}
    return str(named.get("task.batch_size", next(iter(named.values()), "")))


def _who(runs: Sequence[Run]) -> str:
    names = sorted({run.learner for run in runs})
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclass(frozen=True)
class Origin:
    """One thing the runs were made with: its name, and each value with the number of runs that had it."""

    name: str
    values: list[tuple[str, int]]


def origins(report: Report) -> list[Origin]:
    """Return versions, machine and code, each value with its number of runs; the fingerprint first.

    The hashes of the learners' own code are left to section 7, where they are held against the oracle checks.
    """
    seen: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for run in report.runs:
        provenance = {name: value for name, value in run.record.data["provenance"].items() if name != "sources"}
        for name, value in flatten(provenance).items():
            text = (
                "none" if value in (None, "", False) else f"{value:g}" if as_number(value) is not None else str(value)
            )
            seen[name][text] += 1
    ordered = sorted(seen, key=lambda name: (name != "fingerprint", name))
    return [Origin(name, sorted(seen[name].items(), key=lambda pair: (-pair[1], pair[0]))) for name in ordered]


def fingerprints(report: Report) -> str:
    """Return what the fingerprints say about comparing runs bit for bit."""
    known = sorted({str(run.record.data["provenance"].get("fingerprint") or "") for run in report.runs} - {""})
    if not known:
        return "No run recorded a fingerprint of its machine and versions: nothing can be compared bit for bit."
    if len(known) == 1:
        return (
            f"All runs share the fingerprint {known[0][:16]}: run again on a machine and versions with this "
            f"fingerprint, every result block must come out equal bit for bit."
        )
    listed = ", ".join(value[:16] for value in known)
    return f"The runs come from {len(known)} fingerprints ({listed}): results may differ in the last digits."


def reproduce_section(report: Report, found: Sequence[Check]) -> list[Block]:
    """Return what was the same for all, what the runs were made with, and the commands that make them again."""
    blocks: list[Block] = [Text(fingerprints(report))]
    if found:
        moods = {"equal": "good", "different": "bad"}
        text = (
            "Data and split must be equal in a whole table; initial weights and batch order within (model, batch size, "
            "seed), among learners that train the task's model."
        )
        rows: list[Cells] = [
            [
                Cell(one.workload, kind="wrap"),
                one.what,
                Cell(one.state, kind=moods.get(one.state, "none")),
                Cell(one.sentence, kind="w"),
            ]
            for one in found
        ]
        grid = Grid("Identity checks", ["task", "what", "result", Cell("details", kind="w")], rows)
        blocks += [Text("Was it the same for all?", "h4"), *note(text), grid]
    made: list[Cells] = [[one.name, Cell("\n".join(_counted(one)), kind="w")] for one in origins(report)]
    blocks += [Text("Made with", "h4"), Grid("Versions and machine", ["what", "value"], made), Text("Commands", "h4")]
    blocks += [Text("This page again, from the same records:"), Code("altprop-report RUNS --out REPORT")]
    if report.singles:
        commands = "\n".join(str(run.record.data.get("rerun") or "") for run in report.runs)
        blocks.append(Fold(f"Each run again: {plural(len(report.runs), 'command')}", [Code(commands)]))
    return blocks


def _counted(origin: Origin) -> list[str]:
    """Return the values of an origin, of several each with its number of runs."""
    if len(origin.values) == 1:
        return [origin.values[0][0]]
    return [f"{value} ({plural(times, 'run')})" for value, times in origin.values]
