"""The page itself: what the templates are given, and how it becomes HTML or Markdown."""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from importlib import resources
from typing import Any

from altprop.report import format as written
from altprop.report.blocks import Block
from altprop.report.canvas import RULES, Canvas
from altprop.report.convergence import View
from altprop.report.cost import COUNTS, CostRow
from altprop.report.definitions import DEFINITIONS
from altprop.report.draw import Figure, key
from altprop.report.health_section import INTRODUCTION
from altprop.report.model import CURRENCIES, Table
from altprop.report.oracle_checks import as_numbers
from altprop.report.results import Row, in_metric
from altprop.report.robustness import Beside, Searched, Spread, score
from altprop.report.step_time import GREY_ABOVE, UNTIMED
from altprop.report.style import DARK, LIGHT, variables
from altprop.report.task_panels import TaskPanel
from altprop.report.verdict import Verdict

SECTIONS = (
    (0, "verdict", "Answer"),
    (1, "compared", "Compared"),
    (2, "convergence", "Convergence"),
    (3, "across", "Across tasks"),
    (4, "health", "Gradient health"),
    (5, "cost", "Cost"),
    (6, "robustness", "Robustness"),
    (7, "oracle_checks", "Oracle checks"),
    (8, "failures", "Failures"),
    (9, "reproduce", "Reproduce"),
    (10, "definitions", "Definitions"),
)


@dataclass(frozen=True)
class Workload:
    """Everything that the page shows of one workload."""

    table: Table
    rows: list[Row]
    verdict: Verdict
    dots: Figure | None
    calibration: list[Block]
    views: list[View]
    panels: list[TaskPanel]
    health: list[Block]
    costs: list[CostRow]
    paretos: list[Figure]
    breakdown: Figure | None
    time_breakdown: Figure | None
    tuned: list[Beside]
    searched: list[Searched]
    ks: list[int]
    best: list[Figure]
    sensitivity: list[Figure]
    spreads: list[Spread]
    undrawn: str
    drawn_trials: list[Searched]

    @property
    def trials(self) -> str:
        """How many trials the tunings of the workload hold, in words."""
        return written.plural(sum(one.curves.n for one in self.searched), "trial")

    @property
    def undrawn_trials(self) -> str:
        """A sentence on the tunings that the figures leave out; empty where they leave out none."""
        if len(self.drawn_trials) == len(self.searched):
            return ""
        drawn, every = len(self.drawn_trials), len(self.searched)
        return f"Drawn are the {drawn} of {every} learners whose trials reached the best; the tables hold all."

    @property
    def used_counts(self) -> list[str]:
        """The kinds of calls of which some learner made any."""
        return [kind for kind in COUNTS if any(row.counts[kind] for row in self.costs)]


def render(context: dict[str, Any], name: str) -> str:
    """Render the page as HTML ("html") or Markdown ("md")."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from altprop.report.blocks import html
    from altprop.report.blocks import markdown as markdown_of
    from altprop.report.escape import Raw, block, breakable, code, for_html, for_markdown, inline_json, safe_svg

    markdown = name == "md"
    environment = Environment(
        loader=PackageLoader("altprop.report"),
        autoescape=not markdown,
        finalize=for_markdown if markdown else for_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    tools = "number brief signed places span count octets seconds percent p_value quantity plural short setting".split()
    environment.filters |= {tool: getattr(written, tool) for tool in tools}
    environment.filters |= {
        "in_metric": in_metric,
        "inline_json": inline_json,
        "drawing": safe_svg,
        "code": code,
        "block": block,
        "raw": Raw,
        "breakable": breakable,
        "html_blocks": html,
        "md_blocks": lambda blocks: Raw(markdown_of(blocks, context["shown"])),
    }
    template = environment.get_template(f"report.{name}.j2")
    script = resources.files("altprop.report").joinpath("templates/page.js").read_text(encoding="utf-8")
    seen = {view.currency for one in context["workloads"] for view in one.views}
    extra = {
        "untimed": UNTIMED,
        "about_health": INTRODUCTION,
        "grey_above": GREY_ABOVE,
        "sections": SECTIONS,
        "definitions": DEFINITIONS,
        "currencies": [currency for currency in CURRENCIES if currency in seen],
        "currency_titles": CURRENCIES,
        "infinity": math.inf,
        "rules": {element: Markup(rule) for element, rule in RULES.items()},
        "light": Markup(variables(LIGHT)),
        "dark": Markup(variables(DARK)),
        "keys": [Markup(_key_symbol(learner)) for learner in context["report"].learners],
        "numbers": numbers(context),
        "script": Markup(script),
        "script_hash": Markup(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
    }
    return template.render(**context, **extra)


def _key_symbol(learner: Any) -> str:
    """Return the inside of a learner's key, a sample of its line and marker 24 by 12 points."""
    canvas = Canvas(24, 12, "")
    key(canvas, 1, 6, learner.style)
    return canvas.body


