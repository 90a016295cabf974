"""The answer, before everything else: who is ahead over all tasks, by how much, and what the same quality costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from altprop.report.across import Across
from altprop.report.blocks import Block, Cell, Grid, Text
from altprop.report.failures import Matrix, words
from altprop.report.format import count, number, percent, places, plural
from altprop.report.model import Learner, Report, Table
from altprop.report.paired import CLAIM_SEEDS, NOT_SHOWN, compare_family
from altprop.report.profiles import ratio_to_reference
from altprop.report.results import Row, described
from altprop.report.statistics import Interval
from altprop.report.target import TimeToTarget
from altprop.report.times import target_times

BEST, ALIKE = "● ", "○ "


@dataclass(frozen=True)
class Ranked:
    """A learner's place among those that are no controls and no twins; None for these, and for who ran nothing.

    Attributes:
        pooled: normalized score over all data sets, None for who did not run all of them.
    """

    learner: Learner
    rank: int | None
    pooled: Interval | None


def answer(
    report: Report, results: Mapping[str, list[Row]], pooled: Across | None, cells: Matrix, problems: Sequence[str]
) -> list[Block]:
    """Return the sentence over all tasks with its caveat, the matrix of learners and tasks, and the cost.

    Args:
        report: to answer from.
        results: workload -> its rows.
        pooled: what holds across tasks, where there are several.
        cells: what became of each learner's runs on each workload.
        problems: sentences on what makes the comparison unfair, over all workloads.
    """
    order = ranking(report, results, pooled)
    found: list[Block] = [Text(headline(report, results, order), "verdict")]
    found.append(Text(caveat(report, problems), "note"))
    found += _matrix(report, results, order, cells)
    cost = cost_of_target(report, [one.learner for one in order])
    return [*found, *(cost or ())]


def ranking(report: Report, results: Mapping[str, list[Row]], pooled: Across | None) -> list[Ranked]:
    """Return the learners by rank, each twin behind its original, the controls last.

    Who ran everything comes first: by the normalized score over all tasks, else by the mean of the ranks on each.
    """
    iqm = {row.learner.name: row.iqm for row in pooled.pooled} if pooled else {}
    places: dict[str, list[int]] = {one.name: [] for one in report.learners}
    for rows in results.values():
        scores = {row.learner.name: row.score for row in rows if row.summary is not None and not row.learner.control}
        for name, mine in scores.items():
            places[name].append(1 + sum(other > mine for other in scores.values()))

    def key(one: Learner) -> tuple[bool, float, int]:
        mine = places[one.name]
        level = -iqm[one.name].estimate if one.name in iqm else sum(mine) / len(mine) if mine else math.inf
        return len(mine) < len(report.tables), level, one.index

    plain = [one for one in report.learners if not one.control and one.name not in report.twins]
    found: list[Ranked] = []
    for rank, learner in enumerate(sorted(plain, key=key), start=1):
        found.append(Ranked(learner, rank if places[learner.name] else None, iqm.get(learner.name)))
        copies = [report.by_name[name] for name, first in report.twins.items() if first == learner.name]
        found += [Ranked(one, None, iqm.get(one.name)) for one in copies]
    return found + [Ranked(one, None, iqm.get(one.name)) for one in report.learners if one.control]


def headline(report: Report, results: Mapping[str, list[Row]], order: Sequence[Ranked]) -> str:
    """Return one sentence over all tasks."""
    scores = {(w, row.learner.name): row for w, rows in results.items() for row in rows if row.summary is not None}
    ended = {name for (_, name), row in scores.items() if math.isfinite(row.score)}
    known = [one for one in order if one.rank is not None and one.learner.name in ended]
    if not known:
        return "No learner's median run came to its end: there is nothing to rank."
    first, reference = known[0], next((one for one in known if one.learner.reference), None)
    on = f"Over {len(report.tables)} tasks" if len(report.tables) > 1 else f"On {report.tables[0].workload}"
    lead = f"{on} {first.learner.name} ranks first{_level(report, scores, first, True)}"
    if len(known) == 1:
        return f"{lead}; no other learner came to its end."
    if reference is None:
        return f"{lead}; next is {known[1].learner.name}{_level(report, scores, known[1])}. No reference ran."
    if first is reference:
        ahead = [f"{row.learner.name} on {workload}" for (workload, _), row in scores.items() if _better(row)]
        shown = f"shown to be better than it: {', '.join(ahead)}" if ahead else "none is shown to be better on any task"
        following = f"{known[1].learner.name}{_level(report, scores, known[1])}"
        return f"{lead}. It is the reference, next is {following}; {shown}."
    theirs = f"the reference {reference.learner.name} ranks {reference.rank} of {len(known)}"
    said = _verdicts(results, first.learner.name)
    tested = ", ".join(f"{what} on {n}" for what, n in said.items() if n) or "nothing could be tested"
    return f"{lead}; {theirs}{_level(report, scores, reference)}. Paired with the reference by seed it is: {tested}."


def _level(report: Report, scores: Mapping[tuple[str, str], Row], one: Ranked, first: bool = False) -> str:
    """Return how good a learner is, in brackets or as a phrase with a lead."""
    if one.pooled is not None and math.isfinite(one.pooled.estimate):
        text = f"a normalized score of {percent(one.pooled.estimate, 1)}"
        if one.pooled.low is not None and one.pooled.high is not None and math.isfinite(one.pooled.low):
            text += f" (95 % interval {percent(one.pooled.low, 1)} to {percent(one.pooled.high, 1)})"
        return f" with {text}" + (", where 0 % is chance and 100 % the tuned reference" if first else "")
    if len(report.tables) > 1:
        return " by mean rank" if first else ""
    table, row = report.tables[0], scores[report.tables[0].workload, one.learner.name]
    return f": {table.quality} {table.metric}, {described(row)}"


def _better(row: Row) -> bool:
    return row.comparison is not None and row.comparison.verdict.startswith("better")


def _verdicts(results: Mapping[str, list[Row]], learner: str) -> Counter[str]:
    """Count the workloads by what the test against the reference lets one say of a learner."""
    said: Counter[str] = Counter({"better": 0, "worse": 0, NOT_SHOWN: 0, "too few seeds to tell": 0})
    for rows in results.values():
        for row in rows:
            if row.learner.name == learner and row.comparison is not None and row.comparison.seeds:
                said[row.comparison.brief.split(",")[0]] += 1
    return said


def caveat(report: Report, problems: Sequence[str]) -> str:
    """Return what must be known to read the answer, in one place and once."""
    seeds = [len(table.tried(name)) for table in report.tables for name in table.runs if table.tried(name)]
    fewest = min(seeds, default=0)
    parts = list(problems[:1])
    if len(problems) > 1:
        parts.append(f"{plural(len(problems) - 1, 'more problem')} of fairness below.")
    if fewest and fewest < CLAIM_SEEDS:
        parts.append(f"{plural(fewest, 'seed')} a learner: enough to look around, too few to claim anything.")
    if not report.tunings and not any(one.tuned for one in report.learners) and len(report.learners) > 1:
        parts.append("No learner was tuned: this compares settings as much as rules.")
    return " ".join(parts) or f"{plural(fewest, 'seed')} or more a learner; the sections below say what else to know."


def _limits(table: Table, row: Row) -> str:
    """Return the interval of a row's median, in normalized score where the task has one."""
    middle = row.middle
    if middle is None or middle.low is None or middle.high is None or (middle.method == "range" and len(row.runs) < 2):
        return ""
    low, high = middle.low, middle.high
    if row.share is None or table.unit is None:
        return f"{number(low, places(middle))} to {number(high, places(middle))}"
    ends = [(end - table.unit[0]) / table.unit[1] if math.isfinite(end) else end for end in (low, high)]
    return _span(*sorted(ends))


