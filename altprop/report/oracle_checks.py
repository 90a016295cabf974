"""Section 7: is each learner what it says? What its oracles measured, held against the code of its runs."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from altprop.records.oracle_checks import OracleCheck, OracleResult
from altprop.report.blocks import Block, Cell, Cells, Fold, Grid, Points, Text, right
from altprop.report.format import figure, plural
from altprop.report.model import Learner, Report, Run, Table

NAMED = 3
"""How many failing oracles a sentence names; the tables show them all."""


@dataclass(frozen=True)
class Line:
    """One oracle as the page shows it.

    Attributes:
        oracle: what was measured.
        error, tolerance: with as many digits as it takes to tell them apart.
        verdict: in words, with the comparison where it must differ or does not hold.
    """

    oracle: OracleResult
    error: str
    tolerance: str
    verdict: str


@dataclass(frozen=True)
class Verified:
    """An algorithm with its oracle check.

    Attributes:
        name: of the algorithm, with its class where another algorithm has that name too.
        algorithm, target: its name and the import path of its class, as the runs give them.
        learners: those that use it.
        oracle check: of the code that most runs were made with, else the one measured last; None where there is none.
        lines: its oracles.
        note: what must be known of the code that the oracle check is of; empty where it is that of all runs.
        silent: how many runs do not say which code they were made with.
        runs: how many there are.
        codes: hashes of the code that they were made with.
    """

    name: str
    algorithm: str
    target: str
    learners: list[Learner]
    oracle_check: OracleCheck | None
    lines: list[Line]
    note: str
    silent: int
    runs: int
    codes: frozenset[str]

    @property
    def controls(self) -> list[Line]:
        """The negative controls."""
        return [line for line in self.lines if line.oracle.differs]

    @property
    def equalities(self) -> list[Line]:
        """All other oracles."""
        return [line for line in self.lines if not line.oracle.differs]

    @property
    def failing(self) -> list[str]:
        """Names of the oracles that do not hold."""
        return [line.oracle.name for line in self.lines if not line.oracle.passed]

    @property
    def problem(self) -> str:
        """Why the oracles could not be asked, empty where they could."""
        return self.oracle_check.problem if self.oracle_check is not None else ""


def verified(report: Report) -> list[Verified]:
    """Return every algorithm of the report, in its learners' order; without a check only those that ran somewhere."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in report.runs:
        groups[_algorithm(run)].append(run)
    users: dict[tuple[str, str], list[Learner]] = defaultdict(list)
    for learner in report.learners:
        for what in sorted({_algorithm(run) for table in report.tables for run in table.runs.get(learner.name, [])}):
            users[what].append(learner)
    ran = {what for what, runs in groups.items() if any(run.status != "refused" for run in runs)}
    several = Counter(name for name, _ in users)
    every = [
        _verified(report, f"{what[0]} ({what[1]})" if several[what[0]] > 1 else what[0], what, learners, groups[what])
        for what, learners in users.items()
    ]
    return [one for one in every if one.oracle_check is not None or (one.algorithm, one.target) in ran]


def _verified(report: Report, name: str, what: tuple[str, str], learners: list[Learner], runs: list[Run]) -> Verified:
    sources = [_source(run) for run in runs]
    known = [source for source in sources if source]
    found = [
        oracle_check for oracle_check in report.oracle_checks if (oracle_check.algorithm, oracle_check.target) == what
    ]
    oracle_check = max(found, key=lambda p: (known.count(p.code), p.finished, p.source, p.fingerprint), default=None)
    lines = [_line(oracle) for oracle in oracle_check.oracles] if oracle_check is not None else []
    note = _note(oracle_check, known) if oracle_check is not None else ""
    return Verified(
        name, *what, learners, oracle_check, lines, note, len(sources) - len(known), len(runs), frozenset(known)
    )


def _algorithm(run: Run) -> tuple[str, str]:
    """Return the algorithm of a run: its name and its class."""
    config = run.record.data["config"].get("algorithm")
    target = config.get("_target_") if isinstance(config, dict) else None
    return str(run.record.data["axes"].get("algorithm") or run.record.label), str(target or "")


def _source(run: Run) -> str:
    """Return the hash of the algorithm's code that a run was made with, empty where it does not say."""
    sources = run.record.data["provenance"].get("sources")
    source = sources.get("algorithm") if isinstance(sources, dict) else None
    return source if isinstance(source, str) else ""


