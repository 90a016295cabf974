"""The data of a task: batches, splits, feeds and sources, and the shapes that a model must fit."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from altprop.errors import AltpropError


def per_step(targets: Tensor) -> bool:
    """Tell (T, B) classes and (T, B, C) values from (B,) classes and (B, C) values."""
    return targets.dim() == (3 if targets.is_floating_point() else 2)


@dataclass(frozen=True)
class Batch:
    """What a step is fed.

    Attributes:
        inputs: (B, ...), or (T, B, F) for sequences.
        targets: (B,) classes, (B, C) values, (T, B, C) or (T, B) for sequences.
        index: (B,) rows of the training split.
        mask: (T, B) bool, which elements are valid; None where all are.
        reset: (B,) bool, rows whose carried state starts anew; None where all do.
        labelled: (B,) bool, rows whose target may be used; None where all may.
        context: name of the context where the task reveals it.
        last: whether this is the last batch of its context.
    """

    inputs: Tensor
    targets: Tensor
    index: Tensor
    mask: Tensor | None = None
    reset: Tensor | None = None
    labelled: Tensor | None = None
    context: str | None = None
    last: bool = False

    @property
    def rows(self) -> int:
        """How many examples the batch holds, B: what a forward pass is charged for."""
        return self.index.shape[0]

    @property
    def per_step(self) -> bool:
        """Whether a sequence has a target at each time step."""
        return per_step(self.targets)

    @property
    def weights(self) -> Tensor | None:
        """The targets that count, (T, B) or (B,) bool, or None where all do."""
        if self.mask is None and self.labelled is None:
            return None
        mask = self.mask if self.per_step else None
        if self.labelled is None:
            return mask
        return self.labelled if mask is None else mask & self.labelled

    @property
    def samples(self) -> int:
        """How many targets the batch holds: rows, or rows x time."""
        weights = self.weights
        if weights is not None:
            return int(weights.expand(self.targets.shape[: 2 if self.per_step else 1]).sum())
        return int(self.targets.shape[0] * self.targets.shape[1]) if self.per_step else int(self.index.shape[0])


@dataclass(frozen=True)
class Split:
    """Rows of data on one device.

    Attributes:
        inputs: (N, ...), or (T, N, F) for sequences.
        targets: as in `Batch`.
        mask: (T, N) bool for sequences of unequal length, or None.
        rows: (N,) int64, the rows of the source that stand here.
        sequence: whether the second dimension counts the rows.
        labelled: (N,) bool, rows whose target may be used; None where all may. The others have a target too, of any
            admissible value, which counts neither in the objective nor in an evaluation.
    """

    inputs: Tensor
    targets: Tensor
    rows: Tensor
    mask: Tensor | None = None
    sequence: bool = False
    labelled: Tensor | None = None

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def batch(self, index: Tensor) -> Batch:
        """Return the rows of `index` (B,) as a batch."""
        labelled = None if self.labelled is None else self.labelled.index_select(0, index)
        if not self.sequence:
            inputs, targets = self.inputs.index_select(0, index), self.targets.index_select(0, index)
            return Batch(inputs, targets, index, labelled=labelled)
        mask = None if self.mask is None else self.mask.index_select(1, index)
        reset = torch.ones(index.shape[0], dtype=torch.bool, device=index.device)
        targets = self.targets.index_select(1 if per_step(self.targets) else 0, index)
        return Batch(self.inputs.index_select(1, index), targets, index, mask, reset, labelled)

    def take(self, index: Tensor) -> Split:
        """Return the rows of `index` (B,) as a split of their own."""
        index = index.to(self.rows.device)
        batch = self.batch(index)
        return replace(
            self,
            inputs=batch.inputs,
            targets=batch.targets,
            rows=self.rows.index_select(0, index),
            mask=batch.mask,
            labelled=batch.labelled,
        )

    def whole(self) -> Batch:
        """Return all rows as one batch."""
        return self.batch(torch.arange(len(self), device=self.inputs.device))

    def filled(self) -> Split:
        """Return a copy with zeros wherever the mask says that nothing stands: whatever stood there is never seen."""
        if self.mask is None:
            return self
        valid = self.mask.reshape(*self.mask.shape, *[1] * (self.inputs.dim() - 2))
        targets = self.targets
        if per_step(targets):
            targets = torch.where(self.mask.reshape(*self.mask.shape, *[1] * (targets.dim() - 2)), targets, 0)
        return replace(self, inputs=torch.where(valid, self.inputs, 0), targets=targets)

    def with_targets_of(self, order: Tensor) -> Split:
        """Return a copy in which row i has the target of row `order[i]`, (N,) int64: the labels shuffled."""
        rows = 1 if per_step(self.targets) else 0
        return replace(self, targets=self.targets.index_select(rows, order.to(self.targets.device)))

    def to(self, device: torch.device, dtype: torch.dtype) -> Split:
        """Return a copy on `device`, real values as `dtype`."""

        def move(x: Tensor) -> Tensor:
            return x.to(device=device, dtype=dtype if x.is_floating_point() else None)

        return replace(
            self,
            inputs=move(self.inputs),
            targets=move(self.targets),
            rows=self.rows.to(device),
            mask=None if self.mask is None else self.mask.to(device),
            labelled=None if self.labelled is None else self.labelled.to(device),
        )

    def digest(self) -> str:
        """Return the SHA-256 of the values and rows."""
        state = hashlib.sha256()
        for tensor in (self.inputs, self.targets, self.rows, self.mask, self.labelled):
            if tensor is not None:
                state.update(str((tuple(tensor.shape), tensor.dtype)).encode())
                state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return state.hexdigest()


class Feed(ABC):
    """Abstract order in which training data are fed: batch k of a run for any k, so that a position is a number.

    A feed is a function of the training split, the run's seed and options; it keeps nothing that a resumed run would
    miss. `altprop.feed` has the plan of every task, a wrapper that changes batches, and a stream of contexts.

    Attributes:
        split: the training split that `Batch.index` counts in.
        seed: of the run.
        sizes: rows of the batches to come.
        contexts: names of the contexts in their order; none where there is no stream.
    """

    split: Split
    seed: int
    sizes: frozenset[int]
    contexts: tuple[str, ...] = ()

    @abstractmethod
    def batch(self, position: int) -> Batch | None:
        """Return the batch at a position, counted from the start of the run; None for who is fed nothing."""

    @abstractmethod
    def digest(self) -> str:
        """Return the SHA-256 of the order, equal for equal orders."""

    def context_at(self, position: int) -> str | None:
        """Return the context that a position lies in, whether or not its batch reveals it; None without a stream."""
        return None


@dataclass(frozen=True)
class TaskData:
    """A task's data, split.

    Attributes:
        train: what algorithms see.
        validation: guides; None with `validation=none`.
        tests: name -> split; the first one, called "test", is the one in the tables.
        source: where the data came from, in words.
        sha256: of the raw data before splitting.
        digest: of all that the task loaded; see `Source.digest`.
        files: that were read; see `Source`.
    """

    train: Split
    validation: Split | None
    tests: dict[str, Split]
    source: str
    sha256: str
    digest: str = ""
    files: tuple[str, ...] | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> TaskData:
        """Return a copy on `device`, real values as `dtype`."""
        return replace(
            self,
            train=self.train.to(device, dtype),
            validation=None if self.validation is None else self.validation.to(device, dtype),
            tests={name: split.to(device, dtype) for name, split in self.tests.items()},
        )

    def split_digest(self) -> str:
        """Return the SHA-256 of the rows that each split holds."""
        state = hashlib.sha256()
        parts = {"train": self.train, "validation": self.validation, **self.tests}
        for name, split in parts.items():
            rows = "none" if split is None else split.rows.cpu().numpy().tobytes().hex()
            state.update(f"{name}:{rows};".encode())
        return state.hexdigest()


@dataclass(frozen=True)
class Source:
    """Raw data before the hold-out, on the CPU in float64 or int64.

    Attributes:
        train: all rows that may be trained on.
        tests: name -> split.
        description: where it came from.
        sha256: of the raw values.
        stratify: (N,) labels that the hold-out keeps in proportion, or None.
        ordered: whether the hold-out is the tail (time series) and not a draw.
        in_sample: whether validation and tests are the training rows themselves (point tasks, fits).
        groups: (N,) int64, rows of one number stay in one split, or None.
        files: paths of all files that were read; () where code or an installed package made the data; None where that
            is unknown, so that every command loads the data to know whether it has their records.
    """

    train: Split
    tests: dict[str, Split]
    description: str
    sha256: str
    stratify: Tensor | None = None
    ordered: bool = False
    in_sample: bool = False
    groups: Tensor | None = None
    files: tuple[str, ...] | None = None

    @classmethod
    def without_data(cls, spec: ModelSpec, description: str, rows: int = 1) -> Source:
        """Return the source of a task that has no data: rows of zeros train, guide and test.

        Args:
            spec: the shapes of a row.
            description: the task in words, with all its options: what its digest is made of.
            rows: how many; in an environment, a population is compared on one episode for each row of a batch.
        """
        inputs = torch.zeros(rows, *spec.input_shape, dtype=torch.float64, device="cpu")
        targets = torch.zeros(rows, spec.outputs, dtype=torch.float64, device="cpu")
        row = Split(inputs, targets, torch.arange(rows, device="cpu"))
        digest = hashlib.sha256(description.encode()).hexdigest()
        return cls(row, {"test": row}, description, digest, in_sample=True, files=())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything here but the words, the author's hash and the files: the data in the key of a run."""
        state = hashlib.sha256()
        for entry in fields(self):
            if entry.name not in ("description", "sha256", "files") and (
                entry.name != "groups" or self.groups is not None
            ):
                _feed_hash(state, entry.name, getattr(self, entry.name))
        return state.hexdigest()


