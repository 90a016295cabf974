"""Which rows probes look at."""

import torch

from altprop.data import Split
from altprop.harness.building import _probe_rows


def split(targets: torch.Tensor) -> Split:
    rows = torch.arange(len(targets))
    return Split(rows[:, None].float(), targets, rows)


def test_every_class_has_its_share_of_the_rows() -> None:
    """Classes one after the other, 500, 300 and 200 of them: the first hundred rows would be of one class."""
    targets = torch.repeat_interleave(torch.arange(3), torch.tensor([500, 300, 200]))
    rows = _probe_rows(split(targets), 100, 0)
    assert torch.bincount(targets[rows]).tolist() == [50, 30, 20]
    assert rows.unique().numel() == 100
    assert torch.equal(rows, _probe_rows(split(targets), 100, 0))
    assert not torch.equal(rows, _probe_rows(split(targets), 100, 1))


def test_numbers_are_spread_and_small_sets_are_whole() -> None:
    targets = torch.linspace(-1, 1, 1000)[:, None]
    assert abs(float(targets[_probe_rows(split(targets), 50, 0)].mean())) < 1e-2
    assert _probe_rows(split(targets[:30]), 50, 0).tolist() == list(range(30))
    assert len(_probe_rows(split(torch.zeros(40, 3)), 50, 0).unique()) == 40
