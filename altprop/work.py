"""Kinds of work and their rates: what FLOPs follow, learned from what was measured."""

import torch

PER = {
    "forward": "both",
    "backward": "both",
    "block_forward": "both",
    "block_backward": "both",
    "transpose": "both",
    "cell": "both",
    "cell_jacobian": "both",
    "readout": "both",
    "readout_backward": "both",
    "jvp": "both",
    "hvp": "both",
    "population": "both",
    "update": "call",
    "environment": "both",
    "other": "both",
}
"""Kind of work of the primitives -> what its FLOPs follow: calls, examples, or both (a product of weights with weights
costs the same for any number of examples). "cell" is one of a recurrent model's T time steps (1 / T of a call),
"readout" its readout alone, "transpose" a way back without gradients of parameters, "other" what no primitive does."""
Size = tuple[float, float]
"""(calls, examples) of a piece of work."""


class WorkKind:
    """One kind of work: how much of it there was, and its FLOPs as a linear function of calls and examples.

    The rate is exact where what was measured is: all per example, all per call, or a sum of both.

    Args:
        per: what FLOPs follow: "call", "example" or "both".

    Attributes:
        calls, examples: so far.
        spent: FLOPs up to the last change of structure, which came after `since` (calls, examples).
        points: (calls, examples, FLOPs) that were measured, the last 32 that differ.
        known: (calls, examples) of sections that were measured.
        sizes: of sections that need no measuring: `known`, or none in a step in which another size occurs.
    """

    __slots__ = ("calls", "examples", "known", "per", "per_call", "per_example", "points", "since", "sizes", "spent")

    def __init__(self, per: str) -> None:
        self.per = per
        self.calls: float = 0
        self.examples: float = 0
        self.spent = 0.0
        self.since: Size = (0, 0)
        self._clear()

    def forget(self, spent: float) -> None:
        """Forget the rate, not the counts: so many FLOPs were spent up to now, and what comes costs something else."""
        self.spent, self.since = spent, (self.calls, self.examples)
        self._clear()

    def _clear(self) -> None:
        self.points: list[tuple[float, float, float]] = []
        self.per_call = self.per_example = 0.0
        self.known: set[Size] = set()
        self.sizes = self.known

    def add(self, calls: float, examples: float, flops: float) -> None:
        """Learn from what so many calls on so many examples cost."""
        if (calls, examples, flops) not in self.points:
            self.points = [*self.points[-31:], (calls, examples, flops)]
        self.fit()

    def fit(self) -> None:
        """Fit the rate to the points."""
        calls, examples, flops = (
            (sum(values) for values in zip(*self.points, strict=True)) if self.points else (0, 0, 0)
        )
        if self.per == "both":
            self._fit_both()
        elif self.per == "call":
            self.per_call = flops / calls if calls else 0.0
        else:
            self.per_example = flops / examples if examples else 0.0

    def _fit_both(self) -> None:
        if not self.points:
            return
        ratios = [flops / examples for _, examples, flops in self.points if examples]
        # Shares of a pass are sums in floating point: 1e-9 is far above their rounding, far below a real difference.
        if ratios and len(ratios) == len(self.points) and max(ratios) - min(ratios) <= 1e-9 * max(ratios):
            self.per_call, self.per_example = 0.0, ratios[0]
            return
        cc = sum(c * c for c, _, _ in self.points)
        ce = sum(c * e for c, e, _ in self.points)
        ee = sum(e * e for _, e, _ in self.points)
        cf = sum(c * f for c, _, f in self.points)
        ef = sum(e * f for _, e, f in self.points)
        determinant = cc * ee - ce * ce
        if determinant > 1e-9 * cc * ee:
            self.per_call = (cf * ee - ef * ce) / determinant
            self.per_example = (ef * cc - cf * ce) / determinant
        elif ee:
            self.per_call, self.per_example = 0.0, ef / ee
        elif cc:
            self.per_call, self.per_example = cf / cc, 0.0

    def flops(self, calls: float, examples: float) -> float:
        """Return what so much work costs by the rate."""
        return self.per_call * calls + self.per_example * examples

    def total(self) -> float:
        """Return the FLOPs so far."""
        return self.spent + self.flops(self.calls - self.since[0], self.examples - self.since[1])

    @property
    def misfit(self) -> float:
        """Largest relative difference of what was measured from the rate, for work that is declared per one thing."""
        if self.per == "both":
            return 0.0
        return max((abs(self.flops(c, e) - f) / max(f, 1.0) for c, e, f in self.points), default=0.0)


class SavedBytes:
    """Sums the bytes that autograd keeps for backward; each storage once, parameters left out.

    Of a storage counts what the largest tensor shows of it: a batch is a view of the rows of a whole epoch.
    """

    def __init__(self) -> None:
        self._kept: dict[int, int] = {}

    @property
    def total(self) -> int:
        """The bytes."""
        return sum(self._kept.values())

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        owner = tensor if tensor._base is None else tensor._base  # W^T is kept as a view of the parameter W
        if not (owner.is_leaf and owner.requires_grad):
            storage = tensor.untyped_storage()
            size = min(tensor.numel() * tensor.element_size(), storage.nbytes())  # an expanded one shows more
            self._kept[storage.data_ptr()] = max(self._kept.get(storage.data_ptr(), 0), size)
        return tensor

    @staticmethod
    def unpack(tensor: torch.Tensor) -> torch.Tensor:
        return tensor
