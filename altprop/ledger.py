"""The ledger of a run: what was called how often, on how many examples, and what it cost in FLOPs.

Primitives count themselves. A few scheduled steps (0, 1, 3, 7, 15, ...) are audited under `flops.CountingMode`, which
gives each kind of call its FLOPs; between audits FLOPs follow from the counts. So counting costs almost nothing.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch

from altprop.errors import AltpropError
from altprop.flops import CountingMode

KINDS = (
    "forward",
    "backward",
    "block_forward",
    "block_backward",
    "transpose",
    "cell",
    "cell_jacobian",
    "readout",
    "readout_backward",
    "jvp",
    "hvp",
    "population",
    "update",
    "environment",
    "other",
)
CURRENCIES = ("steps", "epochs", "samples", "evaluations", "forward_equivalents", "flops", "seconds")
_NOTHING: AbstractContextManager[None] = nullcontext()


class Sectioned(Protocol):
    """What is told the kind of work at every moment: the counting mode of an audit, or a clock.

    Attributes:
        section: one of `KINDS`, the primitive that works; or "charged", for the counting mode, in `Ledger.charged`.
    """

    section: str


class _Section:
    """Names the kind of work while open: in an audited step its FLOPs go there."""

    def __init__(self, mode: Sectioned, kind: str) -> None:
        self._mode, self._kind = mode, kind

    def __enter__(self) -> None:
        self._outer, self._mode.section = self._mode.section, self._kind

    def __exit__(self, *exc: object) -> None:
        self._mode.section = self._outer


class _Rate:
    """FLOPs of one kind as a linear function of its calls and examples, fitted on the audits.

    Exact where the audits are: all per example, all per call, or a sum of both.
    """

    def __init__(self) -> None:
        self.points: list[tuple[float, float, float]] = []
        self.per_call = 0.0
        self.per_example = 0.0

    def add(self, calls: float, examples: float, flops: float) -> None:
        if (calls, examples, flops) not in self.points:
            self.points = [*self.points[-31:], (calls, examples, flops)]
        self._fit()

    def _fit(self) -> None:
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
        return self.per_call * calls + self.per_example * examples


class Ledger:
    """Counts of one run.

    Args:
        blocks: number of blocks of the model; a pass over one block counts as that share of a forward.
        forward_flops: FLOPs of one model forward on one example, the unit of `forward_equivalents`.

    Attributes:
        auditing: whether steps are audited where scheduled; without audits FLOPs follow from the earlier ones.
    """

    def __init__(self, blocks: int = 1, forward_flops: float = 0.0) -> None:
        self.blocks = max(1, blocks)
        self.forward_flops = forward_flops
        self.steps = 0
        self.updates = 0
        self.samples = 0
        self.environment_steps = 0
        self.seconds = 0.0
        self.epoch_samples = 1
        self._calls: dict[str, float] = dict.fromkeys(KINDS, 0)
        self._examples: dict[str, float] = dict.fromkeys(KINDS, 0)
        self._charged: dict[str, float] = {}
        self._rates = {kind: _Rate() for kind in KINDS}
        self._paused = 0
        self._mode: Sectioned | None = None
        self.auditing = True
        self.uncounted: dict[str, int] = {}
        self.live_bytes = 0
        self.saved_bytes = 0
        self.audits: list[tuple[float, float]] = []

    def primitive(self, kind: str, examples: float, calls: float = 1) -> AbstractContextManager[None]:
        """Count calls of a kind on so many examples; the work stands inside the returned context.

        Both are shares where a piece of a pass is made: a window of k in T time steps is k / T of a call.
        """
        if self._paused:
            return _NOTHING
        self._calls[kind] += calls
        self._examples[kind] += examples
        return _NOTHING if self._mode is None else _Section(self._mode, kind)

    def charged(self, kind: str = "other") -> AbstractContextManager[None]:
        """Work of torch whose FLOPs the caller counts by `charge` stands inside: audits learn nothing from it."""
        mode = self._mode
        if mode is None or self._paused:
            return _NOTHING
        return _Section(mode, "charged" if isinstance(mode, CountingMode) else kind)

    def charge(self, kind: str, flops: float) -> None:
        """Book FLOPs of work that torch does not see (numpy, DEAP, an own kernel)."""
        if not self._paused:
            self._charged[kind] = self._charged.get(kind, 0.0) + flops

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Count nothing inside: evaluation and probes are not counted, in audited steps too."""
        outside: AbstractContextManager[None] = self.charged()
        self._paused += 1
        try:
            with outside:
                yield
        finally:
            self._paused -= 1

    def count_step(self, samples: int) -> None:
        """Count one step that was fed so many targets."""
        self.steps += 1
        self.samples += samples
        self._calls["other"] += 1
        self._examples["other"] += samples

    def graph(self) -> AbstractContextManager[None]:
        """In an audited step, measure the bytes that autograd keeps for the graph that is built inside.

        Work under `torch.func` must stay outside: its transforms refuse the hooks.
        """
        return self._measured_graph() if isinstance(self._mode, CountingMode) and not self._paused else _NOTHING

    @contextmanager
    def _measured_graph(self) -> Iterator[None]:
        saved = _SavedBytes()
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
            yield
        self.saved_bytes = max(self.saved_bytes, saved.total)

    def due_for_audit(self, last: bool = False) -> bool:
        """Whether the step that begins now is audited: one of 0, 1, 3, 7, 15, ..., or the `last` of its context."""
        return ((self.steps + 1) & self.steps == 0 or last) and self.auditing

    @contextmanager
    def watched(self, by: Sectioned) -> Iterator[None]:
        """Tell `by` the kind of work at every moment, in steps that are not audited."""
        self._mode = by
        try:
            yield
        finally:
            self._mode = None

    @contextmanager
    def audit(self) -> Iterator[None]:
        """Run one whole step under the counting mode and learn the FLOPs of each kind from it."""
        calls, examples = dict(self._calls), dict(self._examples)
        mode = CountingMode()
        self._mode = mode
        try:
            with mode:
                yield
        finally:
            self._mode = None
        predicted = 0.0
        fitted = bool(self.audits)
        for kind in KINDS:
            done = self._calls[kind] - calls[kind], self._examples[kind] - examples[kind]
            predicted += self._rates[kind].flops(*done)
            flops = mode.flops.get(kind, 0)
            if flops or any(done):
                self._rates[kind].add(*done, flops)
        observed = float(sum(flops for kind, flops in mode.flops.items() if kind != "charged"))
        self.audits.append((predicted if fitted else observed, observed))
        self.live_bytes = max(self.live_bytes, mode.peak_bytes)
        for name, count in mode.uncounted.items():
            self.uncounted[name] = self.uncounted.get(name, 0) + count

    @property
    def forwards(self) -> float:
        """Forward passes of the whole model over a batch; an individual of a population is one."""
        return _whole(
            self._calls["forward"]
            + self._calls["cell"]
            + self._calls["population"]
            + self._calls["block_forward"] / self.blocks
        )

    @property
    def backwards(self) -> float:
        """Backward passes of the whole model over a batch."""
        return _whole(self._calls["backward"] + self._calls["block_backward"] / self.blocks)

    @property
    def flops(self) -> float:
        """FLOPs so far."""
        return sum(self.flops_by_kind().values())

    def flops_by_kind(self) -> dict[str, float]:
        """FLOPs so far, of each kind that has any."""
        found: dict[str, float] = {}
        for kind, rate in self._rates.items():
            amount = rate.flops(self._calls[kind], self._examples[kind])
            if amount:
                found[kind] = amount
        for kind, amount in self._charged.items():
            found[kind] = found.get(kind, 0.0) + amount
        return found

    @property
    def residual(self) -> float:
        """Largest relative difference between an audited step and what the earlier audits predicted."""
        return max((abs(p - o) / max(o, 1.0) for p, o in self.audits), default=0.0)

    @property
    def forward_equivalents(self) -> float:
        """FLOPs in units of one model forward on one example; where that costs none, counted calls (backward = 2)."""
        if self.forward_flops > 0:
            return self.flops / self.forward_flops
        e = self._examples
        passes = e["forward"] + e["population"] + e["block_forward"] / self.blocks + 2 * e["jvp"] + 4 * e["hvp"]
        return passes + 2 * (e["backward"] + e["block_backward"] / self.blocks)

    def spent(self, currency: str) -> float:
        """What has been spent in a currency.

        Raises:
            AltpropError: for an unknown currency.
        """
        if currency == "epochs":
            return self.samples / self.epoch_samples
        if currency == "evaluations":
            return float(self._calls["population"] + self._calls["forward"])
        if currency not in CURRENCIES:
            raise AltpropError(f"unknown budget.currency {currency!r}; known are: {', '.join(CURRENCIES)}")
        return float(getattr(self, currency))

    def summary(self) -> dict[str, float]:
        """Return all counts by name, as records hold them."""
        return {
            "steps": self.steps,
            "updates": self.updates,
            "samples": self.samples,
            "forwards": self.forwards,
            "backwards": self.backwards,
            "jvps": self._calls["jvp"],
            "hvps": self._calls["hvp"],
            "evaluations": self._calls["population"],
            "environment_steps": self.environment_steps,
            "flops": self.flops,
            "forward_equivalents": self.forward_equivalents,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the ledger in weights_only-safe types."""
        return {
            "numbers": {name: getattr(self, name) for name in _NUMBERS},
            "calls": dict(self._calls),
            "examples": dict(self._examples),
            "charged": dict(self._charged),
            "points": {kind: [list(point) for point in rate.points] for kind, rate in self._rates.items()},
            "uncounted": dict(self.uncounted),
            "audits": [list(pair) for pair in self.audits],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the ledger of `state_dict` back."""
        for name, value in state["numbers"].items():
            setattr(self, name, value)
        self._calls, self._examples = dict(state["calls"]), dict(state["examples"])
        self._charged, self.uncounted = dict(state["charged"]), dict(state["uncounted"])
        self.audits = [(float(p), float(o)) for p, o in state["audits"]]
        for kind, points in state["points"].items():
            rate = self._rates[kind]
            rate.points = [(c, e, f) for c, e, f in points]
            rate._fit()


_NUMBERS = ("steps", "updates", "samples", "environment_steps", "seconds", "live_bytes", "saved_bytes")


class _SavedBytes:
    """Sums the bytes that autograd keeps for backward; each storage once, parameters left out."""

    def __init__(self) -> None:
        self.total = 0
        self._seen: set[int] = set()

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        owner = tensor if tensor._base is None else tensor._base  # W^T is kept as a view of the parameter W
        if not (owner.is_leaf and owner.requires_grad):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._seen:
                self._seen.add(storage.data_ptr())
                self.total += storage.nbytes()
        return tensor

    @staticmethod
    def unpack(tensor: torch.Tensor) -> torch.Tensor:
        return tensor


def _whole(value: float) -> float:
    """Return an int where shares that are summed in floating point make one."""
    value = round(value, 6)
    return int(value) if float(value).is_integer() else value
