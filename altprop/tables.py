"""Tables of other people: a CSV file read into columns, and what of it can be learned from, told without torch.

What is wrong with a table is told in one sentence that names the option which mends it, before a run begins.
"""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from altprop.errors import AltpropError, near

MISSING = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})
"""Cells that hold no value, in lower case."""
MOST_CLASSES = 20
"""Whole numbers of so many values at most are taken for classes, more for a quantity."""
MOST_TEXTS = 50
"""Different texts of a column that become inputs, one each; more are names, and nothing is learned from names."""
Cells = tuple[float | None, ...] | tuple[str | None, ...]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: from the first line of the file.
        cells: one a row, None where there is no value: numbers, or texts where one of them is no number.
    """

    name: str
    cells: Cells

    @property
    def is_text(self) -> bool:
        """Whether it holds anything but numbers."""
        return any(isinstance(cell, str) for cell in self.cells)

    @property
    def missing(self) -> int:
        """How many cells hold no value."""
        return sum(cell is None for cell in self.cells)

    @property
    def values(self) -> list[float | str]:
        """The different values, sorted."""
        return sorted({cell for cell in self.cells if cell is not None}, key=lambda cell: (str(type(cell)), cell))


@dataclass(frozen=True)
class Table:
    """What is learned from a table, and what from.

    Attributes:
        rows: (N,) lines of the file, counted from 0 below the names, that are used.
        inputs: columns to learn from, with all their cells.
        target: the column to predict, with all its cells.
        classes: the values of a target that has classes, in their order; () for a quantity.
        group: value of each line of the file whose equals stay in one split, or None.
        time: value of each line by which they are in order, or None.
    """

    rows: tuple[int, ...]
    inputs: tuple[Column, ...]
    target: Column
    classes: tuple[float | str, ...]
    group: Cells | None
    time: Cells | None


def read_columns(path: str) -> dict[str, Column]:
    """Return the columns of a file by name; it is read again only where it has changed.

    Commas, semicolons and tabs separate, whichever the first line has most of; a .gz is unpacked.

    Raises:
        AltpropError: for what is no table with a line of names.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise AltpropError(f"there is no file {path}")
    status = place.stat()
    return _read(str(place), status.st_mtime_ns, status.st_size)


@cache
def _read(path: str, changed: int, size: int) -> dict[str, Column]:
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig", newline="")
            if path.endswith(".gz")
            else open(path, encoding="utf-8-sig", newline="") as file
        ):
            first = file.readline()
            file.seek(0)
            lines = list(csv.reader(file, delimiter=max(",;\t", key=first.count), skipinitialspace=True))
    except (OSError, EOFError, UnicodeError, csv.Error) as error:
        raise AltpropError(f"{path} is no table that can be read: {error}; save it as CSV in UTF-8") from error
    lines = [line for line in lines if line]
    names = [name.strip() for name in lines[0]] if lines else []
    twice = next((name for name, count in Counter(names).items() if count > 1 or not name), None)
    if len(names) < 2 or twice is not None or len(lines) < 2:
        why = f"{path} needs a first line that names at least two columns, and lines of values below"
        raise AltpropError(why if twice is None else f"{path}: the column name {twice!r} is empty or there twice")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(names):
            raise AltpropError(f"{path}: line {number} has {len(line)} cells, and the first names {len(names)} columns")
    cells = zip(*lines[1:], strict=True)
    return {name: Column(name, _cells(column)) for name, column in zip(names, cells, strict=True)}


def _cells(texts: Iterable[str]) -> Cells:
    """Return numbers where all that is there are numbers, else the texts."""
    stripped = [text.strip() for text in texts]
    present = [None if text.lower() in MISSING else text for text in stripped]
    try:
        return tuple(None if text is None else _number(text) for text in present)
    except ValueError:
        return tuple(present)


def _number(text: str) -> float:
    if text.lower() in ("true", "false"):
        return float(text.lower() == "true")
    value = float(text)
    if value - value != 0:  # an infinity
        raise ValueError(text)
    return value


