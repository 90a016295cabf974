"""Section 0 as blocks: the verdict on a workload, its final values as a figure, and the table of results."""

from __future__ import annotations

from altprop.report.blocks import (
    Beside,
    Block,
    Cell,
    Cells,
    Grid,
    Points,
    Text,
    difference,
    drawings,
    interval,
    note,
    right,
    value,
)
from altprop.report.calibration import calibration
from altprop.report.format import number, p_value, percent
from altprop.report.generalisation import generalisation
from altprop.report.model import Report, Table
from altprop.report.results import Row, dots
from altprop.report.verdict import Verdict


def verdict_section(report: Report, table: Table, rows: list[Row], verdict: Verdict) -> list[Block]:
    """Return what one workload shows."""
    said: list[Block] = [Text(" ".join(verdict.sentences), "verdict")]
    said += [Points(verdict.caveats)] if verdict.caveats else []
    halves = Beside(said, drawings([dots(report, table, rows)], main=True))
    results = _results(table, [row for row in rows if row.summary is not None])
    return [halves, *results, *generalisation(report, table), *calibration(report, table)]


def _results(table: Table, tried: list[Row]) -> list[Block]:
    if not tried:
        return []
    middle, iqm = tried[0].middle, tried[0].iqm
    assert middle is not None  # Who ran has a median and an IQM.
    assert iqm is not None
    shares = any(row.share is not None for row in tried)
    oracle = any(row.to_oracle is not None for row in tried)
    head: Cells = [
        "learner",
        *right("runs\ncompleted"),
        Cell("median", "all runs" if middle.method == "range" else "exact 95 %", "r"),
        Cell("IQM", "BCa 95 %" if iqm.method == "BCa" else "trimmed t 95 %", "r"),
        *right("at best\nvalidation", *["normalized\nscore"] * shares, *["to the\noracle"] * oracle),
        *right("paired difference\nto the reference", "p, Holm"),
        Cell("what may be said", kind="v"),
    ]
    foot = [[mark, "", *right(number(at)), *[""] * (len(head) - 3)] for mark, at in table.marks]
    grid = Grid(f"Results on {table.workload}", head, [_row(row, shares, oracle) for row in tried], foot)
    return [*note(f"{table.quality} {table.metric}, {'higher' if table.sign > 0 else 'lower'} is better."), grid]


def _row(row: Row, shares: bool, oracle: bool) -> Cells:
    tested, summary = row.comparison, row.summary
    assert summary is not None  # Asked only of who ran.
    paired = Cell(f"{tested.wins} won, {tested.losses} lost" if tested else "–", kind="r")
    roles = {"the reference": row.learner.reference, "a control": row.learner.control, "not compared": True}
    said = tested.brief if tested else next(role for role, true in roles.items() if true)
    return [
        Cell(learner=row.learner),
        Cell(f"{summary.ended}/{summary.n}", kind="r failed" if summary.failed else "r"),
        interval(row.middle),
        interval(row.iqm),
        value(row.best),
        *right(*[percent(row.share)] * shares, *[number(row.to_oracle)] * oracle),
        difference(row.difference) if row.difference else paired,
        Cell(p_value(tested.adjusted), tested.test, "r") if tested else Cell("–", kind="r"),
        Cell(said, kind="v", flags=row.flags),
    ]
