"""Everything that was recorded, read back as two data frames: one row a run, and the traces in long form."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altprop.errors import AltpropError
from altprop.records.folders import Folders, record_folders
from altprop.records.record import Record, UnreadableRecordError, committed, read_record

if TYPE_CHECKING:
    import pandas as pd


_AXES = ("algorithm", "optimizer", "dropout", "task", "model")
_OF_ONE_DATA = ("examples", "hidden")
"""Options of a task that make workloads of one data set: how many rows are kept, and the widths of its own net."""
_COUNTS = ("steps", "samples", "forwards", "backwards", "hvps", "evaluations")
_MORE_COUNTS = ("updates", "jvps", "environment_steps", "episodes")
# Column -> where its value lies in the record, and its kind. The first 24 are a promise to scripts: append only.
_RUN_COLUMNS: dict[str, tuple[str, str]] = {
    "key": ("key", "text"),
    "label": ("label", "text"),
    **{axis: (f"axes.{axis}", "text") for axis in _AXES},
    "seed": ("seed", "count"),
    "status": ("status", "text"),
    "reason": ("reason", "text"),
    "metric": ("result.metric", "text"),
    "test": ("result.test", "number"),
    "validation": ("result.validation", "number"),
    **{name: (f"result.ledger.{name}", "count") for name in _COUNTS},
    "flops": ("result.ledger.flops", "number"),
    "saved_bytes": ("measured.saved_bytes", "count"),
    "live_bytes": ("measured.live_bytes", "count"),
    "cpu_seconds": ("measured.cpu_seconds", "number"),
    "wall_seconds": ("measured.wall_seconds", "number"),
    "workload": ("workload", "text"),
    "cell": ("cell", "text"),
    "higher_is_better": ("result.higher_is_better", "flag"),
    "reference": ("reference", "flag"),
    "control": ("control", "flag"),
    "test_best": ("result.test_best", "number"),
    "validation_best": ("result.validation_best", "number"),
    "chance": ("result.chance", "number"),
    "oracle": ("result.oracle", "number"),
    "forward_equivalents": ("result.ledger.forward_equivalents", "number"),
    **{name: (f"result.ledger.{name}", "count") for name in _MORE_COUNTS},
    "flops_residual": ("result.flops_residual", "number"),
    "parameters": ("result.parameters", "count"),
    "own_model": ("result.own_model", "flag"),
    "predictor": ("result.predictor", "text"),
    "last_finite_step": ("result.last_finite_step", "count"),
    "budget_currency": ("result.budget.currency", "text"),
    "budget_amount": ("result.budget.amount", "number"),
    "budget_spent": ("result.budget.spent", "number"),
    "state_bytes": ("measured.state_bytes", "count"),
    "probe_seconds": ("measured.probe_seconds", "number"),
    "evaluation_seconds": ("measured.evaluation_seconds", "number"),
    "started": ("measured.started", "any"),
    "finished": ("measured.finished", "any"),
    "host": ("measured.host", "text"),
    "fingerprint": ("provenance.fingerprint", "text"),
    "traceback": ("traceback", "text"),
    "rerun": ("rerun", "text"),
    "targets": ("result.targets", "any"),
    "hits": ("result.hits", "any"),
    "baselines": ("result.baselines", "any"),
    "test_metrics": ("result.test_metrics", "any"),
    "train_metrics": ("result.train_metrics", "any"),
    "sizes": ("result.sizes", "any"),
    "flops_by_kind": ("result.flops_by_kind", "any"),
    "uncounted_ops": ("result.uncounted_ops", "any"),
    "identity": ("result.identity", "any"),
    "config": ("config", "any"),
    "provenance": ("provenance", "any"),
    "folder": ("", "text"),
    "role": ("role", "text"),
    "trial": ("trial.index", "count"),
    "tests": ("result.tests", "any"),
    "matrix": ("result.matrix", "any"),
    "validation_matrix": ("result.validation_matrix", "any"),
}
RUN_COLUMNS = tuple(_RUN_COLUMNS)
"""The columns of `load`, in order."""

_TRACE_COLUMNS: dict[str, str] = {
    **dict.fromkeys(("key", "label", "workload"), "text"),
    "seed": "count",
    "kind": "text",
    "split": "text",
    "step": "count",
    "fraction": "number",
    "flops": "number",
    "cpu_seconds": "number",
    "layer": "text",
    "name": "text",
    "value": "number",
    "text": "text",
    **dict.fromkeys(("grid", "samples", "forward_equivalents", "evaluations"), "number"),
}
TRACE_COLUMNS = tuple(_TRACE_COLUMNS)
"""The columns of `load_trace`, in order."""
_RECORDED = ("kind", "split", "step", "fraction", "flops", "grid", "samples", "forward_equivalents", "evaluations")


def load(runs: Folders = "runs") -> pd.DataFrame:
    """Return one row for each recorded run, sorted by workload, label, seed and key.

    What a record does not hold (a refused run has no test value) is missing: NaN, pandas' NA for counts, None for text.
    The columns `targets` to `provenance` hold dictionaries, as recorded.

    Args:
        runs: A folder of records, one run's folder, a published report or its archive (`records.tar.xz`), or several of
            these. Of two records of one key the later folder's wins only if it is final.

    Returns:
        The columns `RUN_COLUMNS`; `attrs["unreadable"]` lists a sentence for each record that was passed over.

    Raises:
        AltpropError: A folder does not exist.
    """
    records, unreadable = read_all(runs)
    rows = [_run_row(record) for record in records]
    kinds = {name: kind for name, (_, kind) in _RUN_COLUMNS.items()}
    return _frame(_columns(RUN_COLUMNS, rows), kinds, unreadable)


def load_trace(runs: Folders = "runs") -> pd.DataFrame:
    """Return the evaluations, training losses and probes of all runs, one number a row.

    `name` says what `value` is: a metric of an evaluation of `split`; `loss` or a scalar of training (the last of a
    block of steps; with `_mean` its mean over the block); a probe's quantity, of the whole model or the learner's own
    (`layer` missing) or of a layer. A verdict in words stands in `text` with `value` missing; a probe that could not be
    taken is one row named `note`. `cpu_seconds` of the learner are interpolated between the evaluations, where they are
    measured.

    Args:
        runs: As for `load`.

    Returns:
        The columns `TRACE_COLUMNS`, in the order of `load` and, within a run, as recorded; `attrs` as for `load`.
    """
    import numpy as np

    records, unreadable = read_all(runs)
    places: list[tuple[Any, ...]] = []  # One a trace row, which holds many values: repeated at the end, in one go.
    values: list[tuple[Any, ...]] = []
    counts: list[int] = []
    for record in records:
        try:
            rows, seconds = record.trace(), _seconds(record.clock())
        except UnreadableRecordError as error:
            unreadable.append(str(error))
            continue
        head = (record.key, record.label, record.workload, record.seed)
        for row in rows:
            before = len(values)
            values.extend(_values(row))
            counts.append(len(values) - before)
            places.append((*head, *map(row.get, _RECORDED), seconds(row.get("step"))))
    where = (*TRACE_COLUMNS[:4], *_RECORDED, "cpu_seconds")
    frame = _frame(_columns(where, places), {name: _TRACE_COLUMNS[name] for name in where}, [])
    frame = frame.iloc[np.repeat(np.arange(len(frame)), counts)].reset_index(drop=True)
    what = ("layer", "name", "value", "text")
    details = _frame(_columns(what, values), {name: _TRACE_COLUMNS[name] for name in what}, [])
    for name in what:
        frame[name] = details[name]
    frame = frame[list(TRACE_COLUMNS)]
    frame.attrs["unreadable"] = unreadable
    return frame


def read_all(runs: Folders = "runs") -> tuple[list[Record], list[str]]:
    """Return the merged records of `runs`, in the order of `load`, and a sentence for each unreadable one.

    A workload that was run on several data sets, as after a change of its file, or with several nets of its task's own,
    is as many workloads: each is named by the options of its task that tell them apart, or else by its data, so that
    nothing pools them.
    """
    merged: dict[str, Record] = {}
    unreadable: list[str] = []
    for folder in record_folders(runs):
        for record in _readable(folder, unreadable):
            if record.key not in merged or record.status.final:
                merged[record.key] = record
    named = _by_data(merged.values())
    return sorted(named, key=lambda run: (run.workload, run.label, run.seed, run.key)), unreadable


def _by_data(records: Collection[Record]) -> list[Record]:
    """Name workloads of one name and several data sets: by the task's options where these tell them apart."""
    data: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in records:
        if record.data_digest:
            data[record.workload].setdefault(_rows(record), record)
    names = {
        (workload, rows): f"{workload}{suffix}"
        for workload, found in data.items()
        if len(found) > 1
        for rows, suffix in _told_apart(found).items()
    }
    return [
        replace(record, data={**record.data, "workload": names[record.workload, _rows(record)]})
        if (record.workload, _rows(record)) in names
        else record
        for record in records
    ]


