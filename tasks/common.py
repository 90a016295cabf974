"""What several tasks share: splits from arrays, hashes of raw values, standardisation, and the classification base."""

import hashlib
import importlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from altprop import AltpropError, Split
from altprop.randomness import generator_for

Array = NDArray[Any]


def sha256_of(*arrays: Array) -> str:
    """Return the SHA-256 of shapes, types and little-endian values.

    >>> sha256_of(np.zeros(2)) == sha256_of(np.zeros(2)) != sha256_of(np.zeros((1, 2)))
    True
    """
    state = hashlib.sha256()
    for array in arrays:
        little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        state.update(f"{little.shape}{little.dtype.str}".encode())
        state.update(little.tobytes())
    return state.hexdigest()


def split_of(inputs: Array, targets: Array, rows: Array | None = None, *, sequence: bool = False) -> Split:
    """Make a split from arrays: real values become float64, whole numbers int64.

    Args:
        inputs: (N, ...), or (T, N, F) for sequences.
        targets: (N,) classes, (N, C) values, or per step.
        rows: (N,) rows of the source; 0 .. N-1 by default.
        sequence: whether the second dimension of the inputs counts the rows.
    """
    count = inputs.shape[1 if sequence else 0]
    chosen = np.arange(count) if rows is None else rows
    return Split(
        torch.from_numpy(np.array(inputs, dtype=np.float64)),
        tensor_of(targets),
        torch.from_numpy(np.array(chosen, dtype=np.int64)),
        sequence=sequence,
    )


def tensor_of(values: Array) -> Tensor:
    """Return a copy on the CPU: float64 for real values, int64 for whole numbers."""
    wanted = np.int64 if values.dtype.kind in "iub" else np.float64
    return torch.from_numpy(np.array(values, dtype=wanted))


def standardise(train: Array, *others: Array) -> tuple[Array, ...]:
    """Subtract the mean and divide by the standard deviation of the training rows (N, F); constants stay at 0.

    >>> standardise(np.array([[1.0], [3.0]]), np.array([[5.0]]))[1]
    array([[3.]])
    """
    mean, deviation = train.mean(0), train.std(0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    return tuple((values - mean) / deviation for values in (train, *others))


def optional_import(module: str, what: str, install: str) -> Any:
    """Import a package that only some tasks need.

    Raises:
        AltpropError: with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise AltpropError(f"{what} needs {module.partition('.')[0]}: {install} ({error})") from error


def draw_test_rows(count: int, held: int, name: str, seed: int, labels: Array | None = None) -> tuple[Array, Array]:
    """Draw test rows, in proportion to the labels where given, and return (rows to train on, test rows), sorted.

    Args:
        count: number of rows.
        held: how many to hold out; with labels the nearest number in proportion.
        name: of the task; every task has draws of its own.
        seed: of the draw.
        labels: (count,) classes.
    """
    generator = generator_for(seed, name, "test rows")
    order = torch.randperm(count, generator=generator, device="cpu").numpy()
    if labels is None:
        chosen = order[:held]
    else:
        parts = [order[labels[order] == label] for label in np.unique(labels)]
        chosen = np.concatenate([part[: round(len(part) * held / count)] for part in parts])
    mask = np.zeros(count, dtype=bool)
    mask[chosen] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)