def _note(oracle_check: OracleCheck, known: list[str]) -> str:
    other = sorted({source for source in known if source != oracle_check.code})
    if not other:
        return ""
    listed = ", ".join(source[:12] for source in other[:NAMED])
    listed += f" and {len(other) - NAMED} more" if len(other) > NAMED else ""
    count = sum(source != oracle_check.code for source in known)
    which = "all runs" if count == len(known) else f"{count} of {plural(len(known), 'run')}"
    return f"The oracle check is of other code ({oracle_check.code[:12]}) than {which} ({listed})."


def _line(oracle: OracleResult) -> Line:
    if oracle.error is None or oracle.tolerance is None:
        return Line(oracle, "–", "–", f"raised {oracle.reason}")
    error, tolerance = _apart(oracle.error, oracle.tolerance)
    if oracle.error != oracle.error or oracle.tolerance != oracle.tolerance:
        return Line(oracle, error, tolerance, "fails: not a number")
    sign = ">" if oracle.error > oracle.tolerance else "≤"
    compared = f"{error} {sign} {tolerance}"
    if oracle.differs:
        verdict = f"must differ: {compared}" if oracle.passed else f"must differ and does not: {compared}"
    else:
        verdict = "holds" if oracle.passed else f"fails: {compared}"
    return Line(oracle, error, tolerance, verdict)


def _apart(a: float, b: float) -> tuple[str, str]:
    """Write two figures with two digits, or with as many as it takes to see that they differ.

    >>> _apart(0.42, 0.01), _apart(1.00000001e-12, 1e-12)
    (('0.42', '0.01'), ('1.00000001 × 10⁻¹²', '10⁻¹²'))
    """
    for digits in range(2, 18):
        texts = figure(a, digits), figure(b, digits)
        if a == b or texts[0] != texts[1]:
            break
    return texts


def summary(found: Sequence[Verified]) -> list[str]:
    """Say how many oracle checks hold, what fails, who has none, and whether they are of the code that ran."""
    lines = [line for one in found for line in one.lines]
    asked = [one for one in found if one.lines or one.problem]
    mute = [one.name for one in found if not (one.lines or one.problem)]
    if not asked:
        return ["The records hold no oracle check: nothing here shows that a learner is what it says."]
    held = sum(line.oracle.passed for line in lines)
    controls = [line for line in lines if line.oracle.differs]
    said = [
        f"{held} of {plural(len(lines), 'oracle check')} of {plural(len(asked), 'algorithm')} "
        f"{'holds' if len(lines) == 1 else 'hold'}: {_within(lines, controls)}."
    ]
    for one in asked:
        if one.problem or one.failing:
            said.append(f"{_failure(one)}.")
    if mute:
        said.append(f"Without any oracle check: {', '.join(mute)}.")
    said += [f"{one.name}: {one.note}" for one in found if one.note]
    silent = sum(one.silent for one in found if one.oracle_check is not None)
    if silent:
        said.append(
            f"{plural(silent, 'run does', 'runs do')} not say which state of the code made "
            f"{'it' if silent == 1 else 'them'}: whether the oracle checks are of that code is unknown."
        )
    return said


def _within(lines: Sequence[Line], controls: Sequence[Line]) -> str:
    equal = [line for line in lines if not line.oracle.differs]
    within = sum(line.oracle.passed for line in equal)
    beyond = sum(line.oracle.passed for line in controls)
    return (
        f"{within} of {plural(len(equal), 'oracle')} within {'its' if len(equal) == 1 else 'their'} tolerance, "
        f"{beyond} of {plural(len(controls), 'negative control')} beyond it"
    )


def _failure(one: Verified) -> str:
    if one.problem:
        return f"{one.name} cannot say what its oracles are: {one.problem}"
    listed = ", ".join(f"“{name}”" for name in one.failing[:NAMED])
    more = f" and {len(one.failing) - NAMED} more" if len(one.failing) > NAMED else ""
    return f"{one.name} fails {len(one.failing)} of its {plural(len(one.lines), 'oracle check')}: {listed}{more}"


def doubts(found: Sequence[Verified], table: Table) -> list[str]:
    """Return the algorithms of a workload whose oracle checks fail, as caveats of its verdict."""
    here = {_algorithm(run) for name in table.runs for run in table.tried(name)}
    return [
        f"{_failure(one)}; it may not be what its name says (section 7)."
        for one in found
        if (one.algorithm, one.target) in here and (one.problem or one.failing)
    ]


