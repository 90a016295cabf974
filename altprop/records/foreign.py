"""Runs of other tools as records: a table in long form, or a folder of TensorBoard event files.

The long form has a row a value, with the columns learner, seed, metric and value; step, task and split where there are
several, and seconds, samples and flops up to there where they are known. `higher_is_better` says which way a metric
counts whose name does not tell. What is not there is not recorded.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altprop.errors import AltpropError
from altprop.records import encode
from altprop.records.event_files import EVENTS, read_events

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Endings of the tables that are read."""
REQUIRED = ("learner", "seed", "metric", "value")
COSTS = ("seconds", "samples", "flops")
_HIGHER = ("acc", "f1", "auc", "r2", "return", "reward", "score", "precision", "recall", "bleu", "dice", "iou", "top")
_LOWER = ("loss", "err", "mse", "mae", "rmse", "nll", "perplexity", "ppl", "regret", "cost", "fid", "divergence")
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "eval", "dev"), "validation"),
    "test": "test",
}
_SEED = re.compile(r"^(?:seed|run|version|trial)?[-_=]?(\d+)$")


def is_foreign(path: Path) -> bool:
    """Return whether a path is a table of runs, or a folder that holds event files and no records."""
    if path.name.endswith(SUFFIXES):
        return True
    return path.is_dir() and next(path.glob("*/record.json"), None) is None and any(path.rglob(EVENTS))


def version_of(path: Path) -> tuple[tuple[int, int], ...]:
    """Return what tells the files of a path from those that took their place."""
    files = sorted(path.rglob(EVENTS)) if path.is_dir() else [path] if path.exists() else []
    return tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in files)


def convert(path: Path, folder: Path) -> None:
    """Write the runs of a table or of event files into a folder of records.

    Raises:
        AltpropError: for what cannot be read as runs.
    """
    name = path.name.partition(".")[0] if path.is_file() else path.name
    rows = _from_events(path) if path.is_dir() else _rows(_table(path), str(path))
    write_records(rows, name, folder, str(path))


def convert_frame(frame: pd.DataFrame, folder: Path) -> None:
    """Write the runs of a data frame in long form into a folder of records.

    Raises:
        AltpropError: for what cannot be read as runs.
    """
    write_records(_rows(frame, "the frame"), "runs", folder, "the frame")


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if path.name.endswith(".parquet"):
            return pd.read_parquet(path)
        if path.name.endswith((".jsonl", ".ndjson")):
            return pd.read_json(path, lines=True)
        return pd.read_csv(path, sep="\t" if path.name.endswith(".tsv") else ",")
    except FileNotFoundError as error:
        raise AltpropError(f"there is no file {path}") from error
    except ImportError as error:
        raise AltpropError(
            f"{path} needs a package that reads parquet: pip install pyarrow, or save it as CSV"
        ) from error
    except (OSError, ValueError) as error:
        raise AltpropError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from error


def _rows(frame: pd.DataFrame, where: str) -> list[dict[str, Any]]:
    """Return the rows of a frame in long form, checked."""
    import pandas as pd

    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        raise AltpropError(
            f"{where} needs the columns {', '.join(REQUIRED)}, and step, task, split, {', '.join(COSTS)} where they "
            f"are known; {', '.join(missing)} is missing, it has {', '.join(map(str, frame.columns))}"
        )
    if frame.empty:
        raise AltpropError(f"{where} has no rows")
    rows = frame.to_dict("records")
    for place, row in enumerate(rows, 1):
        empty = next((name for name in ("learner", "metric") if pd.isna(row[name])), None)
        if empty is not None:
            raise AltpropError(f"{where}: row {place} has no {empty}")
        for name in ("seed", "step", "value", *COSTS):
            value = row.get(name, 0)
            if not isinstance(value, (int, float)):
                raise AltpropError(f"{where}: {name} of row {place} must be a number; got {value!r}")
            if name in ("seed", "step") and not float(value).is_integer():
                raise AltpropError(f"{where}: {name} of row {place} must be a whole number; got {value!r}")
    return [
        {str(name): value for name, value in row.items() if name == "value" or not pd.isna(value)}  # a gap is not there
        for row in rows
    ]


def _from_events(path: Path) -> list[dict[str, Any]]:
    """Return the scalars of event files: FOLDER/task/learner/seed, FOLDER/learner/seed or FOLDER/learner."""
    rows: list[dict[str, Any]] = []
    for file in sorted(path.rglob(EVENTS)):
        parts = list(file.parent.relative_to(path).parts)
        seed = _SEED.match(parts[-1]) if parts else None
        names = parts[:-1] if seed else parts
        own = {"learner": names[-1] if names else path.name, "seed": int(seed[1]) if seed else 0}
        own |= {"task": "/".join(names[:-1])} if len(names) > 1 else {}
        events = read_events(file)
        start = min((event.time for event in events), default=0.0)
        for event in events:
            split, metric = _of_tag(event.tag)
            where = {"split": split, "metric": metric, "step": event.step, "seconds": event.time - start}
            rows.append({**own, **where, "value": event.value})
    if not rows:
        raise AltpropError(f"the event files in {path} hold no scalars")
    return rows


