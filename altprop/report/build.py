"""Build a report: one self-contained HTML file, the same in Markdown, the figures and the raw data beside them.

The same records give the same bytes: nothing of the clock, the host or the place of the folders gets in.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from altprop.errors import AltpropError
from altprop.records.archive import pack
from altprop.report.across import Across, across
from altprop.report.answer import answer, ranking
from altprop.report.blocks import figures_of
from altprop.report.calibration import calibration
from altprop.report.canvas import SIGNATURE
from altprop.report.compared import compared
from altprop.report.convergence import views
from altprop.report.cost import cost_rows
from altprop.report.cost_figures import breakdown, pareto, time_breakdown
from altprop.report.curves import curve_data
from altprop.report.data_sets import counted
from altprop.report.draw import Figure
from altprop.report.failures import failures, matrix, summary, tally
from altprop.report.health_figures import Scale, colour_scale
from altprop.report.health_section import health
from altprop.report.identity import Check, checks, fingerprints, origins, problems
from altprop.report.leading import undrawn
from altprop.report.model import CROWD, Report, Table
from altprop.report.oracle_checks import Verified, as_csv, doubts, verified
from altprop.report.oracle_checks import summary as summary_of_oracle_checks
from altprop.report.page import Workload, render
from altprop.report.reached import reached
from altprop.report.reading import read
from altprop.report.results import dots, rows
from altprop.report.robustness import COMMAND, beside, best_searched, orphans, searched, spreads, steps_of_k
from altprop.report.robustness_figures import best_figures, sensitivity
from altprop.report.runs import run_page
from altprop.report.signal_panels import signal_panels
from altprop.report.task_panels import task_panels
from altprop.report.verdict import conclude

FORMATS = ("html", "md")
LAYERS_UP_TO = 150
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
        context, pages = _fitting(report, formats, room) if publish else _rendered(report, formats)
        _write_figures(out / "figures", context["files"])
        if not publish:
            _write_data(out, folders, keys)
            (out / "oracle_checks.csv").write_bytes(as_csv(context["oracle_checks"]))
        for name, page in pages.items():
            (out / name).write_bytes(page)
    except OSError as error:
        raise AltpropError(f"the report cannot be written to {str(out)!r}: {error.strerror or error}") from error
    return out / f"report.{'html' if 'html' in formats else 'md'}"


def _rendered(report: Report, formats: Sequence[str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return what the templates are given, and file name -> page."""
    context = assemble(report)
    return context, {f"report.{name}": render(context, name).encode() for name in formats}