_INTRODUCTION = (
    "Each algorithm carries oracles: limits in which it must equal something known, and negative controls, which lie "
    "outside such a limit and must differ. They are measured in float64 on small problems, apart from the runs."
)


def oracle_section(found: Sequence[Verified]) -> list[Block]:
    """Return a row an algorithm and, folded, a row an oracle; what fails lies open."""
    first, *others = summary(found)
    blocks: list[Block] = [Text(_INTRODUCTION), Text(first), *([Points(others)] if others else [])]
    if not any(one.oracle_check for one in found):
        return blocks
    head: Cells = ["algorithm", "learners", "oracles that hold", "negative controls\nthat differ"]
    grid = Grid(
        "Oracle checks of each algorithm", [*head, Cell("measured, in records", kind="w")], list(map(_row, found))
    )
    return [*blocks, grid, *(_fold(one, one.oracle_check) for one in found if one.lines and one.oracle_check)]


def _row(one: Verified) -> Cells:
    held: Cells = [Cell("no oracle check", kind="none"), Cell("–", kind="none")]
    if one.lines:
        held = [_held(one.equalities), _held(one.controls)]
    elif one.problem:
        held = [Cell(f"could not be asked: {one.problem}", kind="w bad"), ""]
    users = Cell(", ".join(learner.name for learner in one.learners), kind="t")
    where = f"oracle_checks/{one.oracle_check.path.name}" if one.oracle_check else "–"
    return [Cell(one.name, kind="t"), users, *held, Cell(where, kind="w", flags=(one.note,) if one.note else ())]


def _held(lines: Sequence[Line]) -> Cell:
    if not lines:
        return Cell("none", kind="none")
    held = sum(line.oracle.passed for line in lines)
    return Cell(f"{held} of {len(lines)}", kind="good" if held == len(lines) else "bad")


def _fold(one: Verified, check: OracleCheck) -> Fold:
    held = len(one.lines) - len(one.failing)
    title = (
        f"{one.name}: {held} of {plural(len(one.lines), 'oracle check')} {'holds' if len(one.lines) == 1 else 'hold'}"
    )
    text = f"Class {one.target}, code {check.source[:12]}, fingerprint {check.fingerprint[:12]}. {one.note}"
    rows: list[Cells] = [
        [
            Cell(line.oracle.name, "negative control" if line.oracle.differs else "", "w"),
            *right(line.error, line.tolerance),
            Cell(line.verdict, kind="w good" if line.oracle.passed else "w bad"),
        ]
        for line in one.lines
    ]
    head: Cells = [Cell("oracle", kind="w"), *right("measured error", "tolerance"), Cell("verdict", kind="w")]
    blocks: list[Block] = [Text(text.strip(), "note"), Grid(f"Oracles of {one.name}", head, rows)]
    return Fold(title, blocks, opened=bool(one.failing), written=True)


_COLUMNS = ("algorithm", "target", "source", "fingerprint", "kernel", "oracle", "negative_control")
_FIGURES = ("error", "tolerance", "passed", "reason")


def as_csv(found: Sequence[Verified]) -> bytes:
    """Write one row an oracle, with every digit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_COLUMNS, *_FIGURES))
    for one in found:
        if one.oracle_check is not None:
            head = (
                one.algorithm,
                one.target,
                one.oracle_check.source,
                one.oracle_check.fingerprint,
                one.oracle_check.data["kernel"],
            )
            for oracle in one.oracle_check.oracles:
                figures = ("" if x is None else repr(float(x)) for x in (oracle.error, oracle.tolerance))
                writer.writerow((*head, oracle.name, oracle.differs, *figures, oracle.passed, oracle.reason))
    return text.getvalue().encode(errors="replace")


def as_numbers(found: Sequence[Verified]) -> list[dict[str, object]]:
    """Return the oracle checks as plain data, for scripts that read the page."""
    return [
        {
            "algorithm": one.algorithm,
            "target": one.target,
            "source": one.oracle_check.source if one.oracle_check is not None else None,
            "fingerprint": one.oracle_check.fingerprint if one.oracle_check is not None else None,
            "oracles": [
                {
                    "name": line.oracle.name,
                    "error": line.oracle.error,
                    "tolerance": line.oracle.tolerance,
                    "control": line.oracle.differs,
                    "passed": line.oracle.passed,
                }
                for line in one.lines
            ],
        }
        for one in found
    ]
