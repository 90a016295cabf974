"""Build a report: one self-contained HTML file, the same in Markdown, the figures and the raw data beside them.

The same records give the same bytes: nothing of the clock, the host or the place of the folders gets in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from altprop.errors import AltpropError
from altprop.records.archive import pack
from altprop.report.across import across
from altprop.report.across_section import across_section
from altprop.report.answer import answer, ranking
from altprop.report.blocks import Block, Section, Switch, Task, Text, figures_of
from altprop.report.canvas import SIGNATURE
from altprop.report.cards import card_section
from altprop.report.claims import outcomes
from altprop.report.claims_section import claims_section
from altprop.report.compared import compared
from altprop.report.convergence import INTRODUCTION as ABOUT_CONVERGENCE
from altprop.report.convergence import NO_CURVE, convergence
from altprop.report.cost_section import cost_introduction, cost_section
from altprop.report.curves import curve_data
from altprop.report.data_sets import counted
from altprop.report.definitions import definitions_section
from altprop.report.draw import Figure
from altprop.report.failures import failures_section, matrix, tally
from altprop.report.format import plural
from altprop.report.health_figures import colour_scale
from altprop.report.health_section import INTRODUCTION as ABOUT_HEALTH
from altprop.report.health_section import health
from altprop.report.identity import Check, checks, problems, reproduce_section
from altprop.report.model import CROWD, CURRENCIES, Report, Table
from altprop.report.oracle_checks import Verified, as_csv, doubts, oracle_section, verified
from altprop.report.page import Page, Workload, numbers, render
from altprop.report.reached import reached
from altprop.report.reading import read
from altprop.report.results import rows
from altprop.report.robustness import beside, searched
from altprop.report.robustness_section import robustness_introduction, robustness_section
from altprop.report.times import currencies
from altprop.report.verdict import conclude
from altprop.report.verdict_section import verdict_section

FORMATS = ("html", "md")
PUBLISHED = 3_000_000
"""Bytes that the page and the packed records of a published report may have, each; twice that is for the whole."""
DRAWN = (CROWD, 9, 7, 5, 3)
"""Learners that the figures of a published page draw: the first number with which it fits."""
TITLE = "Learning algorithms compared"


def build(
    runs: Sequence[Path | str],
    out: Path | str,
    title: str = TITLE,
    formats: Sequence[str] = FORMATS,
    keys: Collection[str] | None = None,
    reference: str | None = None,
    publish: bool = False,
) -> Path:
    """Read records and write `report.html`, `report.md`, `figures/*.svg` and the data as tables into a folder.

    A published report is these four and nothing else: the page, the Markdown, the figures that the Markdown shows, and
    `records.tar.xz` in place of the tables. Records and page are at most `PUBLISHED` bytes each, and all of it at most
    twice that; what that leaves out is said on the page, which is built from the archive, so that whoever has the
    archive can build it again.

    Args:
        runs: folders of records, merged by run key.
        out: folder to write to, made if it is not there.
        title: heading of the page.
        formats: "html", "md" or both.
        keys: run keys to report on, where the folders hold more; all by default.
        reference: the learner that all others are compared with, by its name on the page; by default the first by
            name whose configuration says `reference: true`.
        publish: make it a report to publish.

    Returns:
        The page: the HTML file, or the Markdown file if only that was asked for.

    Raises:
        AltpropError: a folder is missing or holds no record, a format is unknown, no learner has the name of the
            reference, a published report would be too large, or `out` cannot be written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise AltpropError(f"unknown report format {', '.join(unknown) or 'none'}: choose from {', '.join(FORMATS)}")
    folders = [Path(folder) for folder in runs]
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if publish:
            folders = [pack(folders, out, keys, PUBLISHED)]
        report = read(folders, title, keys, reference)
        room = 2 * PUBLISHED - folders[0].stat().st_size
        page, pages = _fitting(report, formats, room) if publish else _rendered(report, formats)
        _write_figures(out / "figures", page.files)
        if not publish:
            _write_data(out, folders, keys)
            (out / "oracle_checks.csv").write_bytes(as_csv(page.oracle_checks))
        for name, text in pages.items():
            (out / name).write_bytes(text)
    except OSError as error:
        raise AltpropError(f"the report cannot be written to {str(out)!r}: {error.strerror or error}") from error
    return out / f"report.{'html' if 'html' in formats else 'md'}"


def _rendered(report: Report, formats: Sequence[str]) -> tuple[Page, dict[str, bytes]]:
    """Return the page, and file name -> its bytes."""
    page = assemble(report)
    return page, {f"report.{name}": render(page, name).encode() for name in formats}


def _fitting(report: Report, formats: Sequence[str], room: int) -> tuple[Page, dict[str, bytes]]:
    """Do as `_rendered`, with as many learners drawn as the size of a published report allows.

    Args:
        report: whose pages they are.
        formats: of the pages.
        room: bytes for pages and figures together.
    """
    for drawn in DRAWN:
        page, pages = _rendered(replace(report, drawn=drawn, published=True), formats)
        largest = max(map(len, pages.values()))
        figures = sum(len(figure.canvas.file().encode()) for figure in page.files)
        if largest <= PUBLISHED and sum(map(len, pages.values())) + figures <= room:
            return page, pages
    raise AltpropError(f"the page takes {largest:,} bytes, more than a published report has room for")