def _rows(record: Record) -> str:
    """Return what tells which workload a record is of: its data, how many rows were kept, and the task's own net."""
    task = _task(record)
    kept = {name: task[name] for name in _OF_ONE_DATA if task.get(name) is not None}
    return f"{record.data_digest} {json.dumps(kept, sort_keys=True)}"


def _told_apart(found: Mapping[str, Record]) -> dict[str, str]:
    """Return rows -> what is said of them: "[length=50, quiet=20]", "[hidden=4x32]", or a part of the data's digest."""
    one_data = len({record.data_digest for record in found.values()}) == 1
    options = {
        rows: {name: _task(record).get(name) for name in _OF_ONE_DATA} if one_data else _task_options(record)
        for rows, record in found.items()
    }
    names = sorted({name for each in options.values() for name in each})
    differing = [name for name in names if len({repr(each.get(name)) for each in options.values()}) > 1]
    said = {
        rows: f"[{', '.join(f'{name}={_written(name, each[name])}' for name in differing if name in each)}]"
        for rows, each in options.items()
    }
    told = bool(differing) and len(set(said.values())) == len(said)
    return said if told else {rows: f" (data {record.data_digest[:8]})" for rows, record in found.items()}


def _written(name: str, value: Any) -> str:
    """Return an option as it stands in a name: equal widths as "4x32", all rows as "all"."""
    if name == "hidden" and isinstance(value, list) and len(value) > 1 and len(set(value)) == 1:
        return f"{len(value)}x{value[0]}"
    return "all" if name == "examples" and value is None else str(value)


