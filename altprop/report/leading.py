"""Who is drawn: on a published page, which has to stay small, the leading learners of a crowd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from altprop.report.model import Learner, Report, Table
from altprop.report.statistics import median


def leading(report: Report, table: Table) -> list[Learner]:
    """Return the learners whose runs on a workload are drawn: all, or the reference and those with the best medians."""
    tried = [report.by_name[name] for name in table.runs if table.tried(name)]
    return foremost(report, tried, lambda one: median(np.array(list(table.scores(one.name).values()))))


def foremost(report: Report, learners: Sequence[Learner], score: Callable[[Learner], float]) -> list[Learner]:
    """Return all learners; of a crowd, on a published page, the reference and those of the highest scores.

    Args:
        report: whose page it is.
        learners: in the order in which they are returned.
        score: more is better; of equals the earlier one leads.
    """
    if report.drawn is None or len(learners) <= report.drawn:
        return list(learners)
    ranked = sorted(learners, key=lambda one: (not one.reference, -score(one)))
    chosen = {one.name for one in ranked[: report.drawn]}
    return [one for one in learners if one.name in chosen]


def undrawn(report: Report, table: Table) -> str:
    """Return a sentence on the learners that the figures of a workload leave out; empty where they leave out none."""
    tried = sum(1 for name in table.runs if table.tried(name))
    drawn = len(leading(report, table))
    if drawn == tried:
        return ""
    return (
        f"Drawn here are {drawn} of {tried} learners: the reference and those with the best medians. The tables hold "
        "all of them, and so do the figures of the final values and of the cost."
    )
