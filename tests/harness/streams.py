"""Planted tasks: a stream of two contexts of iris, and iris of whose rows a third has a label."""

from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from altprop import Capability, Feed, Source, Split
from altprop.feed import EpochFeed, MappedFeed, StreamFeed
from altprop.tasks.iris import Iris


class SplitIris(Iris):
    """Setosa and versicolor first, then virginica; a test set for each context beside the whole one."""

    offers: ClassVar[frozenset[Capability]] = Iris.offers | {Capability.STREAM}

    def _load(self) -> Source:
        source = super()._load()
        whole = source.tests["test"]
        tests = {"test": whole}
        for name, chosen in (("early", whole.targets < 2), ("late", whole.targets == 2)):
            rows = chosen.nonzero()[:, 0]
            batch = whole.batch(rows)
            tests[name] = replace(whole, inputs=batch.inputs, targets=batch.targets, rows=whole.rows[rows])
        return replace(source, tests=tests)

    def _contexts(self, split: Split) -> dict[str, Tensor]:
        early = split.targets < 2
        return {"early": early.nonzero()[:, 0], "late": (~early).nonzero()[:, 0]}

    def _feed(self, feed: Feed) -> Feed:
        return StreamFeed(feed, self._contexts(feed.split), epochs=10)


class FewLabels(Iris):
    """Every third row of the training split may be learned from."""

    def _feed(self, feed: Feed) -> Feed:
        return MappedFeed(feed, lambda batch: replace(batch, labelled=batch.index % 3 == 0))


class LabelledSplit(Iris):
    """The same, said by the split: labels travel through the hold-out."""

    def _load(self) -> Source:
        source = super()._load()
        return replace(source, train=replace(source.train, labelled=source.train.rows % 3 == 0))


__all__ = ["EpochFeed", "FewLabels", "LabelledSplit", "SplitIris"]
