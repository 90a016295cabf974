"""Who is drawn: of a crowd the leading learners, the reference and the controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from altprop.report.model import Learner, Report, Table
from altprop.report.statistics import median


def leading(report: Report, table: Table) -> list[Learner]:
    """Return the learners that are drawn: all, or of a crowd the reference, the controls and the best medians."""
    tried = [report.by_name[name] for name in table.runs if table.tried(name)]
    return foremost(report, tried, lambda one: median(np.array(list(table.scores(one.name).values()))))


def foremost(
    report: Report, learners: Sequence[Learner], score: Callable[[Learner], float], at_most: int | None = None
) -> list[Learner]:
    """Return all learners; of a crowd the reference, the controls and those of the highest scores.

    Args:
        report: whose page it is.
        learners: in the order in which they are returned.
        score: more is better; of equals the earlier one leads.
        at_most: how many, `report.drawn` by default.
    """
    room = at_most or report.drawn
    if len(learners) <= room:
        return list(learners)
    ranked = sorted(learners, key=lambda one: (not one.reference, not one.control, -score(one)))
    chosen = {one.name for one in ranked[:room]}
    return [one for one in learners if one.name in chosen]


def undrawn(report: Report, table: Table) -> str:
    """Return a sentence on the learners that the figures of a workload leave out; empty where they leave out none."""
    tried = sum(1 for name in table.runs if table.tried(name))
    drawn = len(leading(report, table))
    if drawn == tried:
        return ""
    return (
        f"Drawn here are {drawn} of {tried} learners: the reference, the controls and those with the best medians. "
        "The tables hold all of them, and so do the figures of the final values and of the cost."
    )
