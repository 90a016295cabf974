"""The page itself: what the templates are given, and how it becomes HTML or Markdown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from altprop.report import format as written
from altprop.report.canvas import Canvas
from altprop.report.convergence import View
from altprop.report.cost import COUNTS, CostRow
from altprop.report.definitions import DEFINITIONS
from altprop.report.draw import Figure, key
from altprop.report.health import Health
from altprop.report.model import CURRENCIES, Table
from altprop.report.proof import as_numbers
from altprop.report.results import Row
from altprop.report.runs import RunPage
from altprop.report.style import DARK, LIGHT, variables
from altprop.report.verdict import Verdict

SECTIONS = (
    (0, "verdict", "Verdict"),
    (1, "compared", "Compared"),
    (2, "convergence", "Convergence"),
    (3, "across", "Across tasks"),
    (4, "health", "Gradient health"),
    (5, "cost", "Cost"),
    (7, "proof", "Proof"),
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
    views: list[View]
    health: list[Health]
    heat: list[Figure]
    alignment: list[Figure]
    overlays: list[Figure]
    costs: list[CostRow]
    paretos: list[Figure]
    breakdown: Figure | None
    pages: list[RunPage]

    @property
    def used_counts(self) -> list[str]:
        """The kinds of calls of which some learner made any."""
        return [kind for kind in COUNTS if any(row.counts[kind] for row in self.costs)]


def render(context: dict[str, Any], name: str) -> str:
    """The page as HTML ("html") or Markdown ("md")."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

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
    tools = "number brief signed places span count octets seconds percent p_value quantity plural short".split()
    environment.filters |= {tool: getattr(written, tool) for tool in tools}
    environment.filters |= {
        "inline_json": inline_json,
        "drawing": safe_svg,
        "code": code,
        "block": block,
        "raw": Raw,
        "breakable": breakable,
    }
    template = environment.get_template(f"report.{name}.j2")
    seen = {view.currency for one in context["workloads"] for view in one.views}
    extra = {
        "sections": SECTIONS,
        "definitions": DEFINITIONS,
        "currencies": [currency for currency in CURRENCIES if currency in seen],
        "currency_titles": CURRENCIES,
        "infinity": math.inf,
        "light": Markup(variables(LIGHT)),
        "dark": Markup(variables(DARK)),
        "keys": [Markup(_key_symbol(learner)) for learner in context["report"].learners],
        "numbers": numbers(context),
    }
    return template.render(**context, **extra)


def _key_symbol(learner: Any) -> str:
    """The inside of a learner's key, a sample of its line and marker 24 by 12 points."""
    canvas = Canvas(24, 12, "")
    key(canvas, 1, 6, learner.style)
    return canvas.body


def numbers(context: dict[str, Any]) -> dict[str, Any]:
    """The results as plain data, for scripts that read the page."""
    return {
        "title": context["report"].title,
        "proofs": as_numbers(context["proofs"]),
        "workloads": [
            {
                "workload": one.table.workload,
                "metric": one.table.metric,
                "higher_is_better": one.table.sign > 0,
                "set": one.table.quality,
                "verdict": list(one.verdict.sentences),
                "caveats": list(one.verdict.caveats),
                "learners": [_row_numbers(row) for row in one.rows],
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
    return data | {"flags": list(row.flags)}


def _finite(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else written.FAILED
