"""The adding problem: remember two marked numbers over a long sequence and add them."""

from functools import cache
from typing import Any, ClassVar

import torch

from altprop import AltpropError, Capability, ModelSpec, Source, Split, Task
from altprop.checks import check_whole
from altprop.randomness import generator_for
from altprop.tasks.common import sha256_of


class Adding(Task):
    """Sequences (T, B, 2): a number from U(0, 1) and a mark, which is 1 once in each half and 0 elsewhere.

    The target (B, 1) is the sum of the two marked numbers. Always saying 1 has an MSE of exactly 1/6, the variance of
    that sum; a learner below it has carried something over time. The data are generated from `data_seed`.

    With marks anywhere, some fall right before the end. A rule that looks back a few times meets these, and weights
    that are shared over time do the rest: it learns the task whatever T is. `quiet` closes that way, as all that counts
    then lies at least so many times back.

    Args:
        length: T, at least 2.
        quiet: last times that carry no mark, less than T / 2.
        samples: sequences that may be trained on.
        test_samples: sequences of the test set.
        common: see `Task`.

    Raises:
        AltpropError: for values below these.

    Paper: Hochreiter and Schmidhuber 1997, experiment 4, in the form of Le, Jaitly and Hinton 2015.
    """

    losses: ClassVar[tuple[str, ...]] = ("mse", "half_squared_error", "huber")
    metric: ClassVar[str] = "mse"
    higher_is_better: ClassVar[bool] = False
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED})

    def __init__(
        self, *, length: int = 50, quiet: int = 0, samples: int = 5000, test_samples: int = 1000, **common: Any
    ) -> None:
        super().__init__(**common)
        self.length = check_whole(length, "task.length", 2)
        self.quiet = check_whole(quiet, "task.quiet", 0)
        if self.quiet >= length - length // 2:
            raise AltpropError(
                f"task.quiet={quiet} leaves no time for the second mark of {length}; "
                f"take at most {length - length // 2 - 1} or raise task.length"
            )
        self.samples = check_whole(samples, "task.samples", 2)
        self.test_samples = check_whole(test_samples, "task.test_samples", 1)

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((2,), 1, sequence=True)

    def _load(self) -> Source:
        return _source(self.length, self.quiet, self.samples, self.test_samples, self.data_seed)

    def _metrics(self, outputs: torch.Tensor, split: Split) -> dict[str, float]:
        return {"mse": float((outputs - split.targets).double().square().mean())}


@cache
def _source(length: int, quiet: int, samples: int, test_samples: int, seed: int) -> Source:
    train = _draw(length, quiet, samples, generator_for(seed, "adding", "train"))
    test = _draw(length, quiet, test_samples, generator_for(seed, "adding", "test"))
    digest = sha256_of(*(x.numpy() for split in (train, test) for x in (split.inputs, split.targets)))
    return Source(train, {"test": test}, f"generated from data_seed={seed}", digest, files=())


def _draw(length: int, quiet: int, count: int, generator: torch.Generator) -> Split:
    numbers = torch.rand(length, count, generator=generator, dtype=torch.float64, device="cpu")
    half = length // 2
    first = torch.randint(0, half, (count,), generator=generator, device="cpu")
    second = torch.randint(half, length - quiet, (count,), generator=generator, device="cpu")
    rows = torch.arange(count, device="cpu")
    marks = torch.zeros_like(numbers)
    marks[first, rows] = marks[second, rows] = 1.0
    targets = (numbers * marks).sum(0)[:, None]
    return Split(torch.stack([numbers, marks], dim=2), targets, rows, sequence=True)
