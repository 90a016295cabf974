"""Build a report: one self-contained HTML file, the same in Markdown, the figures and the raw data beside them.

The same records give the same bytes: nothing of the clock, the host or the place of the folders gets in.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from altprop.errors import AltpropError
from altprop.records.archive import pack
from altprop.report.across import Across, across
from altprop.report.canvas import SIGNATURE
from altprop.report.convergence import views
from altprop.report.cost import cost_rows
from altprop.report.cost_figures import breakdown, pareto, time_breakdown
from altprop.report.draw import Figure
from altprop.report.failures import failures, matrix, summary, tally
from altprop.report.health import examine
from altprop.report.health_figures import alignments, gradient_scale, heat_maps, overlays, scale_figure
from altprop.report.identity import Check, checks, fingerprints, origins, problems
from altprop.report.model import Report, Table
from altprop.report.oracle_checks import Verified, as_csv, doubts, verified
from altprop.report.oracle_checks import summary as summary_of_oracle_checks
from altprop.report.page import Workload, render
from altprop.report.reading import read
from altprop.report.results import dots, rows
from altprop.report.robustness import COMMAND, beside, orphans, searched, spreads, steps_of_k
from altprop.report.robustness_figures import best_figures, sensitivity
from altprop.report.runs import LAYER_COLUMNS, WHOLE_COLUMNS, run_page
from altprop.report.verdict import conclude

FORMATS = ("html", "md")
LAYERS_UP_TO = 150
TITLE = "Learning algorithms compared"


def build(
    runs: Sequence[Path | str],
    out: Path | str,
    title: str = TITLE,
    formats: Sequence[str] = FORMATS,
    keys: Collection[str] | None = None,
    reference: str | None = None,
    packed: bool = False,
) -> Path:
    """Read records and write `report.html`, `report.md`, `figures/*.svg` and the data as tables into a folder.

    Args:
        runs: folders of records, merged by run key.
        out: folder to write to, made if it is not there.
        title: heading of the page.
        formats: "html", "md" or both.
        keys: run keys to report on, where the folders hold more; all by default.
        reference: the learner that all others are compared with, by its name on the page; by default the first by
            name whose configuration says `reference: true`.
        packed: put the records beside the page, as one archive, in place of the tables of all their numbers.

    Returns:
        The page: the HTML file, or the Markdown file if only that was asked for.

    Raises:
        AltpropError: a folder is missing or holds no record, a format is unknown, no learner has the name of the
            reference, or `out` cannot be written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise AltpropError(f"unknown report format {', '.join(unknown) or 'none'}: choose from {', '.join(FORMATS)}")
    folders = [Path(folder) for folder in runs]
    report = read(folders, title, keys, reference)
    context = assemble(report) | {"packed": packed}
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write_figures(out / "figures", context["files"])
        if packed:
            pack(folders, out, keys)
        else:
            _write_data(out, folders, keys)
        (out / "oracle_checks.csv").write_bytes(as_csv(context["oracle_checks"]))
        for name in formats:
            (out / f"report.{name}").write_text(render(context, name), encoding="utf-8")
    except OSError as error:
        raise AltpropError(f"the report cannot be written to {str(out)!r}: {error.strerror or error}") from error
    return out / f"report.{'html' if 'html' in formats else 'md'}"


def assemble(report: Report) -> dict[str, Any]:
    """Everything that the templates need, computed once for all formats."""
    found = checks(report)
    scale = gradient_scale(report)
    oracle_checks = verified(report)
    small = len(report.runs) <= LAYERS_UP_TO
    workloads = [_workload(report, table, found, oracle_checks, scale, small) for table in report.tables]
    pooled = across(report)
    scale_bar = scale_figure(scale) if scale else None
    broken = failures(report)
    figures = list(_figures(workloads, pooled, scale_bar))
    return {
        "report": report,
        "tally": tally(report),
        "matrix": matrix(report),
        "workloads": workloads,
        "across": pooled,
        "scale": scale_bar,
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
        "probe_columns": WHOLE_COLUMNS,
        "layer_columns": LAYER_COLUMNS,
        "files": [figure for figure in figures if figure.name],
    }


def _workload(
    report: Report, table: Table, found: list[Check], oracle_checks: list[Verified], scale: Any, with_layers: bool
) -> Workload:
    results = rows(report, table)
    costs = cost_rows(report, table)
    found_trials = searched(report, table)
    planes = [pareto(report, table, "flops", "FLOPs"), pareto(report, table, "saved_bytes", "bytes saved for backward")]
    if table.timing is not None and table.timing.complete:
        planes.append(pareto(report, table, "cpu_seconds", "CPU-seconds"))
    return Workload(
        table=table,
        rows=results,
        verdict=conclude(report, table, results, problems(found, table.workload) + doubts(oracle_checks, table)),
        dots=dots(report, table, results),
        views=views(report, table),
        health=examine(report, table),
        heat=heat_maps(report, table, scale),
        alignment=alignments(report, table),
        overlays=overlays(report, table),
        costs=costs,
        paretos=[figure for figure in planes if figure is not None],
        breakdown=breakdown(table, costs),
        time_breakdown=time_breakdown(report, table),
        tuned=beside(report, table),
        searched=found_trials,
        ks=steps_of_k(found_trials),
        best=best_figures(table, found_trials),
        sensitivity=sensitivity(table, found_trials),
        spreads=spreads(report, table),
        pages=[run_page(table, run, with_layers) for name in table.runs for run in table.tried(name)],
    )


def _figures(workloads: Iterable[Workload], pooled: Across | None, scale: Figure | None) -> Iterator[Figure]:
    for one in workloads:
        yield from [figure for figure in (one.dots, one.breakdown, one.time_breakdown) if figure is not None]
        for view in one.views:
            yield from view.overview
            yield from view.incidence
        yield from one.overlays
        yield from one.paretos
        yield from one.best
        yield from one.sensitivity
    yield from pooled.figures if pooled else []
    yield from [scale] if scale else []


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
