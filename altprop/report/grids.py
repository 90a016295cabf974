"""A grid over an option, drawn over that option: learners that differ in nothing else are the points of one line."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from altprop.report.draw import Figure, end_of, slug, together
from altprop.report.format import short
from altprop.report.leading import leading
from altprop.report.model import Learner, Option, Report, Table
from altprop.report.panel import Panel, needs_log, spanning
from altprop.report.results import in_metric
from altprop.report.robustness_figures import OptionScale
from altprop.report.settings import NO_SETTING, settings
from altprop.report.statistics import median

MIN_LEARNERS = 3
"""Learners that make a grid."""


TICKS = 6
"""Values of an option that an axis names one by one."""


@dataclass(frozen=True)
class Line:
    """Learners that differ in one option: its values in their order, and whose they are."""

    name: str
    values: list[Any]
    learners: list[Learner]


def grids(report: Report, table: Table) -> list[Figure]:
    """Draw the final metric over each option that was swept; [] where fewer than three learners differ in one alone."""
    known = _known(report, table)
    options = _options(list(known.values()))
    lines = {name: found for name, paths in options.items() if (found := _lines(report, known, name, paths))}
    each = (_figures(table, option, found, not place) for place, (option, found) in enumerate(lines.items()))
    return [figure for figures in each for figure in figures]


def _known(report: Report, table: Table) -> dict[str, dict[str, Any]]:
    """Return learner -> its settings by dotted path; a tuned one differs by its search, and is left out."""
    drawn = [one for one in leading(report, table) if not (one.tuned or one.control)]
    return {one.name: settings(table.tried(one.name)[0].record) for one in drawn}


def _options(known: Sequence[dict[str, Any]]) -> dict[str, set[str]]:
    """Return the last name of each option that differs between learners, with its paths: interpolations copy it."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in dict.fromkeys(path for flat in known for path in flat):
        name = path.rsplit(".", 1)[-1]
        if name not in NO_SETTING and len({repr(flat.get(path)) for flat in known}) > 1:
            found[name].add(path)
    return found


def _lines(report: Report, known: dict[str, dict[str, Any]], option: str, paths: set[str]) -> list[Line]:
    """Return the lines of an option: learners that agree in all else."""
    alike: dict[str, list[tuple[Any, Learner]]] = defaultdict(list)
    for name, flat in known.items():
        mine = [flat[path] for path in sorted(paths) if path in flat]
        if mine and all(value == mine[0] for value in mine):
            rest = sorted((path, repr(value)) for path, value in flat.items() if path not in paths)
            only = mine[0][0] if isinstance(mine[0], list) and len(mine[0]) == 1 else mine[0]
            alike[repr(rest)].append((only, report.by_name[name]))
    several = [sorted(found, key=_place) for found in alike.values() if len(found) > 1]
    if sum(map(len, several)) < MIN_LEARNERS:
        return []
    names = _apart([_common(option, found[0][1]) for found in several])
    return [Line(name, *map(list, zip(*found, strict=True))) for name, found in zip(names, several, strict=True)]


def _place(point: tuple[Any, Learner]) -> tuple[bool, float, str]:
    value = point[0]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return not number, float(value) if number else 0.0, str(value)


def _common(option: str, learner: Learner) -> str:
    """Return a learner's name without an option."""
    left = re.sub(rf"[·, ]*\b{re.escape(option)}=(\[[^\]]*\]|[^,)\]·]*)", "", learner.name)
    return re.sub(r"([(\[]), *", r"\1", left).replace("()", "").replace("[]", "").strip() or learner.name


def _apart(names: Sequence[str]) -> list[str]:
    """Return names without what all of them begin with.

    >>> _apart(["sgd(lr=0.1)", "sgd(lr=1)"]), _apart(["sgd"])
    (['lr=0.1', 'lr=1'], ['sgd'])
    """
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    shared = re.sub(r"[^·(]*$", "", "".join(letters[0] for letters in alike)) if len(names) > 1 else ""
    return [name[len(shared) :].removesuffix(")") if shared.endswith("(") else name[len(shared) :] for name in names]


def _figures(table: Table, option: str, lines: Sequence[Line], first: bool) -> list[Figure]:
    values = [value for line in lines for value in line.values]
    numbers = [float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    low, high = (min(numbers), max(numbers)) if len(numbers) == len(values) else (None, None)
    scale = OptionScale(option, [Option(option, low, high, needs_log(numbers, 8.0), (), None)], values)
    few = not scale.names and len(set(numbers)) <= TICKS
    x = replace(scale.axis, fixed=tuple(sorted(set(numbers)))) if few else scale.axis
    every = [
        in_metric(s, table.sign) for line in lines for one in line.learners for s in table.scores(one.name).values()
    ]
    finite = [value for value in every if math.isfinite(value)]
    y = spanning(finite, log=table.sign < 0 and needs_log(finite), margin=0.06)
    title = f"final {table.quality} {table.metric} over {short(option, 30)}, {short(table.workload, 40)}"
    known = {line.learners[0].index: line for line in lines}

    def draw(panel: Panel, learner: Learner, _: float) -> tuple[float, float] | None:
        line, style = known[learner.index], learner.style
        across = [scale.at(value, 0.0) for value in line.values]
        for at, one in zip(across, line.learners, strict=True):
            seeds = [in_metric(s, table.sign) for s in table.scores(one.name).values() if math.isfinite(s)]
            panel.canvas.markers(*panel.at([at] * len(seeds), seeds), style.marker, style.colour, 4.0, 0.45)
        middles = [median(np.array(list(table.scores(one.name).values()))) for one in line.learners]
        down = np.array([in_metric(m, table.sign) if math.isfinite(m) else math.nan for m in middles])
        panel.line(across, down, style.colour, 1.9 * style.width, style.dash)
        panel.canvas.markers(*panel.at(across, down), style.marker, style.colour, 8.0)
        return end_of(panel, np.array(across), down)

    caption = (
        "Learners that differ in this option alone, joined in its order: the large markers are medians over the seeds, "
        "the small ones the seeds; a median that failed breaks the line."
    )
    named = [replace(line.learners[0], name=line.name) for line in lines]
    label = f"{title}: one line for learners that differ in nothing else"
    return together(slug("grid", table.workload, option), title, label, named, (x, y), draw, caption if first else "")
