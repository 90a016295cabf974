"""Section 5 as blocks: cost planes, breakdowns, seconds a step, counts and memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from altprop.report.blocks import Block, Cell, Cells, Fold, Grid, Points, Text, drawings, note, right
from altprop.report.cost import COUNTS, CostRow, cost_rows
from altprop.report.cost_figures import breakdown, pareto, time_breakdown
from altprop.report.format import MISSING, brief, count, octets, percent, plural, seconds
from altprop.report.model import Report, Table
from altprop.report.step_time import GREY_ABOVE, UNTIMED, StepTime, TableTiming

MEMORY = {
    "peak_bytes": "memory\nat the peak",
    "saved_bytes": "kept for the\nway back",
    "state_bytes": "learner's\nstate",
}
_INTRODUCTION = (
    "FLOPs are fitted on counted calls and audited; memory is compared by one figure, the peak of all bytes that a "
    "step makes and has alive at once, with the learner's state, whatever the allocator does; what is kept for the way "
    "back is part of it, but for the batch. What is said about time comes from a timing pass, in which the learners "
    "take turns in one process at one thread; a run's own CPU-seconds are shown without claims."
)


def cost_introduction(report: Report) -> list[Block]:
    """Return how cost is measured, and what is left out of the timing records."""
    return [Text(_INTRODUCTION), *([Points(report.timing_notes)] if report.timing_notes else [])]


def cost_section(report: Report, table: Table) -> list[Block]:
    """Return what each learner of a workload cost; [] where no run left a ledger behind."""
    rows = cost_rows(report, table)
    if not rows:
        return []
    planes = [pareto(report, table, "flops", "FLOPs"), pareto(report, table, "peak_bytes", "bytes alive at the peak")]
    if table.timing is not None and table.timing.complete:
        planes.append(pareto(report, table, "cpu_seconds", "CPU-seconds"))
    blocks = drawings(planes) + drawings([breakdown(table, rows), time_breakdown(report, table)])
    blocks += note(UNTIMED) if table.timing is None else _timed(report, table, table.timing)
    return blocks + _counts(table, rows)


def _timed(report: Report, table: Table, timing: TableTiming) -> list[Block]:
    text = (
        f"Timing pass of {timing.rounds} rounds; medians, below them intervals that cover with "
        f"{percent(timing.coverage)}. Each learner from its initial state, after its first steps; the steps of a round "
        "are consecutive. The kinds of work are timed in rounds of their own, so they need not add up to the step. "
        f"Spread is (q75 − q25) / median over the rounds: above {percent(GREY_ABOVE)} a figure is greyed and nothing "
        f"is claimed. {timing.note}"
    )
    head: Cells = [
        "learner",
        *right("CPU time\na step", "spread", f"ratio to\n{timing.reference or 'the reference'}"),
        Cell("what may be said", kind="t"),
        *right("wall time\na step", "steps\na round", *timing.kinds),
    ]
    rows = [[Cell(learner=report.by_name[row.name]), *_step(timing, row)] for row in timing.rows.values()]
    for name, reason in timing.untimed.items():
        blank = right(*["–"] * 3), right(*["–"] * (2 + len(timing.kinds)))
        said = Cell(f"not timed: {reason}", kind="t soft")
        rows.append([Cell(learner=report.by_name[name]), *blank[0], said, *blank[1]])
    return [Text("Seconds a step", "h4"), Text(text, "note"), Grid(f"Seconds a step on {table.workload}", head, rows)]


def _step(timing: TableTiming, row: StepTime) -> Cells:
    soft, ratio_soft = (" soft" if grey else "" for grey in (row.grey, row.ratio_grey))
    first = row.name == timing.reference
    ratio = Cell("1" if first else "–", kind="r" + ratio_soft)
    if row.ratio:
        ratio = Cell(brief(row.ratio.estimate), f"{brief(row.ratio.low)} to {brief(row.ratio.high)}", "r" + ratio_soft)
    said = "the reference" if first else row.verdict or "no reference was timed"
    return [
        Cell(seconds(row.cpu), f"{seconds(row.interval.low)} to {seconds(row.interval.high)}", "r" + soft),
        Cell(percent(row.spread, 1), "no claim" if row.grey else "", "r" + soft),
        ratio,
        Cell(said, kind="t" + ratio_soft),
        Cell(seconds(row.wall), kind="r soft"),
        Cell(str(row.block), kind="r soft"),
        *(Cell(seconds(row.kinds[kind]) if kind in row.kinds else "0", kind="r" + soft) for kind in timing.kinds),
    ]


def _counts(table: Table, rows: Sequence[CostRow]) -> list[Block]:
    """Return the table of medians, and what no run recorded."""
    columns: dict[str, list[Cell]] = {
        "FLOPs": _cells(count(row.flops) for row in rows),
        "forward-\nequivalents": _cells(count(row.forward_equivalents) for row in rows),
    }
    for kind in COUNTS:
        name = kind.replace("hvps", "HVPs").replace("jvps", "JVPs").replace("_", " ")
        if any(row.counts[kind] for row in rows):
            columns[name] = _cells(count(row.counts[kind]) for row in rows)
    for kind, name in MEMORY.items():
        columns[name] = _cells(octets(row.octets[kind]) for row in rows)
    columns["CPU time,\nno claim"] = [_cpu(row) for row in rows]
    columns["FLOP\nresidual"] = _cells(percent(row.residual, 2) for row in rows)
    known = {name: cells for name, cells in columns.items() if any(cell.text != MISSING for cell in cells)}
    missing = ", ".join(name.replace("\n", " ").replace("- ", "-") for name in columns if name not in known)
    if "FLOPs" in known:
        known["ops without\na formula"] = _cells(
            plural(len(row.uncounted), "op") if row.uncounted else "none" for row in rows
        )
    lines: list[Cells] = [
        [Cell(learner=row.learner), *cells] for row, *cells in zip(rows, *known.values(), strict=True)
    ]
    grid = Grid(f"Cost on {table.workload}", ["learner", *right(*known)], lines)
    text = "Medians over the runs." + (f" Not recorded: {missing}." if missing else "")
    return [Text("Counts and memory", "h4"), Text(text, "note"), grid, *_uncounted(rows)]


def _cells(texts: Iterable[str]) -> list[Cell]:
    return [Cell(text, kind="r") for text in texts]


def _cpu(row: CostRow) -> Cell:
    spans = f"{seconds(row.cpu_range[0])} to {seconds(row.cpu_range[1])}" if row.cpu_range else ""
    return Cell(seconds(row.cpu), spans, "r soft")


def _uncounted(rows: Sequence[CostRow]) -> list[Block]:
    """Return the operations without a formula, those of several learners once."""
    without: dict[str, list[str]] = {}
    for row in rows:
        if row.uncounted:
            ops = ", ".join(f"{op} × {times}" for op, times in row.uncounted.items())
            without.setdefault(ops, []).append(row.learner.name)
    lines = [f"{', '.join(names)}: {ops}" for ops, names in without.items()]
    return [Fold("Operations without a formula", [Points(lines)], written=True)] if lines else []
