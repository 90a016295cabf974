"""The embedded Reber grammar: which of two symbols opened a string must be told at its end."""

from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from altprop import Capability, ModelSpec, Source, Split, Task
from altprop.checks import check_whole
from altprop.randomness import generator_for
from altprop.tasks.common import sha256_of

SYMBOLS = "BTPSXVE"
# State -> what may follow, with the state after it; both are equally likely. State 5 ends with E.
GRAMMAR = ((("T", 1), ("P", 2)), (("S", 1), ("X", 3)), (("T", 2), ("V", 4)), (("X", 2), ("S", 5)), (("P", 3), ("V", 5)))


class Reber(Task):
    """Strings B s B ... E s E, symbol by symbol, (T, N, 7) in one-hot form; the next symbol is the target at each time.

    Inside stands a string of Reber's grammar, whose choices are fair coins, and around it s, T or P: to foretell the
    last s the first must be remembered over the 8 or more symbols between. Strings are of unequal length, and what
    follows their end is masked. The accuracy is that of the last s alone, 1/2 by guessing. The cross-entropy over all
    symbols is 7 ln 2 / 11 = .441094 at best, and 8 ln 2 / 11 = .504107 for what knows the grammar and forgets s, in the
    mean over strings where each symbol counts alike. The data are generated from `data_seed`; as strings are short,
    many stand in both sets.

    Args:
        samples: strings that may be trained on.
        test_samples: strings of the test set.
        common: see `Task`.

    Raises:
        AltpropError: for values below 2 and 1.

    Paper: Reber 1967; Cleeremans, Servan-Schreiber and McClelland 1989; embedded as in Hochreiter and Schmidhuber 1997,
    experiment 1.
    """

    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.CLASSES})

    def __init__(self, *, samples: int = 2000, test_samples: int = 1000, **common: Any) -> None:
        super().__init__(**common)
        self.samples = check_whole(samples, "task.samples", 2)
        self.test_samples = check_whole(test_samples, "task.test_samples", 1)

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((len(SYMBOLS),), len(SYMBOLS), sequence=True, per_step=True)

    def _load(self) -> Source:
        return _source(self.samples, self.test_samples, self.data_seed)

    def _metrics(self, outputs: Tensor, split: Split) -> dict[str, float]:
        assert split.mask is not None
        # The last target is E, and the one before it is s.
        place, rows = split.mask.sum(0) - 2, torch.arange(len(split), device=outputs.device)
        said, wanted = outputs[place, rows].argmax(-1), split.targets[place, rows]
        return {"accuracy": float((said == wanted).double().mean())}


def string(generator: torch.Generator) -> str:
    """Draw a string.

    >>> string(generator_for(0, "reber", "doctest"))
    'BPBPVPSEPE'
    """

    def coin() -> int:
        return int(torch.randint(0, 2, (), generator=generator, device="cpu"))

    around, inside, state = "TP"[coin()], "", 0
    while state < len(GRAMMAR):
        symbol, state = GRAMMAR[state][coin()]
        inside += symbol
    return f"B{around}B{inside}E{around}E"


@cache
def _source(samples: int, test_samples: int, seed: int) -> Source:
    sizes = {"train": samples, "test": test_samples}
    streams = {name: generator_for(seed, "reber", name) for name in sizes}
    train, test = (_split([string(streams[name]) for _ in range(size)]) for name, size in sizes.items())
    digest = sha256_of(*(x.numpy() for split in (train, test) for x in (split.inputs, split.targets)))
    return Source(train, {"test": test}, f"generated from data_seed={seed}", digest, files=())


def _split(strings: list[str]) -> Split:
    read = torch.zeros(max(map(len, strings)), len(strings), dtype=torch.int64, device="cpu")
    for row, one in enumerate(strings):
        read[: len(one), row] = torch.tensor([SYMBOLS.index(symbol) for symbol in one], device="cpu")
    lengths = torch.tensor([len(one) - 1 for one in strings], device="cpu")
    mask = torch.arange(len(read) - 1, device="cpu")[:, None] < lengths
    inputs = torch.nn.functional.one_hot(read[:-1], len(SYMBOLS)).double() * mask[..., None]
    return Split(inputs, read[1:] * mask, torch.arange(len(strings), device="cpu"), mask, sequence=True)
