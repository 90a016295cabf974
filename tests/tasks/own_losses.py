"""Tasks that bring losses of their own, with reductions of their own, and further metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from altprop.capabilities import Capability
from altprop.data import ModelSpec, Source, Split
from altprop.losses import CrossEntropy, HalfSquaredError, Loss
from altprop.task import Task
from altprop.tasks.common import split_of
from altprop.tasks.iris import Iris


class SummedError(HalfSquaredError):
    """Half squared errors, summed over all elements."""

    name = "summed_error"

    def divisor(self, weights: Tensor) -> Tensor:
        return weights.new_ones(())


class SequenceError(HalfSquaredError):
    """Half squared errors, summed over each sequence, and the mean of those sums over the sequences."""

    name = "sequence_error"

    def divisor(self, weights: Tensor) -> Tensor:
        return weights.amax(0).sum().clamp(min=1)


class Traces(Task):
    """40 sequences of 2 to 6 steps; the target at each step is the running mean of the inputs, and its square."""

    losses: ClassVar[tuple[str | type[Loss], ...]] = (SummedError, SequenceError, "half_squared_error")
    metric: ClassVar[str] = "correlation"
    metrics: ClassVar[Mapping[str, bool]] = {"absolute_error": False}
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.SUPERVISED})

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((2,), 2, sequence=True, per_step=True)

    def _load(self) -> Source:
        random = torch.Generator().manual_seed(0)
        parts = [self._draw(random, rows) for rows in (30, 10)]
        return Source(parts[0], {"test": parts[1]}, "running means", "drawn with seed 0", files=())

    def _draw(self, random: torch.Generator, rows: int) -> Split:
        inputs = torch.randn(6, rows, 2, generator=random, dtype=torch.float64)
        mean = inputs.mean(2).cumsum(0) / torch.arange(1.0, 7.0, dtype=torch.float64)[:, None]
        split = split_of(inputs.numpy(), torch.stack([mean, mean.square()], 2).numpy(), sequence=True)
        lengths = torch.randint(2, 7, (rows,), generator=random)
        return replace(split, mask=torch.arange(6)[:, None] < lengths)

    def _metrics(self, outputs: Tensor, split: Split) -> dict[str, float]:
        found, wanted = outputs[split.mask].double(), split.targets[split.mask].double()
        return {
            "absolute_error": float((found - wanted).abs().mean()),
            "correlation": float(torch.corrcoef(torch.stack([found[:, 0], wanted[:, 0]]))[0, 1]),
        }


class Unmeasured(Traces):
    """Names a metric that it does not measure."""

    metrics: ClassVar[Mapping[str, bool]] = {"absolute_error": False, "regret": False}


class Twice(Traces):
    """Names its leading metric a second time."""

    metrics: ClassVar[Mapping[str, bool]] = {"correlation": True}


class SummedEntropy(CrossEntropy):
    """Cross-entropy, summed over the rows."""

    name = "summed_entropy"

    def divisor(self, weights: Tensor) -> Tensor:
        return weights.new_ones(())


class SummedIris(Iris):
    """Iris under the sum of its cross-entropies."""

    losses: ClassVar[tuple[str | type[Loss], ...]] = (SummedEntropy, "cross_entropy")


class OtherEntropy(SummedEntropy):
    """Takes the name of a built-in loss."""

    name = "cross_entropy"


class Impostor(Iris):
    """Brings another loss under a name that is taken."""

    losses: ClassVar[tuple[str | type[Loss], ...]] = (OtherEntropy,)
