"""Arrays of yours: inputs and targets in an .npz file, or in two .npy files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from altprop import Source, UnusableData, check_name, check_number, check_whole
from altprop.checks import KINDS, check_arrays
from altprop.own_files import find_arrays
from altprop.tables import MOST_CLASSES
from altprop.tasks.common import Array, sha256_of, split_of, standardise
from altprop.tasks.own_data import OwnDataTask, Prepared, class_numbers, split_rows


class ArraysTask(OwnDataTask):
    """Inputs (N, ...) and targets (N,) or (N, C) from numpy's files; nothing pickled is read.

    Rows (N, F) and quantities to predict are standardised by the rows that may be trained on; of inputs of more
    dimensions all values alike. Images (N, H, W) get a channel; with channels last say so.

    Args:
        path: of an .npz, or of an .npy that holds the inputs.
        inputs: name of the array; None takes x, inputs, data or x_train.
        target: name of the array, or the .npy file of the targets; None takes y, targets, labels or y_train. x_test and
            y_test beside x_train and y_train are the test set.
        kind: classification, regression, or auto: whole numbers of at most 20 values, and texts, are classes.
        channels_last: whether inputs are (N, H, W, C).
        test_share: of the rows that are the test set, where the file has none.
        test_seed: of its draw.
        metric: see `OwnDataTask`.
        common: see `Task`.

    Raises:
        AltpropError: for what cannot be learned from.
    """

    def __init__(
        self,
        *,
        path: str,
        inputs: str | None = None,
        target: str | None = None,
        kind: str = "auto",
        channels_last: bool = False,
        test_share: float = 0.3,
        test_seed: int = 0,
        metric: str | None = None,
        **common: Any,
    ) -> None:
        check_arrays(path, inputs, target)
        check_name(kind, "task.kind", KINDS)
        check_number(test_share, "task.test_share", above=0, below=1)
        check_whole(test_seed, "task.test_seed", 0)
        files = tuple(str(one) for one in (path, target) if one is not None and Path(str(one)).suffix == ".npy")
        stamps = tuple(Path(file).expanduser().stat().st_mtime_ns for file in files or (path,))
        names = (inputs, target)
        prepared = _prepared(str(path), names, kind, bool(channels_last), (test_share, test_seed), stamps)
        super().__init__(prepared, metric, **common)


@cache
def _prepared(
    path: str,
    names: tuple[str | None, str | None],
    kind: str,
    channels_last: bool,
    draw: tuple[float, int],
    stamps: tuple[int, ...],
) -> Prepared:
    arrays = _read(path, *names)
    x, y = arrays[0], arrays[1].squeeze(1) if arrays[1].ndim == 2 and arrays[1].shape[1] == 1 else arrays[1]
    if len(arrays) == 4:
        train, test = np.arange(len(x)), np.arange(len(x), len(x) + len(arrays[2]))
        x, y = np.concatenate([x, arrays[2]]), np.concatenate([y, arrays[3].reshape(len(arrays[3]), *y.shape[1:])])
    if len(x) != len(y) or len(x) < 3 or x.ndim < 2 or x.dtype.kind not in "iufb":
        raise UnusableData(
            f"{path}: inputs {x.shape} of {x.dtype} and targets {y.shape} do not go together; numbers (N, ...) and (N,)"
        )
    if not np.isfinite(x).all() or (y.dtype.kind == "f" and not np.isfinite(y).all()):
        raise UnusableData(f"{path} holds values that are not finite; fill them or leave their rows out")
    classes = _classes(path, y, kind)
    labels = class_numbers(y.tolist(), classes) if classes else None
    if len(arrays) == 2:
        train, test = split_rows(len(x), draw[0], "arrays", draw[1], labels)
    shaped = np.moveaxis(x, -1, 1) if channels_last else x[:, None] if x.ndim == 3 else x
    x_train, x_test = _scaled(shaped[train].astype(np.float64), shaped[test].astype(np.float64))
    deviation = 1.0
    if labels is not None:
        y_train, y_test = labels[train], labels[test]
    else:
        quantity = y.astype(np.float64).reshape(len(y), -1)
        y_train, y_test = standardise(quantity[train], quantity[test])
        deviation = float(quantity[train].std(0).mean()) or 1.0
    rows = split_of(x_train, y_train, train)
    outputs = len(classes) or y_train.shape[1]
    source = Source(
        rows,
        {"test": split_of(x_test, y_test, test)},
        f"{Path(path).name}: {len(x)} rows of {shaped.shape[1:]}, {outputs} {'classes' if classes else 'quantities'}",
        sha256_of(x_train, y_train, x_test, y_test),
        stratify=rows.targets if classes else None,
        files=(path,) if names[1] is None or not names[1].endswith(".npy") else (path, names[1]),
    )
    return Prepared(source, shaped.shape[1:], outputs, tuple(map(str, classes)), deviation)


def _read(path: str, inputs: str | None, target: str | None) -> list[Array]:
    """Return inputs and targets, and those of a test set where the file has them."""
    place = Path(path).expanduser()
    try:
        if place.suffix == ".npy":
            return [np.load(place), np.load(Path(str(target)).expanduser())]
        with np.load(place) as archive:
            found = find_arrays(archive.files, path, inputs, target)
            return [archive[name] for name in found if name is not None]
    except ValueError as error:
        raise UnusableData(f"{path} cannot be read: {error}") from error


def _classes(path: str, targets: Array, kind: str) -> tuple[Any, ...]:
    """Return the values of targets that are classes, () for quantities."""
    if targets.dtype.kind not in "iufbU":
        raise UnusableData(f"{path}: targets of {targets.dtype} are neither numbers nor texts")
    values = np.unique(targets)
    number = targets.dtype.kind != "U"
    whole = not number or (len(values) <= MOST_CLASSES and bool((values == np.round(values)).all()))
    if kind == "regression" or (kind == "auto" and not (whole and targets.ndim == 1)):
        if not number:
            raise UnusableData(f"{path}: the targets hold text; say task.kind=classification")
        return ()
    if targets.ndim != 1 or not 2 <= len(values) <= len(targets) / 2:
        raise UnusableData(f"{path}: targets {targets.shape} of {len(values)} values are no classes")
    return tuple(values.tolist())


def _scaled(train: Array, test: Array) -> tuple[Array, Array]:
    """Standardise each column of (N, F), and all values of more dimensions alike, by the training rows."""
    if train.ndim == 2:
        first, second = standardise(train, test)
        return first, second
    mean, deviation = train.mean(), train.std() or 1.0
    return (train - mean) / deviation, (test - mean) / deviation
