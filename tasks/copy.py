"""Copy memory: say again, after a long wait, the symbols that were read."""

from functools import cache
from typing import Any, ClassVar

import torch

from altprop import AltpropError, Capability, ModelSpec, Source, Split, Task
from altprop.checks import check_whole
from altprop.randomness import generator_for
from altprop.tasks.common import sha256_of


class Copy(Task):
    """Sequences (T + 2 K, B, A + 2) of symbols in one-hot form, with a target at each time, (T + 2 K, B).

    K symbols of an alphabet of A are read, then T - 1 blanks, a signal, and K blanks more, during which the K symbols
    must be said in their order; before, the target is a blank. A + 1 classes: the symbols, and the blank. What
    remembers nothing and knows the form says blanks and then guesses: its cross-entropy is K ln A / (T + 2 K). The
    accuracy is that over the K times of recall alone, 1 / A by guessing. The data are generated from `data_seed`, and
    no sequence of the test set is among those that may be trained on.

    Args:
        length: T, from the last symbol that is read to the signal, at least 1.
        symbols: K, how many are to be remembered.
        alphabet: A, how many there are, at least 2.
        samples: sequences that may be trained on.
        test_samples: sequences of the test set.
        common: see `Task`.

    Raises:
        AltpropError: for values below these, and where there are too few different sequences.

    Paper: Hochreiter and Schmidhuber 1997, in the form of Arjovsky, Shah and Bengio 2016, where K = 10
    and A = 8.
    """

    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED, Capability.CLASSES})

    def __init__(
        self,
        *,
        length: int = 10,
        symbols: int = 5,
        alphabet: int = 8,
        samples: int = 5000,
        test_samples: int = 1000,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.length = check_whole(length, "task.length", 1)
        self.symbols = check_whole(symbols, "task.symbols", 1)
        self.alphabet = check_whole(alphabet, "task.alphabet", 2)
        self.samples = check_whole(samples, "task.samples", 2)
        self.test_samples = check_whole(test_samples, "task.test_samples", 1)

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((self.alphabet + 2,), self.alphabet + 1, sequence=True, per_step=True)

    def _load(self) -> Source:
        form = (self.length, self.symbols, self.alphabet)
        return _source(form, self.samples, self.test_samples, self.data_seed)

    def _metrics(self, outputs: torch.Tensor, split: Split) -> dict[str, float]:
        said, wanted = outputs[-self.symbols :].argmax(-1), split.targets[-self.symbols :]
        return {"accuracy": float((said == wanted).double().mean())}


@cache
def _source(form: tuple[int, int, int], samples: int, test_samples: int, seed: int) -> Source:
    length, symbols, alphabet = form
    drawn = _draw(symbols, alphabet, samples, generator_for(seed, "copy", "train"))
    others = _draw(symbols, alphabet, 4 * test_samples, generator_for(seed, "copy", "test"))
    others = others[:, ~torch.isin(_number(others, alphabet), _number(drawn, alphabet))][:, :test_samples]
    if others.shape[1] < test_samples:
        raise AltpropError(
            f"task.symbols={symbols} of {alphabet} make too few sequences for {samples} to train on and {test_samples} "
            "others to test on; raise task.symbols or lower task.samples"
        )
    train, test = (_split(part, length, alphabet) for part in (drawn, others))
    digest = sha256_of(*(x.numpy() for split in (train, test) for x in (split.inputs, split.targets)))
    return Source(train, {"test": test}, f"generated from data_seed={seed}", digest, files=())


def _draw(symbols: int, alphabet: int, count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, alphabet, (symbols, count), generator=generator, device="cpu")


def _number(drawn: torch.Tensor, alphabet: int) -> torch.Tensor:
    """Return a number (N,) for each column of symbols (K, N), by which columns are told apart."""
    numbers = torch.zeros_like(drawn[0])
    for row in drawn:
        numbers = numbers * alphabet + row
    return numbers


def _split(drawn: torch.Tensor, length: int, alphabet: int) -> Split:
    symbols, count = drawn.shape
    blank, signal = alphabet, alphabet + 1
    targets = torch.full((length + 2 * symbols, count), blank, device="cpu")
    read = targets.clone()
    read[:symbols], read[symbols + length - 1] = drawn, signal
    targets[-symbols:] = drawn
    inputs = torch.nn.functional.one_hot(read, alphabet + 2).double()
    return Split(inputs, targets, torch.arange(count, device="cpu"), sequence=True)
