"""The control that is fed shuffled labels: what it shares with backprop, what it does not, and where it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from altprop import BatchMode, Feed, Split
from altprop.algorithms.control.shuffled_labels import ShuffledLabels
from altprop.errors import Refused
from altprop.feed import EpochFeed
from altprop.harness.building import Parts, build_parts
from altprop.harness.cell import make_cell
from altprop.harness.composition import compose_cell
from altprop.report.reading import read
from altprop.report.results import rows
from altprop.testing import sgd

SUITE = ("shuffled_labels", "null", "random_direction")


def parts(algorithm: str, seed: int = 0, *overrides: str) -> Parts:
    given = [f"algorithm={algorithm}", "probes=off", *overrides]
    plain: Any = OmegaConf.to_container(compose_cell(given), resolve=True)
    return build_parts(make_cell(plain, given), seed)


def fed(made: Parts, batches: int) -> dict[int, int]:
    """Return row -> target over some batches, and see that each row always comes with the same one."""
    of_row: dict[int, int] = {}
    for place in range(batches):
        batch = made.feed.batch(place)
        assert batch is not None
        for row, target in zip(batch.index.tolist(), batch.targets.tolist(), strict=True):
            assert of_row.setdefault(row, target) == target
    return of_row


def test_labels_alone_differ_from_backprops() -> None:
    """Weights, order, split and inputs are backprop's; training targets are a permutation; nothing else moved."""
    ours, theirs = parts("shuffled_labels"), parts("backprop")
    assert ours.identity == theirs.identity
    for place in range(3):
        one, other = ours.feed.batch(place), theirs.feed.batch(place)
        assert one is not None
        assert other is not None
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.inputs, other.inputs)
        assert (one.targets != other.targets).float().mean() > 0.75  # .9 of 64 on average
    assert isinstance(theirs.feed, EpochFeed)
    epoch = theirs.feed.batches
    assert sorted(fed(ours, epoch).values()) == sorted(fed(theirs, epoch).values())
    own = theirs.data.train.targets
    assert torch.equal(ours.data.train.targets, own)
    assert all(torch.equal(ours.data.tests[n].targets, s.targets) for n, s in theirs.data.tests.items())
    assert ours.data.validation is not None
    assert theirs.data.validation is not None
    assert torch.equal(ours.data.validation.targets, theirs.data.validation.targets)


def test_the_permutation_is_the_runs_own_and_stays() -> None:
    first = parts("shuffled_labels")
    epoch = -(-len(first.data.train) // max(first.feed.sizes))
    found = fed(first, 2 * epoch)  # `fed` sees that it stays
    assert found == fed(parts("shuffled_labels"), epoch)
    assert found != fed(parts("shuffled_labels", 1), epoch)
    assert len(found) == len(first.data.train)


def wrapped(split: Split, seed: int) -> Feed:
    return ShuffledLabels(sgd())._wrap_feed(EpochFeed(split, "full", BatchMode.MINI, seed))


def test_a_row_keeps_its_label_no_more_often_than_others_have_it() -> None:
    """Over 2,000 seeds of 12 rows each target comes to each row 2,000 / 12 times; 5 standard deviations are 62."""
    rows_ = torch.arange(12)
    split = replace(parts("backprop").data.train, inputs=rows_[:, None].float(), targets=rows_, rows=rows_)
    counts = torch.zeros(12, 12)
    for seed in range(2000):
        batch = wrapped(split, seed).batch(0)
        assert batch is not None
        counts[batch.index, batch.targets] += 1
    assert (counts - 2000 / 12).abs().max() < 62


def test_targets_of_each_time_step_go_with_their_row() -> None:
    targets = torch.arange(12.0).reshape(3, 4, 1)  # (T, N, C)
    split = replace(
        parts("backprop").data.train,
        inputs=torch.zeros(3, 4, 1),
        targets=targets,
        rows=torch.arange(4),
        sequence=True,
    )
    moved = split.with_targets_of(torch.tensor([2, 0, 3, 1]))
    assert torch.equal(moved.targets[:, 0], targets[:, 2])
    assert torch.equal(moved.targets[:, 3], targets[:, 1])
    batch = wrapped(split, 0).batch(0)
    assert batch is not None
    assert {tuple(column.tolist()) for column in batch.targets[..., 0].T} == {
        tuple(column.tolist()) for column in targets[..., 0].T
    }
    with pytest.raises(Refused, match="unequal length"):
        wrapped(replace(split, mask=torch.ones(3, 4, dtype=torch.bool)), 0)


def test_it_is_refused_without_labels() -> None:
    with pytest.raises(Refused, match="targets to learn from"):
        parts("shuffled_labels", 0, "task=quadratic")


def test_controls_end_at_chance_and_are_flagged(run: Callable[..., Any], tmp_path: Path) -> None:
    """Real runs on digits: backprop far above chance and unflagged, the three controls at chance and flagged."""
    for algorithm in ("backprop", *SUITE):
        rate = () if algorithm == "null" else ("optimizer.lr=0.01",)
        run("budget.amount=200", *rate, f"algorithm={algorithm}", "seeds=6")
    report = read([tmp_path / "runs"], "controls")
    (table,) = report.tables
    found = {row.learner.name.partition("+")[0].partition("·")[0]: row for row in rows(report, table)}
    assert set(found) == {"backprop", *SUITE}
    assert found["backprop"].flags == ()
    assert found["backprop"].median is not None
    assert found["backprop"].median > 0.7
    for name in SUITE:
        row = found[name]
        assert row.learner.control
        assert row.flags == ("at chance",), (name, row.mean)
        assert row.median is not None
        assert abs(row.median - 0.1) < 0.06
