"""Several processes that share one run: each sees its rows of every batch, and sums go over all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """The processes of one run under `trainer=ddp`; one process by default, where everything here does nothing.

    Args:
        rank: of this process, from 0.
        size: number of processes. The process group must exist before the first sum.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def share(self, rows: int) -> tuple[int, int]:
        """Return (start, length) of this process's rows of a batch; too small a batch goes whole to everyone.

        >>> [Ranks(rank, 2).share(5) for rank in range(2)], Ranks(1, 2).share(1)
        ([(0, 3), (3, 2)], (0, 1))
        """
        if rows < self.size:
            return 0, rows
        each, more = divmod(rows, self.size)
        return self.rank * each + min(self.rank, more), each + (self.rank < more)

    def total(self, value: float) -> float:
        """Return the sum of a number over all processes, the same everywhere."""
        if self.size == 1:
            return value
        held = torch.tensor([value], dtype=torch.float64, device="cpu")
        dist.all_reduce(held)
        return float(held)

    def average(self, values: Sequence[Tensor], weight: float) -> list[Tensor]:
        """Return means over all processes, weighted by the targets that each one saw.

        Args:
            values: tensors that are means over this process's targets.
            weight: number of those targets.
        """
        if self.size == 1:
            return list(values)
        flat = torch.cat([value.detach().flatten() for value in values]) * weight
        held = torch.cat([flat, flat.new_tensor([weight])])
        dist.all_reduce(held)
        flat = held[:-1] / held[-1].clamp(min=1)
        sizes = [value.numel() for value in values]
        return [part.reshape(value.shape) for part, value in zip(flat.split(sizes), values, strict=True)]
