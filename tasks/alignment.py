"""Letters and sounds, one to one: which part of a pronunciation each letter of a word is read as."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from altprop.tasks.common import Array

MOST = 2
Chunk: TypeAlias = tuple[str, ...]
Pairs: TypeAlias = dict[tuple[str, Chunk], int]


def align(words: Mapping[str, Sequence[str]], rounds: int = 20) -> dict[str, list[Chunk]]:
    """Return word -> the sounds of each letter: none, one or two, which end to end are its pronunciation.

    Of all ways to cut a pronunciation so, the likeliest is taken, under probabilities p(sounds | letter) that are
    fitted to all words at once by expectation and maximisation from a start that prefers one sound a letter. Words
    that have more than two sounds a letter are left out.

    Args:
        words: word -> its sounds.
        rounds: of the fit.

    >>> words = {"box": ["B", "AA1", "K", "S"], "rob": ["R", "AA1", "B"], "toe": ["T", "OW1"], "rot": ["R", "AA1", "T"]}
    >>> found = align(words)
    >>> found["box"], found["toe"]
    ([('B',), ('AA1',), ('K', 'S')], [('T',), (), ('OW1',)])
    """
    fitting = {word: tuple(sounds) for word, sounds in words.items() if len(sounds) <= MOST * len(word)}
    pairs, places = _cuts(fitting)
    letters = sorted({letter for letter, _ in pairs})
    letter = np.array([0, *(letters.index(one) for one, _ in pairs)])
    ends = np.array([len(sounds) for sounds in fitting.values()])
    p = np.array([0.0, *(1.0 if len(chunk) == 1 else 0.1 for _, chunk in pairs)])
    for _ in range(rounds):
        # Number 0 stands for what is impossible.
        counts = _expected(p, places, ends)
        counts[0] = 0.0
        p = counts / np.maximum(np.bincount(letter, counts, len(letters)), 1e-300)[letter]
    return {word: _likeliest(word, sounds, pairs, p) for word, sounds in fitting.items()}


def _cuts(words: Mapping[str, Chunk]) -> tuple[Pairs, Array]:
    """Return a number from 1 on for each letter with sounds it may be read as, and where they may stand.

    That is (MOST + 1, W, letters, sounds + 1): how many sounds a letter has, the word, the letter, its first sound; 0
    where it cannot be. Behind its end a word has letters "" without sounds.
    """
    longest, most = max(map(len, words)), max(map(len, words.values()))
    pairs: Pairs = {}
    places = np.zeros((MOST + 1, len(words), longest, most + 1), dtype=np.int64)
    for number, (word, sounds) in enumerate(words.items()):
        for place, letter in enumerate(word):
            for size in range(MOST + 1):
                for start in range(min(MOST * place, len(sounds) - size) + 1):
                    pair = letter, sounds[start : start + size]
                    places[size, number, place, start] = pairs.setdefault(pair, len(pairs) + 1)
        places[0, number, len(word) :, len(sounds)] = pairs.setdefault(("", ()), len(pairs) + 1)
    return pairs, places


def _expected(p: Array, places: Array, ends: Array) -> Array:
    """Return how often each pair is expected over all ways to cut all words, each word counting once, as `p` is.

    Args:
        p: of each pair.
        places: of `_cuts`.
        ends: (W,) how many sounds a word has.
    """
    weights = p[places]
    _, words, letters, sounds = places.shape
    # before[i]: (W, sounds + 1), all ways in which the first i letters are read as so many sounds; after: of the rest.
    before, after = np.zeros((2, letters + 1, words, sounds))
    before[0, :, 0], after[letters, np.arange(words), ends] = 1.0, 1.0
    for i in range(letters):
        for size in range(MOST + 1):
            here = slice(0, sounds - size)
            before[i + 1, :, size:] += before[i, :, here] * weights[size, :, i, here]
    for i in reversed(range(letters)):
        for size in range(MOST + 1):
            here = slice(0, sounds - size)
            after[i, :, here] += weights[size, :, i, here] * after[i + 1, :, size:]
    ways = before[letters, np.arange(words), ends][None, :, None]
    counts = np.zeros_like(p)
    for size in range(MOST + 1):
        here = slice(0, sounds - size)
        shares = before[:-1, :, here] * weights[size, :, :, here].swapaxes(0, 1) * after[1:, :, size:] / ways
        counts += np.bincount(places[size, :, :, here].swapaxes(0, 1).ravel(), shares.ravel(), len(p))
    return counts


def _likeliest(word: str, sounds: Chunk, pairs: Pairs, p: Array) -> list[Chunk]:
    """Return the likeliest way to cut the sounds; of equally likely ones that in which sounds come early."""
    best: dict[int, tuple[float, list[Chunk]]] = {0: (1.0, [])}
    for letter in word:
        reached: dict[int, tuple[float, list[Chunk]]] = {}
        for start, (likelihood, chunks) in best.items():
            for size in range(min(MOST, len(sounds) - start), -1, -1):
                chunk = sounds[start : start + size]
                value = likelihood * float(p[pairs.get((letter, chunk), 0)])
                if value > reached.get(start + size, (0.0, []))[0]:
                    reached[start + size] = value, [*chunks, chunk]
        best = reached
    return best[len(sounds)][1]