def assemble(report: Report) -> Page:
    """Return everything that is written, computed once for all formats."""
    found, oracle_checks, scale = checks(report), verified(report), colour_scale(report)
    workloads = [_workload(report, table, found, oracle_checks) for table in report.tables]
    pooled, cells = across(report), matrix(report)
    unfair = [f"{problem} ({table.workload})" for table in report.tables for problem in problems(found, table.workload)]
    results = {one.table.workload: one.rows for one in workloads}
    seen = {currency for one in workloads for currency in currencies(one.table)}
    switch = Switch({currency: title for currency, title in CURRENCIES.items() if currency in seen})

    def tasks(part: Callable[[Workload], list[Block]], none: str = "") -> list[Block]:
        blocks: list[Block] = [Task(one.table.workload, made) for one in workloads if (made := part(one))]
        return blocks or ([Text(none)] if none else [])

    verdicts = tasks(lambda one: verdict_section(report, one.table, one.rows, one.verdict))
    curves = tasks(lambda one: convergence(report, one.table, one.rows), NO_CURVE)
    healths = tasks(lambda one: health(report, one.table, scale), "No run was probed.")
    costs = tasks(lambda one: cost_section(report, one.table), "No run left a ledger behind.")
    trials = tasks(lambda one: robustness_section(report, one.table, one.tuned, one.searched))
    sections = [
        Section(
            "verdict",
            "Answer",
            [
                *answer(report, results, pooled, cells, unfair),
                *claims_section(outcomes(report, report.claims)),
                *verdicts,
            ],
        ),
        Section("compared", "What was compared", compared(report, cells), "Compared"),
        Section("convergence", "Convergence", [Text(ABOUT_CONVERGENCE), switch, *curves]),
        Section("across", "Across tasks", across_section(report, pooled, reached(report))),
        Section("health", "Gradient health", [Text(ABOUT_HEALTH), *healths]),
        Section("cost", "Cost", cost_introduction(report) + costs),
        Section("robustness", "Robustness", robustness_introduction(report) + trials),
        Section(
            "oracle_checks",
            "Is each learner what it says?",
            [*oracle_section(oracle_checks), *card_section(oracle_checks, report.cards)],
            "Oracle checks",
        ),
        Section("failures", "Failures", failures_section(report)),
        Section("reproduce", "Reproduce", reproduce_section(report, found)),
        Section("definitions", "Definitions and raw data", definitions_section(report), "Definitions"),
    ]
    tuning = f" Tuning took {plural(report.trials, 'trial')} more." if report.trials else ""
    ran = f"{plural(len(report.learners), 'learner')} on {counted(report)}, {plural(len(report.runs), 'run')}"
    blocks = [block for section in sections for block in section.blocks]
    files = {figure.name: figure for figure in figures_of(blocks, main=report.published)}
    return Page(
        report,
        f"{ran}: {tally(report)}.{tuning}",
        sections,
        list(files.values()),
        curve_data(report, [one.learner.name for one in ranking(report, results, pooled)]),
        numbers(report, workloads, oracle_checks),
        oracle_checks,
    )


def _workload(report: Report, table: Table, found: list[Check], oracle_checks: list[Verified]) -> Workload:
    results = rows(report, table)
    verdict = conclude(report, table, results, problems(found, table.workload) + doubts(oracle_checks, table))
    return Workload(table, results, verdict, beside(report, table), searched(report, table))


def _write_figures(folder: Path, figures: Sequence[Figure]) -> None:
    """Write the figures, and remove those that an earlier report left there and this one does not have."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {f"{figure.name}.svg" for figure in figures}
    for path in sorted(folder.glob("*.svg")):
        if (
            path.name not in names
            and f'class="{SIGNATURE}"' in path.read_text(encoding="utf-8", errors="replace")[:200]
        ):
            path.unlink()
    for figure in figures:
        (folder / f"{figure.name}.svg").write_text(figure.canvas.file(), encoding="utf-8")


def _write_data(out: Path, folders: Sequence[Path], keys: Collection[str] | None) -> None:
    """Write one row a run and one row a traced number; where the records lie is left out, so that they may move."""
    from altprop.records.frame import load, load_trace

    frame, trace = load(folders).drop(columns="folder"), load_trace(folders)
    if keys is not None:
        frame, trace = frame[frame["key"].isin(keys)].copy(), trace[trace["key"].isin(keys)]
    for column in frame.columns:
        if any(isinstance(value, (dict, list)) for value in frame[column]):
            frame[column] = [None if value is None else json.dumps(value, sort_keys=True) for value in frame[column]]
    frame.to_csv(out / "data.csv", index=False, lineterminator="\n")
    zipped = {"method": "gzip", "mtime": 0, "compresslevel": 4}
    trace.to_csv(out / "trace.csv.gz", index=False, lineterminator="\n", compression=zipped)
