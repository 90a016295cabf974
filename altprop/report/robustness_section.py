"""Section 6 as blocks: default beside tuned, the best of k trials, and the spread over seeds."""

from __future__ import annotations

from collections.abc import Sequence

from altprop.report.blocks import (
    Block,
    Cell,
    Cells,
    Code,
    Fold,
    Grid,
    Points,
    Text,
    difference,
    drawings,
    note,
    right,
    value,
)
from altprop.report.format import count, number, p_value, percent, plural, setting, short
from altprop.report.grids import grids
from altprop.report.model import Report, Table
from altprop.report.results import in_metric
from altprop.report.robustness import (
    COMMAND,
    Beside,
    Searched,
    best_searched,
    orphans,
    spreads,
    steps_of_k,
)
from altprop.report.robustness_figures import best_figures, sensitivity


def robustness_introduction(report: Report) -> list[Block]:
    """Return how tuning is done, or that none was, and the trials that belong to no run."""
    lost = orphans(report)
    blocks: list[Block] = [Points(lost)] if lost else []
    if report.tunings:
        text = (
            "A learner's options are searched in the space that it declares, the same for all tasks; trials are chosen "
            "on validation and run once more on fresh seeds. Trials are never rows of a table."
        )
        return [Text(text), *blocks]
    text = (
        "No learner was tuned: there are no trials among the records, so nothing can be said about how much the "
        "results hang on the options. To tune with 16 trials for each learner, the same number for all:"
    )
    return [Text(text), Code(COMMAND), *blocks]


def robustness_section(report: Report, table: Table, tuned: Sequence[Beside], found: Sequence[Searched]) -> list[Block]:
    """Return what tuning bought on a workload, and how far its results hang on the seed."""
    swept = drawings(grids(report, table), main=True)
    over: list[Block] = [Text("Over the options that were swept", "h4"), *swept] if swept else []
    return [*over, *_tuned(table, tuned), *_searched(report, table, found), *_spreads(report, table)]


def _tuned(table: Table, found: Sequence[Beside]) -> list[Block]:
    if not found:
        return []
    more = "higher" if table.sign > 0 else "lower"
    text = (
        f"Medians of {table.quality} {table.metric} over the seeds that both ran, {more} is better; the paired "
        f"difference is tuned minus default, so {'more' if table.sign > 0 else 'less'} is better. Tuning cost is what "
        "all trials spent. The test is against the tuned reference, Holm over the tuned learners."
    )
    head: Cells = [
        "learner",
        *right("default", "tuned"),
        Cell("tuned − default", "paired, t 95 %", "r"),
        *right("seeds"),
        Cell("against the\ntuned reference", kind="v"),
        Cell("default → chosen", "declared space", "o"),
        *right("trials"),
        Cell("cost of tuning", "FLOPs, runs of its own", "r"),
    ]
    grid = Grid(f"Default beside tuned on {table.workload}", head, [_beside(row) for row in found])
    return [Text("Default beside tuned", "h4"), Text(text, "note"), grid]


def _beside(row: Beside) -> Cells:
    moved, fair = row.comparison, row.fair
    change = Cell(f"{moved.wins} won, {moved.losses} lost" if moved else "–", kind="r")
    tested = "" if fair is None or not fair.seeds else f"p {p_value(fair.adjusted)}, {fair.test}"
    choices = (
        f"{one.path} {short(one.default, 20)} → {short(one.chosen, 20)} ({short(one.space, 60)})" for one in row.choices
    )
    return [
        Cell(learner=row.learner),
        value(row.before) if row.default else Cell("not run", kind="r"),
        value(row.after),
        difference(row.difference) if row.difference else change,
        *right(str(row.seeds)),
        Cell(fair.brief if fair else "–", tested, "v"),
        Cell("\n".join(choices) or "nothing declared", kind="o", flags=row.flags),
        Cell(row.tuned.effort, "not all here" if row.failed is None else f"{row.failed} failed", "r"),
        Cell(count(row.tuned.flops), "" if row.multiple is None else f"× {row.multiple:.3g}", "r"),
    ]


def _searched(report: Report, table: Table, found: Sequence[Searched]) -> list[Block]:
    if not found:
        return []
    drawn = best_searched(report, found)
    left = (
        f"Drawn are the {len(drawn)} of {len(found)} learners whose trials reached the best; the tables hold all."
        if len(drawn) < len(found)
        else ""
    )
    text = (
        f"Expected validation {table.metric} of the best of k trials, and under it the median. The expectation is "
        "“failed” as long as k failed trials can be drawn; the median where half of all draws or more fail. Compare "
        "learners in one column: the same number of trials for each."
    )
    ks = steps_of_k(found)
    head: Cells = ["learner", *right("trials", "failed", *(f"k = {k}" for k in ks))]
    blocks = [
        *note(left),
        *drawings(best_figures(table, drawn), main=True),
        *drawings(sensitivity(table, drawn)),
        Text("Best of k trials", "h4"),
        Text(text, "note"),
        Grid(f"Best of k trials on {table.workload}", head, [_best(table, row, ks) for row in found]),
    ]
    return [*blocks, _trials(table, found)] if report.singles else blocks


def _best(table: Table, row: Searched, ks: Sequence[int]) -> Cells:
    curves = row.curves
    expected, middle = (
        [in_metric(score, table.sign) for score in scores] for scores in (curves.expected, curves.median)
    )
    return [
        Cell(learner=row.learner),
        *right(str(curves.n)),
        Cell(percent(curves.failed / curves.n), kind="r failed" if curves.failed else "r"),
        *(value(expected[k - 1], number(middle[k - 1])) if k <= curves.n else Cell("–", kind="r") for k in ks),
    ]


def _trials(table: Table, found: Sequence[Searched]) -> Fold:
    rows: list[Cells] = [
        [
            short(row.tuning.label, 40),
            *right(str(trial.index)),
            Cell(", ".join(f"{path} {short(setting(at), 20)}" for path, at in trial.values.items()), kind="o"),
            *right(number(run.value("validation"), 4), count(run.spent("flops"))),
            run.status.replace("_", " "),
            run.record.key[:12],
        ]
        for row in found
        for trial in row.tuning.trials
        for run in trial.runs
    ]
    head: Cells = ["learner", *right("trial"), "options", *right("validation", "FLOPs"), "ended", "key"]
    title = f"All trials on {table.workload}"
    return Fold(f"{title}: {plural(len(rows), 'trial')}", [Grid(title, head, rows)])


def _spreads(report: Report, table: Table) -> list[Block]:
    found = spreads(report, table)
    if not found:
        return []
    text = f"{table.quality} {table.metric} of every seed, failed runs ranked worst. Quartiles take four runs or more."
    head: Cells = ["learner", *right("failed"), Cell("failure rate", "Wilson 95 %", "r"), *right("median")]
    head += [Cell("quartiles", "worse, better", "r"), Cell("range", "worst, best", "r")]
    rows: list[Cells] = [
        [
            Cell(learner=row.learner),
            Cell(f"{row.failed} of {row.n}", kind="r failed" if row.failed else "r"),
            Cell(percent(row.rate.estimate), f"{percent(row.rate.low)} to {percent(row.rate.high)}", "r"),
            value(row.median),
            *right(" to ".join(map(number, row.quartiles)) if row.quartiles else "–"),
            *right(f"{number(row.worst)} to {number(row.best)}"),
        ]
        for row in found
    ]
    grid = Grid(f"Spread over seeds on {table.workload}", head, rows)
    return [Text("Spread over seeds, and failures", "h4"), Text(text, "note"), grid]
