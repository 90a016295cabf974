"""Names of learners: two settings of one learner in one workload are two learners, named by what differs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from altprop.records.record import Record

_NOT_SETTINGS = ("seed", "seeds", "runs_dir", "hydra", "logger", "trainer", "timeout", "isolate")


def name_variants(records: Sequence[Record]) -> dict[str, str]:
    """Run key -> name of its learner.

    That is the label, unless one workload holds several cells of that label: then "label [what=value]" with
    the settings in which those cells differ, or the cell's hash where no setting tells them apart.
    """
    cells: dict[tuple[str, str], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        cells[record.label, record.workload][str(record.data.get("cell") or "")].append(record)
    names: dict[str, str] = {}
    for (label, _), by_cell in cells.items():
        suffixes = _suffixes({cell: group[0] for cell, group in by_cell.items()})
        for cell, group in by_cell.items():
            for record in group:
                names[record.key] = f"{label} {suffixes[cell]}".strip()
    return names


def _suffixes(cells: Mapping[str, Record]) -> dict[str, str]:
    if len(cells) < 2:
        return dict.fromkeys(cells, "")
    settings = {cell: flatten(record.data["config"], without=_NOT_SETTINGS) for cell, record in cells.items()}
    paths = sorted({path for flat in settings.values() for path in flat})
    differing = [path for path in paths if len({repr(flat.get(path)) for flat in settings.values()}) > 1]
    texts = {
        cell: "[" + ", ".join(f"{path.rsplit('.', 1)[-1]}={_written(flat.get(path))}" for path in differing[:3]) + "]"
        for cell, flat in settings.items()
    }
    if differing and len(set(texts.values())) == len(texts):
        return texts
    return {cell: f"[{cell[:8] or 'no cell'}]" for cell in cells}


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def flatten(config: Mapping[str, Any], prefix: str = "", without: Sequence[str] = ()) -> dict[str, Any]:
    """Settings by dotted path, some names at the top left out.

    >>> flatten({"optimizer": {"lr": 0.1}, "seed": 3}, without=["seed"])
    {'optimizer.lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if not prefix and name in without:
            continue
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
