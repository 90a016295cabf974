"""Tasks of a user's own: one reads a file of comma-separated numbers, the others load badly."""

import os
import sys
from abc import ABC
from typing import Any, ClassVar, final

import numpy as np

from altprop.capabilities import Capability
from altprop.data import ModelSpec, Source
from altprop.errors import AltpropError
from altprop.task import Task
from altprop.tasks.common import split_of


class Planted(Task, ABC):
    """Abstract task of two inputs and two classes. Every second row trains, the others test."""

    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.CLASSES, Capability.VECTORS})

    @property
    @final
    def spec(self) -> ModelSpec:
        return ModelSpec((2,), 2)


class Csv(Planted):
    """The class is in the last column. `declared` says whether the task names the file that it read."""

    def __init__(self, *, path: str, declared: bool = True, **common: Any) -> None:
        super().__init__(**common)
        self.path, self.declared = path, declared

    def _load(self) -> Source:
        try:
            rows = np.loadtxt(self.path, delimiter=",")
        except OSError as error:
            raise AltpropError(f"task.path={self.path} cannot be read") from error
        return source_of(rows, (self.path,) if self.declared else None)


class Restless(Planted):
    """Draws other rows each time that it loads."""

    def _load(self) -> Source:
        rows = np.random.default_rng().normal(size=(40, 3))
        rows[:, 2] = rows[:, 2] > 0
        return source_of(rows, None)


class Exits(Planted):
    """Ends the process politely."""

    def _load(self) -> Source:
        sys.exit("no data")


class Dies(Planted):
    """Ends the process at once."""

    def _load(self) -> Source:
        os._exit(3)


def source_of(rows: Any, files: tuple[str, ...] | None) -> Source:
    train, test = (split_of(half[:, :2], half[:, 2].astype(np.int64)) for half in (rows[::2], rows[1::2]))
    return Source(train, {"test": test}, "a file", "the author's own words", files=files)
