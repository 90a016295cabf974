"""Characters of a text, each to be predicted from those before it: bits a character."""

import bz2
import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from altprop import AltpropError, Batch, BatchMode, Capability, Feed, ModelSpec, Source, Split, Task, UnusableData
from altprop.checks import check_whole
from altprop.feed import EpochFeed
from altprop.randomness import generator_for

SONNETS = Path(__file__).parent / "texts" / "sonnets.txt"
SHA256 = "99e73fdbf09143edd75e85a08bd347bd59d20f594ef456a4114e2b4199bfca3c"
TEST_SHARE = 0.1


class CharLM(Task):
    """Characters in one-hot form, (T, N, A) over the text's own alphabet of A; the next one is the target at each time.

    The text is cut into sequences of T side by side; its last tenth is the test set, and the hold-out is the tail of
    what remains. The metric `bits` is the cross-entropy in bits a character, log2 A for what knows nothing. By itself
    the text is the 154 sonnets of Shakespeare (1609; public domain), 94,653 characters, 61 different ones.

    Every evaluation begins each sequence in the model's initial state, so that its first characters are predicted from
    nothing. With `stream` training does not: a batch of B rows reads B places of the text at once, each row goes on
    where it stopped in the batch before (`Batch.reset` is false), and where the places lie is drawn for each seed and
    each pass. `truncated_bptt` and the online rules carry their state on; `bptt` needs whole sequences and says so.

    Args:
        path: a text of yours in UTF-8, whose baselines are computed; None takes the sonnets.
        characters: so many from the start of the text; None takes all.
        length: T.
        stream: whether training reads on from batch to batch.
        common: see `Task`.

    Raises:
        AltpropError: for a length below 1 or a path that is no text.
        UnusableData: for a text that cannot be read or has too few characters.

    Baselines of a text are those of `references`. Of all 42 works of the Moby edition (5,057,198 characters) they are
    4.80, 3.61 and 2.369 where one counts and tests on the same text.
    """

    metric: ClassVar[str] = "bits"
    higher_is_better: ClassVar[bool] = False
    metrics: ClassVar[Mapping[str, bool]] = {"accuracy": True}
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.CLASSES})

    def __init__(
        self,
        *,
        path: str | None = None,
        characters: int | None = None,
        length: int = 50,
        stream: bool = False,
        chance: float | None = None,
        **common: Any,
    ) -> None:
        self.length = check_whole(length, "task.length", 1)
        self.characters = None if characters is None else check_whole(characters, "task.characters", 1)
        if path is not None and not isinstance(path, str):
            raise AltpropError(f"task.path must name a text file; got {path!r}")
        self.path, self.stream = path, bool(stream)
        if path is not None or characters is not None:
            found = references(*_parts(_text(path, self.characters), self.length))
            chance, common["baselines"], common["targets"] = found["unigram"], found, {}
        super().__init__(chance=chance, **common)

    @property
    def spec(self) -> ModelSpec:
        letters = len(set(_text(self.path, self.characters)))
        return ModelSpec((letters,), letters, sequence=True, per_step=True)

    def _load(self) -> Source:
        return _source(self.path, self.characters, self.length)

    def _feed(self, feed: Feed) -> Feed:
        return ReadingFeed(feed) if self.stream else feed

    def _metrics(self, outputs: Tensor, split: Split) -> dict[str, float]:
        per = torch.nn.functional.cross_entropy(outputs.double().flatten(0, 1), split.targets.flatten())
        return {"bits": float(per) / math.log(2), **super()._metrics(outputs, split)}