def open_table(
    path: str,
    target: str,
    kind: str = "auto",
    missing: str = "error",
    text: str = "error",
    drop: Sequence[str] = (),
    group: str | None = None,
    time: str | None = None,
) -> Table:
    """Read a table and settle what is learned from it.

    Args:
        path: of a CSV file.
        target: the column to predict.
        kind: classification, regression, or auto: texts and whole numbers of at most 20 values are classes.
        missing: fill, drop (leave the line out), or error where an input lacks values.
        text: onehot (an input for each of a column's texts), drop (leave the column out), or error.
        drop: columns to leave out.
        group: a column whose equal values stay in one split.
        time: a column by which lines are in order.

    Raises:
        AltpropError: for what cannot be learned from, with the option that mends it.
    """
    columns = read_columns(path)
    for option, name in (("target", target), ("group", group), ("time", time), *(("drop", name) for name in drop)):
        if name is not None and name not in columns:
            raise AltpropError(f"task.{option}: {path} has no column {name}; {near(str(name), columns)}")
    left_out = {target, group, time, *drop}
    inputs = [column for name, column in columns.items() if name not in left_out]
    if text == "drop":
        inputs = [column for column in inputs if not column.is_text]
    inputs = [column for column in inputs if len(column.values) > 1]  # a constant tells nothing
    if not inputs:
        raise AltpropError(f"{path} has no column left to learn {target} from")
    _refuse_texts(path, inputs, text, list(drop))
    _refuse_missing(path, inputs, missing)
    asked = [columns[name] for name in (target, group, time) if name is not None]
    needed = [*asked, *(inputs if missing == "drop" else ())]
    rows = tuple(row for row in range(len(columns[target].cells)) if all(c.cells[row] is not None for c in needed))
    return Table(
        rows,
        tuple(inputs),
        columns[target],
        _classes(path, columns[target], kind, rows),
        None if group is None else columns[group].cells,
        None if time is None else columns[time].cells,
    )


def _refuse_texts(path: str, inputs: Sequence[Column], text: str, drop: list[str]) -> None:
    texts = [column for column in inputs if column.is_text]
    many = [column.name for column in texts if len(column.values) > MOST_TEXTS]
    leave = f"task.drop=[{','.join([*drop, *many])}]"
    if texts and text == "error":
        names, less = ", ".join(column.name for column in texts), f", with {leave} for those of many" if many else ""
        raise AltpropError(
            f"{path}: text in {names}; say task.text=onehot for an input for each of its values{less}, "
            "or task.text=drop to leave text out"
        )
    if many:
        raise AltpropError(f"{path}: {', '.join(many)} has more than {MOST_TEXTS} different texts; say {leave}")


def _refuse_missing(path: str, inputs: Sequence[Column], missing: str) -> None:
    lacking = [f"{column.name} ({column.missing})" for column in inputs if column.missing]
    if lacking and missing == "error":
        raise AltpropError(
            f"{path}: values are missing in {', '.join(lacking)}; say task.missing=fill for the mean of the training "
            "rows (text: a value of its own), or task.missing=drop to leave those lines out"
        )


def _classes(path: str, target: Column, kind: str, rows: Sequence[int]) -> tuple[float | str, ...]:
    """Return the classes of a target, () for a quantity."""
    used = Column(target.name, tuple(target.cells[row] for row in rows))  # type: ignore[arg-type]  # of one kind
    values = used.values
    if len(values) < 2:
        raise AltpropError(f"{path}: the target {target.name} has {len(values)} values in {len(rows)} lines of use")
    if kind == "regression":
        if used.is_text:
            raise AltpropError(f"{path}: the target {target.name} holds text; say task.kind=classification")
        return ()
    whole = used.is_text or (len(values) <= MOST_CLASSES and all(float(value).is_integer() for value in values))
    if kind == "auto" and not whole:
        return ()
    if len(values) > len(rows) / 2:
        raise AltpropError(
            f"{path}: the target {target.name} has {len(values)} classes in {len(rows)} lines; name another column"
        )
    return tuple(values)


def balance(counts: Mapping[float | str, int]) -> str | None:
    """Return what to say of classes of which one has at least four times the rows of another, None for others.

    >>> balance({"no": 95, "yes": 5})
    'imbalanced classes: 95 % are no, 5 % are yes; read balanced_accuracy and macro_f1 beside accuracy'
    """
    total, most, least = (
        sum(counts.values()),
        max(counts, key=lambda k: counts[k]),
        min(counts, key=lambda k: counts[k]),
    )
    if counts[most] < 4 * counts[least]:
        return None
    shares = ", ".join(f"{100 * counts[name] / total:.2g} % are {_spelled(name)}" for name in (most, least))
    return f"imbalanced classes: {shares}; read balanced_accuracy and macro_f1 beside accuracy"


def _spelled(name: float | str) -> str:
    return name if isinstance(name, str) else f"{name:g}"
