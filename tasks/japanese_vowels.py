"""Japanese vowels: which of nine men says /ae/, from utterances of unequal length."""

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from altprop import AltpropError, Capability, ModelSpec, Source, Split, Task
from altprop.tasks.common import Array, sha256_of, split_of, standardise

CHANNELS, SPEAKERS = 12, 9
SHA256 = {
    "JapaneseVowels_TRAIN.ts": "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd",
    "JapaneseVowels_TEST.ts": "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462",
}


class JapaneseVowels(Task):
    """Utterances of 7 to 29 times, 12 LPC cepstrum coefficients each, (T, N, 12); the speaker is told at the end.

    270 utterances train, 370 are the test set; what follows the end of one is masked. Channels are standardised by the
    times of the training utterances. The files are those of the package aeon, which need not be imported, or lie at
    `path`; they are told by their SHA-256.

    Args:
        path: folder that holds JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts; None looks into the package aeon.
        common: see `Task`.

    Raises:
        AltpropError: for a path that is no text.

    Paper: Kudo, Toyama and Shimbo, Multidimensional curve classification using passing-through regions, Pattern
    Recognition Letters 1999, where a chain of regions is right for 94.1 % and a hidden Markov model for 96.2 %.
    """

    losses: ClassVar[tuple[str, ...]] = ("cross_entropy", "one_hot_squared_error")
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.CLASSES})

    def __init__(self, *, path: str | None = None, **common: Any) -> None:
        if path is not None and not isinstance(path, str):
            raise AltpropError(f"task.path must name a folder; got {path!r}")
        super().__init__(**common)
        self.path = path

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((CHANNELS,), SPEAKERS, sequence=True)

    def _load(self) -> Source:
        return _source(self.path)


@cache
def _source(path: str | None) -> Source:
    files = _files(path)
    (seen, speakers), (unseen, others) = (utterances(file.read_text()) for file in files)
    lengths = [len(one) for one in (*seen, *unseen)]
    scaled = standardise(np.concatenate(seen), np.concatenate([*seen, *unseen]))[1]
    every = np.split(scaled, np.cumsum(lengths)[:-1])
    train, test = _padded(every[: len(seen)], speakers), _padded(every[len(seen) :], others)
    digest = sha256_of(*(np.concatenate(part) for part in (seen, unseen)), speakers, others)
    where = "aeon" if path is None else path
    read = () if path is None else tuple(map(str, files))
    return Source(train, {"test": test}, f"JapaneseVowels: {where}", digest, stratify=train.targets, files=read)


def _files(path: str | None) -> list[Path]:
    """Return the two files.

    Raises:
        AltpropError: where they are not found, or are others.
    """
    folder = None if path is None else Path(path)
    found = importlib.util.find_spec("aeon") if folder is None else None
    if found is not None and found.submodule_search_locations:
        folder = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "JapaneseVowels"
    files = [] if folder is None else [folder / name for name in SHA256]
    if not files or not all(file.is_file() for file in files):
        raise AltpropError(
            f"task japanese_vowels needs {' and '.join(SHA256)}{'' if folder is None else f', not in {folder}'}: "
            "pip install 'altprop[timeseries]' (aeon wants numpy < 2.4), or pip download --no-deps aeon==1.6.0, "
            "unpack its wheel, and task.path=FOLDER/aeon/datasets/data/JapaneseVowels"
        )
    for file in files:
        if hashlib.sha256(file.read_bytes()).hexdigest() != SHA256[file.name]:
            raise AltpropError(f"{file} is not the published file; take that of aeon 1.6.0")
    return files


def utterances(text: str) -> tuple[list[Array], Array]:
    """Return each utterance (T, 12) of a .ts file, and the speakers (N,), 0 to 8.

    >>> found, speakers = utterances("@data" + chr(10) + ":".join(["1,2,3"] * 12 + ["9"]))
    >>> found[0].shape, speakers.tolist()
    ((3, 12), [8])
    """
    lines = text.partition("@data")[2].split()
    parts = [line.split(":") for line in lines]
    found = [np.array([channel.split(",") for channel in part[:CHANNELS]], dtype=np.float64).T for part in parts]
    return found, np.array([int(part[-1]) - 1 for part in parts])


def _padded(each: Sequence[Array], speakers: Array) -> Split:
    """Return utterances of unequal length as a split, zeros behind their ends."""
    longest = max(map(len, each))
    inputs, mask = np.zeros((longest, len(each), CHANNELS)), np.zeros((longest, len(each)), dtype=bool)
    for row, one in enumerate(each):
        inputs[: len(one), row], mask[: len(one), row] = one, True
    given = split_of(inputs, speakers, sequence=True)
    return replace(given, mask=torch.from_numpy(mask))
