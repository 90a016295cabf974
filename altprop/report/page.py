"""The page itself: its frame around the sections, as HTML and as Markdown, and the results as plain data."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from altprop.report import format as written
from altprop.report.blocks import Section
from altprop.report.canvas import RULES, Canvas
from altprop.report.draw import Figure, key
from altprop.report.escape import for_markdown, inline_json
from altprop.report.format import visible
from altprop.report.model import CURRENCIES, Learner, Report, Table
from altprop.report.oracle_checks import Verified, as_numbers
from altprop.report.results import Row, in_metric
from altprop.report.robustness import Beside, Searched, score
from altprop.report.style import DARK, LIGHT, variables
from altprop.report.verdict import Verdict

_POLICY = (
    "default-src 'none'; script-src 'sha256-{}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<svg class="stamp" aria-hidden="true">{keys}</svg>
<header>
<h1>{title}</h1>
<p class="lead">{lead}</p>
</header>
<nav aria-label="Sections"><ol>
{links}
</ol></nav>
<main>
{sections}
</main>
<footer>Made by altprop from the records alone; the same records give the same page, byte for byte.</footer>
<script type="application/json" id="numbers">{numbers}</script>
<script type="application/json" id="curves">{curves}</script>
<script>{script}</script>
</body>
</html>
"""


@dataclass(frozen=True)
class Page:
    """Everything that is written, computed once for all formats.

    Attributes:
        report: what it is of. lead: a sentence below the title.
        files: figures that lie beside the page.
        curves: data of the charts. numbers: the results as plain data.
        oracle_checks: as the table beside the page has them.
    """

    report: Report
    lead: str
    sections: Sequence[Section]
    files: Sequence[Figure]
    curves: dict[str, Any]
    numbers: dict[str, Any]
    oracle_checks: Sequence[Verified]


@dataclass(frozen=True)
class Workload:
    """The results of one workload, which several sections share."""

    table: Table
    rows: list[Row]
    verdict: Verdict
    tuned: list[Beside]
    searched: list[Searched]


def render(page: Page, name: str) -> str:
    """Return the page as HTML ("html") or Markdown ("md")."""
    return _html(page) if name == "html" else _markdown(page)


def _markdown(page: Page) -> str:
    from altprop.report.blocks import markdown

    shown = {figure.name for figure in page.files}
    parts = [f"# {for_markdown(page.report.title)}", for_markdown(page.lead)]
    parts += [f"## {n} {one.title}\n\n{markdown(one.blocks, shown)}" for n, one in enumerate(page.sections)]
    return "\n\n".join(parts) + "\n"


def _html(page: Page) -> str:
    from markupsafe import Markup

    from altprop.report.blocks import html

    script = _asset("page.js")
    title = '<section id="{}">\n<h2><span class="n">{}</span>{}</h2>\n{}\n</section>'
    sections = (Markup(title).format(x.anchor, n, x.title, html(x.blocks)) for n, x in enumerate(page.sections))
    link = Markup('<li><a href="#{}"><b>{}</b>{}</a></li>')
    symbol = Markup('<symbol id="k{}" viewBox="0 0 24 12">{}</symbol>')
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Markup(_FRAME).format(
        policy=Markup(_POLICY.format(digest)),
        title=visible(page.report.title),
        style=Markup(_style()),
        keys=Markup("").join(symbol.format(one.index, Markup(_key(one))) for one in page.report.learners),
        lead=visible(page.lead),
        links=Markup("\n").join(link.format(x.anchor, n, x.name or x.title) for n, x in enumerate(page.sections)),
        sections=Markup("\n").join(sections),
        numbers=inline_json(page.numbers),
        curves=inline_json(page.curves),
        script=Markup(script),
    )


def _asset(name: str) -> str:
    return resources.files("altprop.report").joinpath(f"assets/{name}").read_text(encoding="utf-8")


def _style() -> str:
    """Return the style sheet with both palettes, the rules of the drawings, and what shows a chosen view."""
    parts = [f":root{{{variables(LIGHT)}}}", f"@media(prefers-color-scheme:dark){{:root{{{variables(DARK)}}}}}"]
    parts += [_asset("style.css"), f".altprop-figure path,symbol path{{{RULES['path']}}}"]
    parts.append(f".altprop-figure text{{{RULES['text']}}}")
    for one in CURRENCIES:
        chosen = f"#x-{one}:checked~"
        parts.append(f"{chosen}.task .view-{one}{{display:block}}")
        parts.append(
            f"{chosen}.bar label[for=x-{one}]{{background:var(--ink);border-color:var(--ink);color:var(--page)}}"
        )
        focused = f"#x-{one}:focus-visible~.bar label[for=x-{one}]"
        parts.append(f"{focused}{{outline:2px solid var(--c0);outline-offset:2px}}")
    return "\n".join(parts)


def _key(learner: Learner) -> str:
    """Return the inside of a learner's key, a sample of its line and marker 24 by 12 points."""
    canvas = Canvas(24, 12, "")
    key(canvas, 1, 6, learner.style)
    return canvas.body


def numbers(report: Report, workloads: Sequence[Workload], oracle_checks: Sequence[Verified]) -> dict[str, Any]:
    """Return the results as plain data, for scripts that read the page."""
    return {
        "title": report.title,
        "oracle_checks": as_numbers(oracle_checks),
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
                "trials": [_trial_numbers(row, one.table) for row in one.searched if report.singles],
            }
            for one in workloads
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
    scores = [score(table, *trial.runs) for trial in row.tuning.trials]
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