def numbers(context: dict[str, Any]) -> dict[str, Any]:
    """Return the results as plain data, for scripts that read the page."""
    return {
        "title": context["report"].title,
        "oracle_checks": as_numbers(context["oracle_checks"]),
        "workloads": [
            {
                "workload": one.table.workload,
                "metric": one.table.metric,
                "higher_is_better": one.table.sign > 0,
                "set": one.table.quality,
                "verdict": list(one.verdict.sentences),
                "caveats": list(one.verdict.caveats),
                "learners": [_row_numbers(row) for row in one.rows],
                "tuned": [_tuned_numbers(row) for row in one.tuned],
                "trials": [_trial_numbers(row, one.table) for row in one.searched if context["singles"]],
            }
            for one in context["workloads"]
        ],
    }


def _row_numbers(row: Row) -> dict[str, Any]:
    data: dict[str, Any] = {"learner": row.learner.name, "runs": len(row.runs), "refused": row.summary is None}
    if row.summary is None:
        return data
    mean = None if row.mean is None else [row.mean.estimate, row.mean.low, row.mean.high]
    data |= {"n": row.summary.n, "failed": row.summary.failed, "median": _finite(row.median), "mean": mean}
    if row.comparison is not None:
        data |= {"p": row.comparison.p, "p_holm": row.comparison.adjusted, "family": row.comparison.family}
    if row.comparison is not None and row.comparison.equivalence is not None:
        data |= {"margin": row.comparison.margin, "p_equivalent_holm": row.comparison.equivalence}
    return data | {"flags": list(row.flags)}


def _tuned_numbers(row: Beside) -> dict[str, Any]:
    difference = row.difference and [row.difference.estimate, row.difference.low, row.difference.high]
    return {
        "learner": row.learner.name,
        "default": row.default and row.default.name,
        "trials": row.tuned.trials,
        "failed_trials": row.failed,
        "values": row.tuned.values,
        "defaults": {option.path: option.default for option in row.tuned.options},
        "flops": row.tuned.flops,
        "seeds": row.seeds,
        "median_default": _finite(row.before),
        "median_tuned": _finite(row.after),
        "difference": difference,
        "flags": list(row.flags),
    }


def _trial_numbers(row: Searched, table: Table) -> dict[str, Any]:
    """Return the trials of a tuning as plain data, and the best of k = 1, 2, ... of them in the metric's unit."""
    scores = [score(table, trial.run) for trial in row.tuning.trials]
    return {
        "learner": row.learner.name,
        "trials": [
            {"index": trial.index, "values": trial.values, "validation": _finite(in_metric(value, table.sign))}
            for trial, value in zip(row.tuning.trials, scores, strict=True)
        ],
        "expected_best_of": [_finite(in_metric(value, table.sign)) for value in row.curves.expected],
        "median_best_of": [_finite(in_metric(value, table.sign)) for value in row.curves.median],
    }


def _finite(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else written.FAILED
