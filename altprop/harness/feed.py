"""The order in which training data is fed: an index plan that depends on seed and batch size alone."""

from __future__ import annotations

import hashlib

import torch

from altprop.capabilities import BatchMode
from altprop.randomness import derive_seed
from altprop.ranks import Ranks
from altprop.task import Batch, Split


class Feed:
    """Give batch k of a run, for any k, so that a position is a number.

    An epoch's rows are gathered once in their order, and its batches are slices of that.

    Args:
        split: the training split, on its device.
        batch_size: rows, or "full".
        batch_mode: of the algorithm; FULL is fed the whole split, NONE nothing.
        seed: of the run.
        ranks: processes that share the run, each of which gets its rows of every batch.
    """

    def __init__(
        self, split: Split, batch_size: int | str, batch_mode: BatchMode, seed: int, ranks: Ranks | None = None
    ) -> None:
        self.split = split
        rows = len(split)
        self.batch_size = rows if batch_size == "full" else min(int(batch_size), rows)
        self.batch_mode = batch_mode
        self.seed = seed
        self.batches = -(-rows // self.batch_size)
        self.ranks = ranks or Ranks()
        self._all = split.whole()
        start, length = self.ranks.share(rows)
        self._whole = self._all if self.ranks.size == 1 else _slice(self._all, start, length, split.sequence)
        self._epoch = -1
        self._shuffled = self._all

    def order(self, epoch: int) -> torch.Tensor:
        """Return the rows of an epoch in their order, int64 on the CPU."""
        generator = torch.Generator(device="cpu").manual_seed(derive_seed(self.seed, "order", epoch))
        return torch.randperm(len(self.split), generator=generator, device="cpu")

    def batch(self, position: int) -> Batch | None:
        """Return the batch at a position, counted in batches from the start of the run."""
        if self.batch_mode is BatchMode.NONE:
            return None
        if self.batch_mode is BatchMode.FULL or self.batches == 1:
            return self._whole
        epoch, place = divmod(position, self.batches)
        if epoch != self._epoch:
            self._epoch = epoch
            self._shuffled = self.split.batch(self.order(epoch).to(self._all.index.device))
        start = place * self.batch_size
        offset, length = self.ranks.share(min(self.batch_size, len(self.split) - start))
        return _slice(self._shuffled, start + offset, length, self.split.sequence)

    def digest(self, epochs: int = 3) -> str:
        """Return the SHA-256 of the index plan: batch size and the first epochs' orders."""
        state = hashlib.sha256(str(self.batch_size).encode())
        for epoch in range(epochs):
            state.update(self.order(epoch).numpy().tobytes())
        return state.hexdigest()


def _slice(epoch: Batch, start: int, length: int, sequence: bool) -> Batch:
    dim = 1 if sequence else 0
    return Batch(
        epoch.inputs.narrow(dim, start, length),
        epoch.targets.narrow(1 if epoch.per_step else 0, start, length),
        epoch.index.narrow(0, start, length),
        None if epoch.mask is None else epoch.mask.narrow(1, start, length),
        None if epoch.reset is None else epoch.reset.narrow(0, start, length),
    )