def _span(low: float, high: float) -> str:
    """Return limits in per cent.

    >>> _span(0.957, 0.964), _span(-math.inf, 0.5)
    ('96 to 96 %', 'failed to 50 %')
    """
    return f"{'failed' if math.isinf(low) else percent(low).removesuffix(' %')} to {percent(high)}"


def _matrix(report: Report, results: Mapping[str, list[Row]], order: Sequence[Ranked], cells: Matrix) -> list[Block]:
    """Return the matrix of learners and tasks with the note that explains its signs."""
    several = any(one.pooled for one in order)
    head: list[Cell | str] = [Cell("rank", kind="r"), "learner", *([Cell("all tasks", "IQM", "r")] if several else [])]
    units = {True: "normalized", False: ""}
    head += [Cell(t.workload, units[t.unit is not None] or f"{t.quality} {t.metric}", "r wrap") for t in report.tables]
    marks = {table.workload: _marks(report, table, results[table.workload]) for table in report.tables}
    states = {learner.name: row for learner, row in cells.rows}
    by_cell = {(w, row.learner.name): row for w, rows in results.items() for row in rows}
    rows: list[list[Cell | str]] = []
    foot: list[list[Cell | str]] = []
    for one in order:
        line: list[Cell | str] = [Cell("" if one.rank is None else str(one.rank), kind="r"), Cell(learner=one.learner)]
        if one.learner.name in report.twins:
            line[0] = Cell("=", kind="r", why=f"the results of {report.twins[one.learner.name]}, to the digit")
        if several:
            line.append(_pooled(one.pooled))
        for table, state in zip(report.tables, states[one.learner.name], strict=True):
            row = by_cell.get((table.workload, one.learner.name))
            if row is None or row.summary is None:
                sign = "⊘" if state.kind == "refused" else "–"
                line.append(Cell(sign, kind="r", notes=state.notes, why=state.text))
            else:
                line.append(_score(table, row, marks[table.workload].get(one.learner.name, "")))
        (foot if one.learner.control else rows).append(line)
    return [Grid("Learners and tasks", head, rows, foot, "matrix"), Text(_legend(report, marks), "note")]