def _task(record: Record) -> dict[str, Any]:
    return (record.data.get("config") or {}).get("task") or {}


def _task_options(record: Record) -> dict[str, Any]:
    """Return the options of a record's task that may change its data."""
    task = _task(record)
    irrelevant = {"name", "irrelevant", *(task.get("irrelevant") or ())}
    return {name: value for name, value in task.items() if name not in irrelevant}


def _readable(folder: Path, unreadable: list[str]) -> Iterator[Record]:
    if not folder.is_dir():
        raise AltpropError(f"there is no folder of records {str(folder)!r}")
    try:
        places: Iterable[Path] = [folder] if (folder / "record.json").is_file() else sorted(committed(folder))
    except OSError as error:
        raise AltpropError(f"the folder of records {str(folder)!r} cannot be read: {error.strerror}") from error
    for place in places:
        try:
            record = read_record(place.absolute() if place == folder else place)
        except UnreadableRecordError as error:
            unreadable.append(str(error))
            continue
        if record is not None:
            yield record


def _run_row(record: Record) -> list[Any]:
    row = []
    for path, _ in _RUN_COLUMNS.values():
        value: Any = record.data if path else str(record.folder)
        for part in path.split(".") if path else ():
            value = value.get(part) if isinstance(value, dict) else None
        row.append(value)
    return row


def _seconds(clock: list[dict[str, Any]]) -> Callable[[Any], float | None]:
    """Return step -> the learner's CPU seconds, linear between the rows of the clock, None beyond them."""
    known = {0: 0.0} | {row["step"]: row["cpu_seconds"] for row in clock if row.get("cpu_seconds") is not None}
    steps = sorted(known)

    def at(step: Any) -> float | None:
        if step is None or step > steps[-1]:
            return None
        right = steps[bisect_left(steps, step)]
        if right == step:
            return float(known[right])
        left = steps[bisect_left(steps, step) - 1]
        return float(known[left] + (known[right] - known[left]) * (step - left) / (right - left))

    return at


def _values(row: dict[str, Any]) -> Iterator[tuple[str | None, str, float | None, str | None]]:
    """Yield (layer, name, value, text) for everything that a trace row holds."""
    # Where a learner's own diagnostic has the name of a basic one, the basic one is meant.
    whole = {
        name: value for kind in ("own", "metrics", "values", "scalars") for name, value in row.get(kind, {}).items()
    }
    whole |= {f"{name}_mean": value for name, value in row.get("scalar_means", {}).items()}
    if row.get("loss") is not None:
        whole["loss"] = row["loss"]
    if row.get("note") is not None:
        whole["note"] = row["note"]
    layers: dict[str, dict[str, Any]] = row.get("layers", {})
    for layer, values in ((None, whole), *layers.items()):
        for name, value in values.items():
            if isinstance(value, str):
                yield layer, name, None, value
            else:
                yield layer, name, _number(value), None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _count(value: Any) -> int | None:
    return round(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _columns(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Sequence[Any]]:
    return dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}


def _frame(columns: dict[str, Sequence[Any]], kinds: dict[str, str], unreadable: list[str]) -> pd.DataFrame:
    import pandas as pd

    text = "str" if int(pd.__version__.split(".")[0]) >= 3 else "object"
    types = {"text": text, "count": "Int64", "number": "float64", "flag": "boolean", "any": "object"}
    clean: dict[str, Callable[[Any], Any]] = {"count": _count, "number": _number, "flag": _flag}
    series = {}
    for name, kind in kinds.items():
        values = columns.get(name, ())
        series[name] = pd.Series(
            [clean[kind](value) for value in values] if kind in clean else list(values), dtype=types[kind]
        )
    frame = pd.DataFrame(series)
    frame.attrs["unreadable"] = unreadable
    return frame
