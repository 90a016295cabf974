"""The base of MNIST and Fashion-MNIST."""

from abc import ABC
from functools import cache
from typing import Any, ClassVar, final

import numpy as np
import torch

from altprop import AltpropError, Capability, ModelSpec, Source, Split, Task
from altprop.tasks.archives import NAMES, Archive, files_at
from altprop.tasks.common import sha256_of, tensor_of


class ImageTask(Task, ABC):
    """Abstract task on 28x28 grey images as vectors of 784 values, 0 .. 1, in ten classes; 60,000 train, 10,000 test.

    Values are kept in float32, in which 70,000 images take .2 GB and not .4.

    Class attributes:
        archive: the files.

    Args:
        path: folder or .tgz that holds the files; None looks for them as `altprop.tasks.archives` says.
        common: see `Task`.
    """

    losses: ClassVar[tuple[str, ...]] = ("cross_entropy", "one_hot_squared_error", "hinge")
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.CLASSES, Capability.VECTORS})
    archive: ClassVar[Archive]

    def __init__(self, *, path: str | None = None, **common: Any) -> None:
        if path is not None and not isinstance(path, str):
            raise AltpropError(f"task.path must name a folder or a .tgz; got {path!r}")
        super().__init__(**common)
        self.path = path

    @property
    @final
    def spec(self) -> ModelSpec:
        return ModelSpec((784,), 10)

    @final
    def _load(self) -> Source:
        return _source(self.archive, self.path)


@cache
def _source(archive: Archive, path: str | None) -> Source:
    files, where = archive.load(path)
    train, test = (
        Split(
            torch.from_numpy(files[images].reshape(-1, 784).astype(np.float32) / np.float32(255)),
            tensor_of(files[labels]),
            torch.arange(len(files[labels]), device="cpu"),
        )
        for images, labels in (NAMES[:2], NAMES[2:])
    )
    digest = sha256_of(*(files[name] for name in NAMES))
    # Elsewhere than at a path the files can be no others: the archive takes them by their hashes.
    read = files_at(path) if path is not None else ()
    return Source(train, {"test": test}, f"{archive.name}: {where}", digest, stratify=train.targets, files=read)