def _pooled(value: Interval | None) -> Cell:
    if value is None:
        return Cell("–", kind="r", why="did not run all tasks")
    if not math.isfinite(value.estimate):
        return Cell("✕ failed", kind="r failed")
    low, high = value.low, value.high
    limits = "" if low is None or high is None else _span(low, high)
    return Cell(percent(value.estimate, 1), limits, "r", sort=value.estimate)


def _score(table: Table, row: Row, mark: str) -> Cell:
    """Return a cell: the median normalized score where the task declares targets, else the median of the metric."""
    summary = row.summary
    assert summary is not None  # Asked only of who ran.
    broken = Counter(words(run.status) for run in table.tried(row.learner.name) if not run.ended)
    why = ", ".join(f"{n} of {summary.n} {status}" for status, n in sorted(broken.items()))
    if not math.isfinite(row.score):
        return Cell("✕ failed", f"{summary.failed} of {summary.n}", "r failed", sort=-math.inf, why=why)
    text = percent(row.share) if row.share is not None else number(row.median)
    small = _limits(table, row)
    if summary.failed:
        small += f", {summary.failed} of {summary.n} ✕"
    return Cell(mark + text, small, "r best" if mark == BEST else "r", sort=row.score, why=why)


def _marks(report: Report, table: Table, rows: Sequence[Row]) -> dict[str, str]:
    """Return learner -> the sign of the best, or of those not shown to differ from it (Holm over all but controls)."""
    left = [r for r in rows if math.isfinite(r.score) and not r.learner.control and r.learner.name not in report.twins]
    if not left:
        return {}
    best = max(left, key=lambda row: row.score).learner.name
    compared = compare_family({row.learner.name: table.scores(row.learner.name) for row in left}, best)
    alike = {name for name, one in compared.items() if one.verdict == NOT_SHOWN}
    found = {best: BEST} | dict.fromkeys(alike, ALIKE)
    return found | {name: found[first] for name, first in report.twins.items() if first in found}