def _feed_hash(state: Any, name: str, value: Any) -> None:
    """Feed a named value, and the parts of a nested one, to a hash; of what has no value the class is fed."""
    parts: list[tuple[str, Any]] = []
    if isinstance(value, Tensor):
        text = str((tuple(value.shape), value.dtype))
    elif is_dataclass(value) and not isinstance(value, type):
        text, parts = type(value).__name__, [(entry.name, getattr(value, entry.name)) for entry in fields(value)]
    elif isinstance(value, Mapping):
        text, parts = f"mapping of {len(value)}", [(str(key), value[key]) for key in value]
    elif isinstance(value, (tuple, list)):
        text, parts = f"sequence of {len(value)}", [(str(place), entry) for place, entry in enumerate(value)]
    elif value is None or isinstance(value, (bool, int, float, str, bytes)):
        text = f"{type(value).__name__} {value!r}"
    else:
        text = f"{type(value).__module__}.{type(value).__qualname__}"
    state.update(f"{name}: {text};".encode())
    if isinstance(value, Tensor):
        state.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    for part, entry in parts:
        _feed_hash(state, part, entry)


@dataclass(frozen=True)
class ModelSpec:
    """What a model must fit: the shapes on both sides.

    Attributes:
        input_shape: of one example, (F,), (C, L) or (C, H, W); (F,) of one time step for sequences.
        outputs: number of outputs.
        sequence: whether inputs are (T, B, F).
        per_step: whether a sequence has a target at each time step.
        start: (D,) where a point task starts, else None.
    """

    input_shape: tuple[int, ...]
    outputs: int
    sequence: bool = False
    per_step: bool = False
    start: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Ground:
    """A function of two coordinates that trajectories run over, drawn behind them as contour lines.

    Attributes:
        x, y: from and to.
        levels: of each line of y, from below, its values from left to right, evenly spaced, ends included; contour
            lines are drawn at equal steps of them.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    levels: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Panel:
    """What the report draws of a task's runs beside its own figures; the record keeps it.

    Attributes:
        kind: "curves", each metric over the share of the budget; "trajectory", the second metric over the first, a line
            a run; "matrix", the leading metric on every set after every context of a stream.
        metrics: by name, as the task has them; two for a trajectory, none for a matrix.
        caption: how it is read, in a sentence.
        ground: of a trajectory, what it runs over, or None.
    """

    kind: str
    metrics: tuple[str, ...] = ()
    caption: str = ""
    ground: Ground | None = None

    def __post_init__(self) -> None:
        fits = {"curves": len(self.metrics) > 0, "trajectory": len(self.metrics) == 2, "matrix": not self.metrics}
        if not fits.get(self.kind, False):
            raise AltpropError(
                f"a panel is curves of metrics, a trajectory of two or a matrix of none; got {self.kind!r} of "
                f"{list(self.metrics)}"
            )


@dataclass(frozen=True)
class Descriptor:
    """The numbers that tell how an individual behaves, apart from how good it is.

    Attributes:
        names: of the K numbers.
        low, high: between which each lies, (K,); what lies beyond counts as on the bound.

    Raises:
        AltpropError: where there are no numbers, or bounds that are none.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.low) == len(self.high) > 0:
            raise AltpropError(f"a descriptor has as many bounds as names; got {self}")
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise AltpropError(f"a descriptor lies between low and high; got {self}")


@dataclass(frozen=True)
class Reference:
    """Figures that a task states beforehand.

    Attributes:
        chance: the metric of a predictor that has learned nothing.
        oracle: the best that is possible, or None.
        baselines: name -> metric of simple methods.
        targets: name -> metric value that counts as reached.
    """

    chance: float | None = None
    oracle: float | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)
    targets: Mapping[str, float] = field(default_factory=dict)
