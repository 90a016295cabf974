"""Feeds: the index plan of every task, a wrapper that changes batches, and a stream of contexts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from altprop.capabilities import BatchMode
from altprop.data import Batch, Feed, Split
from altprop.errors import AltpropError
from altprop.randomness import derive_seed
from altprop.ranks import Ranks


class EpochFeed(Feed):
    """Epoch after epoch of all rows in an order that depends on seed and batch size alone.

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
        self.split, self.given_size = split, batch_size
        rows = len(split)
        self.batch_size = rows if batch_size == "full" else min(int(batch_size), rows)
        self.batch_mode = batch_mode
        self.seed = seed
        self.batches = -(-rows // self.batch_size)
        self.sizes = frozenset({self.batch_size, rows - (self.batches - 1) * self.batch_size})
        self.ranks = ranks or Ranks()
        self._all = split.whole()
        start, length = self.ranks.share(rows)
        self._whole = self._all if self.ranks.size == 1 else _slice(self._all, start, length, split.sequence)
        self._epoch = -1
        self._shuffled = self._all

    @property
    def whole(self) -> bool:
        """Whether every batch is the whole split, the same in runs of all seeds."""
        return self.batch_mode is BatchMode.FULL or (self.batch_mode is BatchMode.MINI and self.batches == 1)

    @property
    def plain(self) -> bool:
        """Whether a batch is rows in the epoch's order and nothing else: no sequences, and all are labelled."""
        fed = self.batch_mode is BatchMode.MINI and self.batches > 1 and self.ranks.size == 1
        return fed and not self.split.sequence and self.split.labelled is None

    def order(self, epoch: int) -> Tensor:
        """Return the rows of an epoch in their order, int64 on the CPU."""
        generator = torch.Generator(device="cpu").manual_seed(derive_seed(self.seed, "order", epoch))
        return torch.randperm(len(self.split), generator=generator, device="cpu")

    def batch(self, position: int) -> Batch | None:
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


class MappedFeed(Feed):
    """A feed whose batches are changed one by one: permuted targets, noisy labels, rows without their label.

    The order stays that of the feed within, and so does its digest.

    Args:
        feed: what is wrapped.
        change: batch -> batch of as many rows, a function of the batch alone.
    """

    def __init__(self, feed: Feed, change: Callable[[Batch], Batch]) -> None:
        self._feed, self._change = feed, change
        self.split, self.seed, self.sizes, self.contexts = feed.split, feed.seed, feed.sizes, feed.contexts

    def batch(self, position: int) -> Batch | None:
        batch = self._feed.batch(position)
        return None if batch is None else self._change(batch)

    def digest(self) -> str:
        return self._feed.digest()

    def context_at(self, position: int) -> str | None:
        return self._feed.context_at(position)


class StreamFeed(Feed):
    """One context after the other, each with rows of its own and so many epochs; the last one goes on for ever.

    `Batch.last` marks the last batch of a context, after which the harness evaluates every test set.

    Args:
        plan: the index plan of every task, as `Task._feed` is given it: its split, batch size, mode, seed and ranks.
        contexts: name -> rows of the split, (N_c,) int64, in their order.
        epochs: over each context.
        revealed: whether batches name their context.

    Raises:
        AltpropError: without a context, with an empty one, or around what is no index plan.
    """

    def __init__(self, plan: Feed, contexts: Mapping[str, Tensor], epochs: int = 1, revealed: bool = True) -> None:
        if not isinstance(plan, EpochFeed):
            raise AltpropError(f"a stream is made of the index plan of a task; got a {type(plan).__name__}")
        if not contexts or any(len(rows) == 0 for rows in contexts.values()):
            raise AltpropError("a stream needs contexts with at least one row each")
        self.split, self.seed, self.contexts, self._revealed = plan.split, plan.seed, tuple(contexts), revealed
        self._rows = list(contexts.values())
        self._parts = [
            EpochFeed(
                plan.split.take(rows.to(plan.split.inputs.device)),
                plan.given_size,
                plan.batch_mode,
                derive_seed(plan.seed, "context", name),
                plan.ranks,
            )
            for name, rows in contexts.items()
        ]
        steps = [epochs * (1 if plan.batch_mode is BatchMode.FULL else part.batches) for part in self._parts]
        self._ends = [sum(steps[: place + 1]) for place in range(len(steps))]
        self.sizes = frozenset().union(*(part.sizes for part in self._parts))

    def batch(self, position: int) -> Batch | None:
        place = self._place(position)
        start = self._ends[place - 1] if place else 0
        batch = self._parts[place].batch(position - start)
        if batch is None:
            return None
        # Rows are counted in the whole split, as everywhere.
        index = self._rows[place].to(batch.index.device).index_select(0, batch.index)
        name = self.contexts[place] if self._revealed else None
        return replace(batch, index=index, context=name, last=position + 1 in self._ends)

    def digest(self) -> str:
        parts = [f"{name}:{part.digest()}" for name, part in zip(self.contexts, self._parts, strict=True)]
        return hashlib.sha256(";".join([*parts, str(self._ends)]).encode()).hexdigest()

    def context_at(self, position: int) -> str:
        return self.contexts[self._place(position)]

    def _place(self, position: int) -> int:
        return next((place for place, end in enumerate(self._ends) if position < end), len(self._ends) - 1)


def _slice(epoch: Batch, start: int, length: int, sequence: bool) -> Batch:
    dim = 1 if sequence else 0
    return Batch(
        epoch.inputs.narrow(dim, start, length),
        epoch.targets.narrow(1 if epoch.per_step else 0, start, length),
        epoch.index.narrow(0, start, length),
        None if epoch.mask is None else epoch.mask.narrow(1, start, length),
        None if epoch.reset is None else epoch.reset.narrow(0, start, length),
        None if epoch.labelled is None else epoch.labelled.narrow(0, start, length),
    )