def _legend(report: Report, marks: Mapping[str, Mapping[str, str]]) -> str:
    seeds = min((len(t.tried(n)) for t in report.tables for n in t.runs if t.tried(n)), default=0)
    normalized = [table for table in report.tables if table.unit is not None]
    parts = []
    if normalized:
        parts.append(
            "Normalized score: 0 % is chance, 100 % the task's tuned reference, fixed beforehand; median of the"
        )
        parts.append("seeds with its exact 95 % interval." if seeds > 5 else "seeds with the range of all runs.")
    else:
        parts.append("Medians of the seeds.")
    parts.append(f"{BEST.strip()} the best of a task")
    if any(ALIKE in of_task.values() for of_task in marks.values()):
        parts[-1] += f", {ALIKE.strip()} not shown to differ from it (paired by seed, Holm over the learners)."
    else:
        parts[-1] += "; no other is marked, for all differ from it or the seeds are too few to tell."
    if any(table.tried(one.name) for one in report.learners if one.control for table in report.tables):
        parts.append("Controls, which must not learn, stand at the foot.")
    steps = {f"{percent(step, 1)} on {t.workload}" for t in report.tables if (step := resolution(t)) is not None}
    if steps:
        parts.append(f"One test example is {', '.join(sorted(steps))}.")
    if report.twins:
        parts.append("= has the very results of the learner above it: one rule here, counted once.")
    if any(run.status == "refused" for run in report.runs):
        parts.append("⊘ refused: the number leads to the reason.")
    return " ".join(parts)


def resolution(table: Table) -> float | None:
    """Return what one test example is worth where the metric counts examples; None where it does not."""
    size = (table.facts.get("sizes") or {}).get(table.quality)
    values = [abs(score) for name in table.runs for score in table.scores(name).values() if math.isfinite(score)]
    if not size or not values or max(values) > 1:
        return None
    return 1 / size if all(abs(value * size - round(value * size)) < 1e-6 for value in values) else None


def cost_of_target(report: Report, order: Sequence[Learner]) -> tuple[Text, Grid] | None:
    """Return what each learner pays for the same quality: FLOPs to the middle target of each task, and who arrives."""
    columns = []
    for table in report.tables:
        rows = target_times(table, "flops")
        if rows and any(one.hits for one in rows[len(rows) // 2].learners.values()):
            columns.append((table, rows[len(rows) // 2]))
    if not columns:
        return None
    lines = {
        learner.name: [
            _cost(row.learners.get(learner.name), row.learners.get(table.reference or "")) for table, row in columns
        ]
        for learner in order
    }
    head: list[Cell | str] = [
        "learner",
        *(Cell(t.workload, f"{row.target.replace('%', ' %')}: {number(row.value)}", "r wrap") for t, row in columns),
    ]
    known = [one for one in order if any(cell.text != "–" for cell in lines[one.name])]
    plain: list[list[Cell | str]] = [[Cell(learner=one), *lines[one.name]] for one in known if not one.control]
    controls: list[list[Cell | str]] = [[Cell(learner=one), *lines[one.name]] for one in known if one.control]
    pairs = ((one, row.learners.get(table.reference or "")) for table, row in columns for one in row.learners.values())
    text = (
        "Cost of the same quality: FLOPs to the target that the task declares, as a multiple of the reference's "
        "(below 1 is cheaper), how many runs arrive and their median. An asterisk marks a bound: some run never did."
    )
    if any(_alone(mine, base) for mine, base in pairs):
        text += (
            " Nobody is counted beyond the end of the shortest run; a median stands alone where that came before "
            "either arrived, or where the reference begins beyond the target."
        )
    return Text(text, "note"), Grid("Cost of the same quality", head, plain, controls)


def _cost(mine: TimeToTarget | None, base: TimeToTarget | None) -> Cell:
    if mine is None:
        return Cell("–", kind="r")
    arrived = f"{mine.hits} of {mine.n} runs"
    if not mine.hits:
        return Cell("never", arrived, "r", sort=math.inf)
    spent = "" if math.isinf(mine.median) else f", {count(mine.median)}"
    if base is None or not base.hits:
        return Cell(count(mine.mean), arrived, "r", sort=mine.mean)
    if _alone(mine, base):
        return Cell(count(mine.median) if math.isfinite(mine.median) else "–", arrived, "r", sort=mine.median)
    ratio = ratio_to_reference(mine.mean, base.mean)
    late = max(mine.median, base.median) > mine.horizon
    bound = "*" if mine.hits < mine.n or base.hits < base.n or late else ""
    return Cell(f"{ratio:.2f}{bound}", arrived + spent, "r", sort=ratio)


def _alone(mine: TimeToTarget | None, base: TimeToTarget | None) -> bool:
    """Whether no ratio tells anything: the reference begins beyond the target, or the shortest run ends before both."""
    if mine is None or base is None or not mine.hits or not base.hits:
        return False
    return not base.mean or (mine.mean >= mine.horizon and base.mean >= base.horizon)
