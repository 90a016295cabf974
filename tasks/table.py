"""A table of yours: one column predicted from the others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from altprop import AltpropError, Source, UnusableData, check_number, check_whole
from altprop.checks import check_table
from altprop.randomness import generator_for
from altprop.tables import Cells, Column, Table, open_table
from altprop.tasks.common import Array, sha256_of, split_of, standardise
from altprop.tasks.own_data import OwnDataTask, Prepared, class_numbers, split_rows

_NO_VALUE = "(missing)"


class TableTask(OwnDataTask):
    """A CSV file, `task.path`, of which the column `task.target` is predicted.

    Numbers are standardised by the rows that may be trained on, and so is a quantity to predict. Each text of a column
    is an input of 0 or 1, if it occurs in those rows.

    Args:
        path: of the file: names in the first line, separated by commas, semicolons or tabs, plain or .gz.
        target: the column to predict.
        kind: classification, regression, or auto: texts and whole numbers of at most 20 values are classes.
        missing: what is done where an input lacks a value: fill (the mean of the rows that may be trained on; for text
            a value of its own), drop (the line), error.
        text: what is done with text: onehot, drop (the column), error.
        drop: columns to leave out, such as a number of the line.
        group: a column whose equal values are kept in one split, such as a patient; it is no input.
        time: a column by which lines are ordered, numbers or ISO dates: the last ones are the test set, the last of the
            others are held out; it is no input.
        test_share: of the lines that are the test set.
        test_seed: of its draw.
        metric: see `OwnDataTask`.
        common: see `Task`.

    Raises:
        AltpropError: for what cannot be learned from, with the option that mends it.
    """

    def __init__(
        self,
        *,
        path: str,
        target: str,
        kind: str = "auto",
        missing: str = "error",
        text: str = "error",
        drop: Sequence[str] = (),
        group: str | None = None,
        time: str | None = None,
        test_share: float = 0.3,
        test_seed: int = 0,
        metric: str | None = None,
        **common: Any,
    ) -> None:
        check_table(path, target, kind, missing, text, drop, group, time)
        check_number(test_share, "task.test_share", above=0, below=1)
        check_whole(test_seed, "task.test_seed", 0)
        if group is not None and time is not None:
            raise AltpropError("task.group and task.time ask for two splits; give one of them")
        table = open_table(str(path), str(target), kind, missing, text, [str(one) for one in drop], group, time)
        super().__init__(_prepared(table, str(path), test_share, test_seed), metric, **common)


@cache
def _prepared(table: Table, path: str, test_share: float, test_seed: int) -> Prepared:
    lines = np.array(table.rows, dtype=np.int64)
    labels: Array | None = None
    values = [table.target.cells[row] for row in table.rows]
    if table.classes:
        labels = class_numbers(values, table.classes)
    train, test = _splits(table, lines, test_share, test_seed, labels)
    x_train, x_test = _inputs(table, lines[train], lines[test])
    deviation = 1.0
    if labels is not None:
        y_train, y_test = labels[train], labels[test]
    else:
        quantity = np.array(values, dtype=np.float64)[:, None]
        y_train, y_test = standardise(quantity[train], quantity[test])
        deviation = float(quantity[train].std()) or 1.0
    rows = split_of(x_train, y_train, lines[train])
    outputs = len(table.classes) or 1
    what = f"{outputs} classes" if table.classes else "a quantity"
    source = Source(
        rows,
        {"test": split_of(x_test, y_test, lines[test])},
        f"{Path(path).name}: {len(lines)} lines, {x_train.shape[1]} inputs; {table.target.name} ({what}) is predicted",
        sha256_of(x_train, y_train, x_test, y_test),
        stratify=rows.targets if table.classes else None,
        ordered=table.time is not None,
        groups=None if table.group is None else torch.from_numpy(_numbered(table.group)[lines[train]]),
        files=(path,),
    )
    return Prepared(source, (x_train.shape[1],), outputs, tuple(map(_name, table.classes)), deviation)


def _splits(table: Table, lines: Array, share: float, seed: int, labels: Array | None) -> tuple[Array, Array]:
    """Return the places among the lines that may be trained on, and those of the test set."""
    if table.time is not None:
        order = np.argsort(np.array([table.time[line] for line in lines]), kind="stable")
        cut = len(lines) - min(max(1, round(share * len(lines))), len(lines) - 1)
        return order[:cut], order[cut:]
    if table.group is None:
        return split_rows(len(lines), share, "table", seed, labels)
    groups = _numbered(table.group)[lines]
    names = np.unique(groups)
    if len(names) < 3:
        raise UnusableData(f"task.group names {len(names)} groups; training, validation and test need one each")
    order = names[torch.randperm(len(names), generator=generator_for(seed, "table", "test groups")).numpy()]
    sizes = np.array([(groups == name).sum() for name in order])
    count = min(int((sizes.cumsum() - sizes < share * len(lines)).sum()), len(names) - 2)
    held = np.isin(groups, order[:count])
    return np.flatnonzero(~held), np.flatnonzero(held)


def _numbered(cells: Cells) -> Array:
    """Return a number for each cell, equal for equal ones, (N,) int64."""
    return np.unique(np.array([str(cell) for cell in cells]), return_inverse=True)[1].astype(np.int64)


def _inputs(table: Table, train: Array, test: Array) -> tuple[Array, Array]:
    """Return the inputs of the lines to train on and of the test lines, (N, F)."""
    parts = [_encoded(column, train, test) for column in table.inputs]
    return np.concatenate([part[0] for part in parts], 1), np.concatenate([part[1] for part in parts], 1)


def _encoded(column: Column, train: Array, test: Array) -> tuple[Array, Array]:
    if column.is_text:
        texts = np.array([_NO_VALUE if cell is None else cell for cell in column.cells])
        known = np.unique(texts[train])
        return texts[train][:, None] == known, texts[test][:, None] == known
    numbers = np.array([np.nan if cell is None else cell for cell in column.cells], dtype=np.float64)
    present = numbers[train][~np.isnan(numbers[train])]
    filled = np.where(np.isnan(numbers), present.mean() if len(present) else 0.0, numbers)[:, None]
    first, second = standardise(filled[train], filled[test])
    return first, second


def _name(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
