"""Section 3 as blocks: the pooled table, profiles, and who beats whom."""

from __future__ import annotations

from collections.abc import Sequence

from altprop.report.across import Across, Pooled
from altprop.report.blocks import Block, Cell, Cells, Fold, Grid, Text, drawings, right
from altprop.report.draw import Figure
from altprop.report.format import percent, plural
from altprop.report.gains_section import over_quantities
from altprop.report.model import CROWD, Learner, Report

_WINS = (
    "Share of the (task, seed) that both ran in which the learner of the row ended better than the one of the column, "
    "in per cent, with Wilson's 95 % interval. A tie is half a win, a failed run loses, two failed runs tie. Wins and "
    "ranks depend on who is in the pool."
)


def across_section(report: Report, found: Across | None, maps: Sequence[Figure]) -> list[Block]:
    """Return what holds across tasks, and the map of one task's workloads; of one data set the latter alone.

    Below stands what a data set shows that was given in several sizes or depths.
    """
    return [*_across(report, found, maps), *over_quantities(report)]


def _across(report: Report, found: Across | None, maps: Sequence[Figure]) -> list[Block]:
    if found is None:
        workloads = f", in {plural(len(report.tables), 'workload')}" if len(report.tables) > 1 else ""
        text = Text(f"There is one data set only{workloads}: nothing can be said across tasks.")
        return [text, *drawings(maps, main=True)]
    return [*_pooled(found), *drawings([*maps, *found.figures], main=True), *_who_beats_whom(found)]


def _pooled(found: Across) -> list[Block]:
    left = f" Without declared targets, and so left out: {', '.join(found.left_out)}." if found.left_out else ""
    if not found.pooled:
        return [
            Text(f"Nothing is pooled: that takes a learner that ran two tasks or more with declared targets.{left}")
        ]
    text = (
        "Scores are normalized, as shares of the gap from chance (0 %) to the task's tuned reference (100 %), as its "
        f"targets imply them: {', '.join(found.tasks)}."
    )
    if found.data_sets < len(found.tasks):
        text += (
            f" These are {plural(found.data_sets, 'data set')}: the workloads of one data set count as one, with the "
            "mean of each seed."
        )
    text += left
    if found.absent:
        text += f" Only learners that ran all of these tasks are pooled; left out: {', '.join(found.absent)}."
    head = [
        "learner",
        *right("runs\ncompleted"),
        Cell("IQM of the normalized score", "BCa, stratified by task, 95 %", "r"),
        *right("rank", "rank when one task\nis left out"),
        Cell("targets met", "task, target, seed", "r"),
        *right("area under the\nperformance profile"),
    ]
    return [Text(text), Grid("Pooled over tasks", head, [_row(one) for one in found.pooled])]


def _row(one: Pooled) -> Cells:
    iqm, (first, last), (met, asked) = one.iqm, one.ranks, one.met
    failed = iqm.estimate == -float("inf")
    limits = "" if failed or iqm.low is None else f"{_share(iqm.low)} to {percent(iqm.high, 1)}"
    return [
        Cell(learner=one.learner),
        *right(f"{one.n - one.failed}/{one.n}"),
        Cell(_share(iqm.estimate), limits, "r failed" if failed else "r"),
        *right(str(one.rank), str(first) if first == last else f"{first} to {last}"),
        *right(f"{met:.4g}/{asked:.4g}", percent(one.area)),
    ]


def _share(value: float) -> str:
    return "failed" if value == -float("inf") else percent(value, 1)


def _who_beats_whom(found: Across) -> list[Block]:
    """Return the matrix of wins, of a crowd folded away."""
    players = found.players
    if len(players) < 2:
        return []
    head: Cells = ["", "", *(Cell(str(n), kind="key", learner=one) for n, one in enumerate(players, start=1))]
    rows: list[Cells] = [
        [str(n), Cell(learner=one), *(_win(found, one, other) for other in players)]
        for n, one in enumerate(players, start=1)
    ]
    grid = Grid("Pairwise wins", head, rows, kind="wins")
    if len(players) <= CROWD:
        return [Text("Who beats whom", "h4"), Text(_WINS, "note"), grid]
    title = f"Who beats whom: {plural(len(players), 'learner')}, pair by pair"
    return [Fold(title, [Text(_WINS, "note"), grid], written=True)]


def _win(found: Across, row: Learner, column: Learner) -> Cell:
    """Return how often one learner beats another, coloured in seven steps."""
    pair = found.wins.get((row.name, column.name))
    if pair is None:
        return Cell("·")
    share, pairs = pair
    low, high = (round(100 * (limit or 0.0)) for limit in (share.low, share.high))
    step = int(share.estimate * 6.999)
    return Cell(f"{100 * share.estimate:.0f}", f"{low}–{high}", f"w{step}", why=f"of {pairs}")
