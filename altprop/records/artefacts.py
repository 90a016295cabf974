"""What a learner leaves beside its numbers (a Pareto front, a tree, a map), kept as files that any tool can open."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from altprop.errors import AltpropError
from altprop.records import encode, files


def encoded(values: Mapping[str, Any]) -> dict[str, bytes]:
    r"""Return file name -> content for named values.

    Text and bytes are kept as they are, arrays and tensors become `.npy` (never pickled), data frames and mappings of
    equally long columns `.csv`, everything else `.json`.

    Args:
        values: Name -> value; a name with a suffix keeps it for text and bytes.

    Raises:
        ValueError: A name would leave the folder, or an array holds objects.
        TypeError: A value that none of these formats holds.

    >>> encoded({"front": {"size": [1, 2], "error": [0.5, 0.25]}})
    {'front.csv': b'size,error\n1,0.5\n2,0.25\n'}
    """
    try:
        return dict(_one(files.check_name(name, "artefact name"), value) for name, value in values.items())
    except AltpropError as error:  # The learner's mistake, not the user's: it ends this run alone.
        raise ValueError(str(error)) from error


def _one(name: str, value: Any) -> tuple[str, bytes]:
    if isinstance(value, bytes):
        return name, value
    if isinstance(value, str):
        return (name if "." in name else f"{name}.txt"), value.encode()
    if hasattr(value, "to_csv"):
        return f"{name}.csv", value.to_csv(index=False, lineterminator="\n").encode()
    if getattr(value, "shape", ()) != ():
        return f"{name}.npy", _npy(value)
    if isinstance(value, Mapping) and value and all(isinstance(column, (list, tuple)) for column in value.values()):
        columns = {key: encode.plain(column, f"{name}.{key}") for key, column in value.items()}
        if len({len(column) for column in columns.values()}) == 1:
            return f"{name}.csv", _csv(columns)
    return f"{name}.json", encode.dump_record({"value": value})


def _csv(columns: Mapping[str, list[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def _npy(value: Any) -> bytes:
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(value), allow_pickle=False)
    return buffer.getvalue()


def write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Make `contents`, from `encoded`, the artefacts of the run in `folder`; those of an earlier attempt go."""
    target = folder / "artefacts"
    if contents or target.is_dir():
        files.make_folder(target)
        for name, data in contents.items():
            files.write_durably(target / name, data)
        for path in target.iterdir():
            if path.name not in contents:
                path.unlink()
        files.sync_folder(target)


def found(folder: Path) -> dict[str, Path]:
    """Return name -> file of the artefacts in a run's folder, sorted by name."""
    inside = folder / "artefacts"
    if not inside.is_dir():
        return {}
    return {path.stem: path for path in sorted(inside.iterdir()) if not path.name.startswith(".")}


def read(path: Path) -> Any:
    """Open an artefact: `.npy` as an array, `.csv` as a data frame, `.json` as it was, `.txt` as text, else bytes."""
    if path.suffix == ".npy":
        import numpy as np

        return np.load(path, allow_pickle=False)
    if path.suffix == ".csv":
        import pandas as pd

        return pd.read_csv(path)
    if path.suffix == ".json":
        return encode.revive(json.loads(path.read_bytes())["value"])
    return path.read_text() if path.suffix == ".txt" else path.read_bytes()