def _of_tag(tag: str) -> tuple[str, str]:
    """Return the split and the metric that a tag names.

    >>> _of_tag("val/accuracy"), _of_tag("train_loss"), _of_tag("accuracy")
    (('validation', 'accuracy'), ('train', 'loss'), ('validation', 'accuracy'))
    """
    words = re.split(r"[/_]", tag)
    known = next((word for word in (words[0], words[-1]) if word.lower() in _SPLITS), None)
    if known is None or len(words) == 1:
        return "validation", tag
    rest = words[1:] if words[0] == known else words[:-1]
    return _SPLITS[known.lower()], "_".join(rest)


def write_records(rows: Iterable[Mapping[str, Any]], name: str, folder: Path, where: str) -> None:
    """Write a record for each learner, task and seed.

    Args:
        rows: in long form.
        name: of the task where none is given.
        folder: to write to.
        where: the rows come from, for sentences.

    Raises:
        AltpropError: where a value is there twice, or nobody can tell which way a metric counts.
    """
    runs: dict[tuple[str, str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        runs[str(row.get("task") or name), str(row["learner"]), int(row["seed"])].append(row)
    for task in sorted({task for task, *_ in runs}):
        own = {key: found for key, found in runs.items() if key[0] == task}
        metric = _leading([row for found in own.values() for row in found])
        every = [row for found in own.values() for row in found if row["metric"] == metric]
        higher = _is_higher(metric, every, where)
        longest = max(_step(row) for found in own.values() for row in found)
        for (_, learner, seed), found in sorted(own.items()):
            _write_run(folder, (task, learner, seed), found, (metric, higher, longest), where)


def _step(row: Mapping[str, Any]) -> int:
    return int(row.get("step", 1))


def _leading(rows: list[Mapping[str, Any]]) -> str:
    """Return the metric that leads: the first that is no loss, or else the first."""
    names = list(dict.fromkeys(str(row["metric"]) for row in rows))
    return next((name for name in names if "loss" not in name.lower()), names[0])


def _is_higher(metric: str, rows: list[Mapping[str, Any]], where: str) -> bool:
    said = {bool(row["higher_is_better"]) for row in rows if row.get("higher_is_better") in (True, False, 0, 1)}
    if len(said) == 1:
        return said.pop()
    low = metric.lower()
    if any(word in low for word in _LOWER):
        return False
    if any(word in low for word in _HIGHER):
        return True
    raise AltpropError(
        f"{where}: is more of {metric} better? Add a column higher_is_better with true or false to its rows"
    )


def _write_run(
    folder: Path,
    names: tuple[str, str, int],
    rows: list[Mapping[str, Any]],
    facts: tuple[str, bool, int],
    where: str,
) -> None:
    (task, learner, seed), (metric, higher, longest) = names, facts
    points: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        split = str(row.get("split") or "validation").lower()
        step = _step(row)
        point = points.setdefault((_SPLITS.get(split, split), step), {"metrics": {}})
        if row["metric"] in point["metrics"]:
            raise AltpropError(
                f"{where}: {row['metric']} of {learner} on {task}, seed {seed}, is there twice at step {step}"
            )
        point["metrics"][str(row["metric"])] = _finite(row["value"])
        point |= {cost: float(row[cost]) for cost in COSTS if _finite(row.get(cost)) is not None}
    trace, clock = [], []
    for (split, step), point in sorted(points.items(), key=lambda one: (one[0][1], one[0][0])):
        share = step / longest if longest else 1.0
        costs: dict[str, Any] = {cost: point[cost] for cost in ("samples", "flops") if cost in point}
        kept = {"split": split, "step": step, "fraction": share, "grid": share, **costs}
        trace.append({"kind": "evaluation", **kept, "metrics": point["metrics"]})
        clock += [{"step": step, "cpu_seconds": point["seconds"]}] if "seconds" in point else []
    last = {split: point["metrics"].get(metric) for (split, _), point in sorted(points.items())}
    ends: dict[str, Any] = {"steps": max(step for _, step in points)}
    for cost in COSTS:
        spent = [point[cost] for point in points.values() if cost in point]
        ends |= {cost: max(spent)} if spent else {}
    key = _digest(*names, trace, clock)[:32]
    data = {
        "schema": 1,
        "key": key,
        "cell": _digest(task, learner)[:16],
        "label": learner,
        "workload": task,
        "axes": {"algorithm": learner, "optimizer": "none", "dropout": "none", "task": task, "model": "not recorded"},
        "seed": seed,
        "status": "completed",
        "rerun": "",
        "traceback": None,
        "reason": f"It was read from {Path(where).name}.",
        "config": {"algorithm": {"name": learner}, "task": {"name": task}},
        "reference": any(row.get("reference") in (True, 1) for row in rows),
        "control": any(row.get("control") in (True, 1) for row in rows),
        "result": {
            "metric": metric,
            "higher_is_better": higher,
            "test": last.get("test"),
            "validation": last.get("validation", last.get("train")),
            "ledger": {name: ends[name] for name in ("steps", "samples", "flops") if name in ends},
            "budget": {"currency": "steps", "amount": longest, "spent": ends["steps"]},
        },
        "measured": {"cpu_seconds": ends["seconds"]} if "seconds" in ends else {},
        "provenance": {},
    }
    place = folder / key
    place.mkdir(parents=True, exist_ok=True)
    (place / "trace.jsonl").write_bytes(encode.dump_lines(trace))
    (place / "clock.jsonl").write_bytes(encode.dump_lines(clock))
    (place / "record.json").write_text(json.dumps(data))


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _finite(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else None
