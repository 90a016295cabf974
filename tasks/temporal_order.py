"""Temporal order: two symbols stand far apart among distractors, and their order is the class."""

from functools import cache
from typing import Any, ClassVar

import torch

from altprop import Capability, ModelSpec, Source, Split, Task
from altprop.checks import check_whole
from altprop.randomness import generator_for
from altprop.tasks.common import sha256_of

SYMBOLS = "EBabcdXY"
"""Start, end, four distractors and the two that matter, in the order of the inputs."""


class TemporalOrder(Task):
    """Sequences (T, B, 8) of symbols in one-hot form, classified at their end: XX, XY, YX or YY (0 to 3).

    The first is E and the last B; one of X and Y stands at a random place in the second tenth, another in the sixth
    tenth, and all else are distractors a, b, c, d. Guessing is right in 1 of 4, and what remembers the later symbol
    alone in 1 of 2. The data are generated from `data_seed`.

    Args:
        length: T, at least 10.
        samples: sequences that may be trained on.
        test_samples: sequences of the test set.
        common: see `Task`.

    Raises:
        AltpropError: for values below these.

    Paper: Hochreiter and Schmidhuber 1997, experiment 6a, where T is drawn from 100 to 110 and the symbols stand at
    times from 10 to 20 and from 50 to 60; here T is fixed and the places are those shares of it.
    """

    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.CLASSES})

    def __init__(self, *, length: int = 50, samples: int = 5000, test_samples: int = 1000, **common: Any) -> None:
        super().__init__(**common)
        self.length = check_whole(length, "task.length", 10)
        self.samples = check_whole(samples, "task.samples", 2)
        self.test_samples = check_whole(test_samples, "task.test_samples", 1)

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((len(SYMBOLS),), 4, sequence=True)

    def _load(self) -> Source:
        return _source(self.length, self.samples, self.test_samples, self.data_seed)


@cache
def _source(length: int, samples: int, test_samples: int, seed: int) -> Source:
    train = _draw(length, samples, generator_for(seed, "temporal order", "train"))
    test = _draw(length, test_samples, generator_for(seed, "temporal order", "test"))
    digest = sha256_of(*(x.numpy() for split in (train, test) for x in (split.inputs, split.targets)))
    return Source(train, {"test": test}, f"generated from data_seed={seed}", digest, stratify=train.targets, files=())


def _draw(length: int, count: int, generator: torch.Generator) -> Split:
    rows = torch.arange(count, device="cpu")
    read = torch.randint(2, 6, (length, count), generator=generator, device="cpu")
    read[0], read[-1] = SYMBOLS.index("E"), SYMBOLS.index("B")
    which = torch.randint(0, 2, (2, count), generator=generator, device="cpu")
    for symbol, tenth in zip(which, (1, 5), strict=True):
        low, high = tenth * length // 10, (tenth + 1) * length // 10
        place = torch.randint(low, high, (count,), generator=generator, device="cpu")
        read[place, rows] = SYMBOLS.index("X") + symbol
    inputs = torch.nn.functional.one_hot(read, len(SYMBOLS)).double()
    return Split(inputs, 2 * which[0] + which[1], rows, sequence=True)