def _fitting(report: Report, formats: Sequence[str], room: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Do as `_rendered`, with as many learners drawn as the size of a published report allows.

    Args:
        report: whose pages they are.
        formats: of the pages.
        room: bytes for pages and figures together.
    """
    for drawn in DRAWN:
        context, pages = _rendered(replace(report, drawn=drawn, published=True), formats)
        largest = max(map(len, pages.values()))
        figures = sum(len(figure.canvas.file().encode()) for figure in context["files"])
        if largest <= PUBLISHED and sum(map(len, pages.values())) + figures <= room:
            return context, pages
    raise AltpropError(f"the page takes {largest:,} bytes, more than a published report has room for")


def assemble(report: Report) -> dict[str, Any]:
    """Return everything that the templates need, computed once for all formats."""
    found = checks(report)
    scale = colour_scale(report)
    oracle_checks = verified(report)
    small = len(report.runs) <= LAYERS_UP_TO
    workloads = [_workload(report, table, found, oracle_checks, scale, small) for table in report.tables]
    pooled = across(report)
    maps = [] if pooled else reached(report)
    cells = matrix(report)
    unfair = [f"{problem} ({table.workload})" for table in report.tables for problem in problems(found, table.workload)]
    results = {one.table.workload: one.rows for one in workloads}
    broken = failures(report)
    found_figures = _few(workloads, pooled) if report.published else _figures(workloads, pooled)
    files = list({figure.name: figure for figure in [*maps, *found_figures] if figure.name}.values())
    return {
        "report": report,
        "tally": tally(report),
        "tasks": counted(report),
        "curves": curve_data(report, [one.learner.name for one in ranking(report, results, pooled)]),
        "compared": compared(report, cells),
        "answer": answer(report, results, pooled, cells, unfair),
        "workloads": workloads,
        "across": pooled,
        "reached": maps,
        "trials": sum(len(tuning.trials) for tuning in report.tunings),
        "orphans": orphans(report),
        "tune_command": COMMAND,
        "failures": broken,
        "failure_summary": summary(broken),
        "oracle_checks": oracle_checks,
        "oracle_check_summary": summary_of_oracle_checks(oracle_checks),
        "checks": found,
        "fingerprints": fingerprints(report),
        "origins": origins(report),
        "with_layers": small,
        "singles": singles(report),
        "files": files,
        "shown": {figure.name for figure in files},
    }


def _workload(
    report: Report,
    table: Table,
    found: list[Check],
    oracle_checks: list[Verified],
    scale: Scale | None,
    with_layers: bool,
) -> Workload:
    results = rows(report, table)
    costs = cost_rows(report, table)
    found_trials = searched(report, table)
    drawn_trials = best_searched(report, found_trials)
    single = [run for name in table.runs for run in table.tried(name)] if singles(report) else []
    pages = [run_page(table, run, with_layers) for run in single]
    planes = [pareto(report, table, "flops", "FLOPs"), pareto(report, table, "peak_bytes", "bytes alive at the peak")]
    if table.timing is not None and table.timing.complete:
        planes.append(pareto(report, table, "cpu_seconds", "CPU-seconds"))
    return Workload(
        table=table,
        rows=results,
        verdict=conclude(report, table, results, problems(found, table.workload) + doubts(oracle_checks, table)),
        dots=dots(report, table, results),
        calibration=calibration(report, table),
        views=views(report, table),
        panels=[*task_panels(report, table), *signal_panels(table)],
        health=health(report, table, scale, pages),
        costs=costs,
        paretos=[figure for figure in planes if figure is not None],
        breakdown=breakdown(table, costs),
        time_breakdown=time_breakdown(report, table),
        tuned=beside(report, table),
        searched=found_trials,
        ks=steps_of_k(found_trials),
        best=best_figures(table, drawn_trials),
        sensitivity=sensitivity(table, drawn_trials),
        spreads=spreads(report, table),
        undrawn=undrawn(report, table),
        drawn_trials=drawn_trials,
    )


def singles(report: Report) -> bool:
    """Return whether single runs and trials are shown: of many, a published page leaves them to its records."""
    trials = sum(len(tuning.trials) for tuning in report.tunings)
    return not report.published or len(report.runs) + trials <= LAYERS_UP_TO


def _few(workloads: Iterable[Workload], pooled: Across | None) -> Iterator[Figure]:
    """Yield the figures of a published report's Markdown: final values, a convergence, best of k and across tasks."""
    for one in workloads:
        yield from [one.dots] if one.dots is not None else []
        yield from one.views[0].overview if one.views else []
        yield from (figure for panel in one.panels for figure in panel.figures if figure.name.startswith("signal"))
        yield from one.best
    yield from pooled.figures if pooled else []


def _figures(workloads: Iterable[Workload], pooled: Across | None) -> Iterator[Figure]:
    for one in workloads:
        yield from [figure for figure in (one.dots, one.breakdown, one.time_breakdown) if figure is not None]
        for view in one.views:
            yield from view.overview
            yield from view.incidence
        for panel in one.panels:
            yield from panel.figures
        yield from figures_of(one.health)
        yield from one.paretos
        yield from one.best
        yield from one.sensitivity
    yield from pooled.figures if pooled else []


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