class ReadingFeed(Feed):
    """Batches that read on: row b of batch k + 1 is the sequence that follows row b of batch k.

    A pass has N // (B + 1) batches, so that it leaves out about one part in B + 1 of the text: where it begins is drawn
    anew for each pass, and there the state starts anew in all rows.

    Args:
        plan: the index plan of every task: its split, batch size, mode, seed and ranks.

    Raises:
        AltpropError: around what is no index plan.
    """

    def __init__(self, plan: Feed) -> None:
        if not isinstance(plan, EpochFeed):
            raise AltpropError(f"a stream is made of the index plan of a task; got a {type(plan).__name__}")
        self._plan, self.split, self.seed = plan, plan.split, plan.seed
        self.sizes = frozenset({plan.batch_size})
        self._pieces = len(plan.split) // (plan.batch_size + 1)

    def batch(self, position: int) -> Batch | None:
        plan = self._plan
        if plan.whole or plan.batch_mode is not BatchMode.MINI:
            return plan.batch(position)
        turn, piece = divmod(position, self._pieces)
        first, count = plan.ranks.share(plan.batch_size)
        rows = self._start(turn) + piece + self._pieces * torch.arange(first, first + count, device="cpu")
        batch = self.split.batch(rows.to(self.split.rows.device))
        return replace(batch, reset=torch.full_like(batch.index, piece == 0, dtype=torch.bool))

    def _start(self, turn: int) -> int:
        left = len(self.split) - self._pieces * self._plan.batch_size
        generator = generator_for(self.seed, "where a pass begins", turn)
        return int(torch.randint(0, left + 1, (), generator=generator, device="cpu"))

    def digest(self) -> str:
        return hashlib.sha256(str([self._pieces, *map(self._start, range(3))]).encode()).hexdigest()


def references(train: str, test: str) -> dict[str, float]:
    """Return the bits a character on the test text of what counts in the training text, and of bz2.

    unigram: how often each character occurs; bigram: how often each follows another. Both counts are raised by 0.1, so
    that nothing is impossible. bz2: how much longer the compressed text grows by the test text behind it.

    >>> {name: round(bits, 3) for name, bits in references("abracadabra" * 40, "abracadabra" * 4).items()}
    {'unigram': 2.04, 'bigram': 0.879, 'bz2': 0.182}
    """
    letters, added = sorted(set(train + test)), 0.1
    single, pairs, firsts = Counter(train), Counter(pairwise(train)), Counter(train[:-1])
    size = added * len(letters)
    unigram = sum(math.log2((single[b] + added) / (len(train) + size)) for b in test)
    following = list(zip(train[-1] + test, test, strict=False))
    bigram = sum(math.log2((pairs[a, b] + added) / (firsts[a] + size)) for a, b in following)
    packed = [len(bz2.compress(text.encode())) for text in (train, train + test)]
    bits = {"unigram": -unigram, "bigram": -bigram, "bz2": 8.0 * (packed[1] - packed[0])}
    return {name: value / len(test) for name, value in bits.items()}


@cache
def _text(path: str | None, characters: int | None) -> str:
    try:
        text = (SONNETS if path is None else Path(path).expanduser()).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableData(f"{path} cannot be read as a text in UTF-8: {error}") from error
    if path is None and hashlib.sha256(text.encode()).hexdigest() != SHA256:
        raise AltpropError(f"{SONNETS} is not the text that was shipped; install altprop again")
    return text[:characters]


def _parts(text: str, length: int) -> tuple[str, str]:
    """Return the text that may be trained on and that of the test set, each of whole sequences and one character.

    Raises:
        UnusableData: for a text of fewer than ten sequences, or of one letter.
    """
    sequences = (len(text) - 1) // length
    if sequences < 10 or len(set(text)) < 2:
        raise UnusableData(
            f"{len(text)} characters make {sequences} sequences of {length}, and it takes 10 of more than one letter; "
            "lower task.length or bring more text"
        )
    cut = length * (sequences - max(1, round(TEST_SHARE * sequences)))
    return text[: cut + 1], text[cut : length * sequences + 1]


@cache
def _source(path: str | None, characters: int | None, length: int) -> Source:
    text = _text(path, characters)
    train, test = _parts(text, length)
    place = {letter: number for number, letter in enumerate(sorted(set(text)))}
    name = "the sonnets of Shakespeare" if path is None else Path(path).name
    return Source(
        _split(train, length, place),
        {"test": _split(test, length, place)},
        f"{name}, {len(text):,} characters",
        hashlib.sha256(text.encode()).hexdigest(),
        ordered=True,
        files=() if path is None else (path,),
    )


def _split(text: str, length: int, place: Mapping[str, int]) -> Split:
    read = torch.tensor([place[letter] for letter in text], device="cpu")
    given, wanted = (part.reshape(-1, length).T.contiguous() for part in (read[:-1], read[1:]))
    inputs = torch.nn.functional.one_hot(given, len(place)).double()
    return Split(inputs, wanted, torch.arange(inputs.shape[1], device="cpu"), sequence=True)
