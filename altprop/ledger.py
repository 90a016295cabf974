"""The ledger of a run: what was called how often, on how many examples, and what it cost in FLOPs.

Primitives count themselves, and a rule names its own work (`Ledger.work`). Each kind of work has a rate, FLOPs per
call, per example or a sum of both, and FLOPs follow from the counts. Rates are learned where `flops.CountingMode`
looks: over a few whole steps (0, 1, 3, 7, 15, ...), which are audited, and over single sections of a kind that has no
rate yet or occurs with another size than before. So counting costs almost nothing.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from altprop.errors import AltpropError
from altprop.flops import CountingMode
from altprop.vectorized import Unmeasured
from altprop.work import PER, SavedBytes, Size, WorkKind

KINDS = tuple(PER)
CURRENCIES = ("steps", "epochs", "samples", "episodes", "evaluations", "forward_equivalents", "flops", "seconds")
MOST_SIZES = 16
"""Sizes of a kind of work that are measured one by one; work of ever new sizes is predicted from these."""
_NOTHING: AbstractContextManager[None] = nullcontext()


class Sectioned(Protocol):
    """What is told the kind of work at every moment: the counting mode of an audit, or a clock.

    Attributes:
        section: the kind of work at hand; or, for the counting mode, "charged" or "paused" inside what
            is called so.
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


class _Measured:
    """Counts the FLOPs of one section outside an audit, and of the sections in it."""

    def __init__(self, ledger: "Ledger", kind: str, size: Size) -> None:
        self._ledger, self._kind, self._size = ledger, kind, size

    def __enter__(self) -> None:
        work = self._ledger._kinds[self._kind]
        work.calls -= self._size[0]
        work.examples -= self._size[1]
        self._before = self._ledger._counts()
        work.calls += self._size[0]
        work.examples += self._size[1]
        self._ledger._open(self._kind, self._size)
        self._mode = CountingMode()
        self._mode.section = self._kind
        self._ledger._mode = self._mode
        self._mode.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *exc: Any) -> None:
        self._mode.__exit__(*exc)  # type: ignore[no-untyped-call]
        self._ledger._mode = None
        self._ledger._note(self._mode, self._before)


class Ledger:
    """Counts of one run.

    Args:
        blocks: number of blocks of the model; a pass over one block counts as that share of a forward.
        forward_flops: FLOPs of one model forward on one example, the unit of `forward_equivalents`.

    Attributes:
        auditing: whether steps are audited where scheduled; without audits FLOPs follow from the earlier ones.
        seconds: CPU seconds of the steps that were timed, which the harness measures.
        audit_seconds: CPU seconds of audited steps in this process, which are not the learner's: counting slows a step.
        untimed: audited steps, whose seconds are no part of `seconds`.
        stacked: whether the steps are those of many seeds at once, whose work is measured on one of them beforehand.
        measure_forward: gives `forward_flops` of the model as it is now.
    """

    def __init__(self, blocks: int = 1, forward_flops: float = 0.0) -> None:
        self.blocks = max(1, blocks)
        self.forward_flops = forward_flops
        self.steps = 0
        self.updates = 0
        self.samples = 0
        self.environment_steps = 0
        self.episodes = 0
        self.seconds = 0.0
        self.audit_seconds = 0.0
        self.untimed = 0
        self.epoch_samples = 1
        self._kinds = {kind: WorkKind(per) for kind, per in PER.items()}
        self._charged: dict[str, float] = {}
        self._measured: dict[str, tuple[float, float, float]] = {}
        self._changed = False
        self._across_change: float | None = None
        self._unit_base = (0.0, 0.0)
        self._new: set[tuple[str, Size]] = set()
        self._paused = 0
        self._mode: Sectioned | None = None
        self.auditing = True
        self.stacked = False
        self.measure_forward: Callable[[], float] = lambda: self.forward_flops
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
        work = self._kinds[kind]
        work.calls += calls
        work.examples += examples
        if self._mode is None:
            return _NOTHING if (calls, examples) in work.sizes else self._unmeasured(work, kind, (calls, examples))
        if isinstance(self._mode, CountingMode):
            self._new.add((kind, (calls, examples)))
        return _Section(self._mode, kind)

    def work(self, name: str, *, per: str, examples: float = 0, calls: float = 1) -> AbstractContextManager[None]:
        """Count work that a rule does beside the primitives, and give it a rate of its own; it stands inside.

            with ledger.work("factor refresh", per="call"):
                factors = [torch.linalg.inv(a) for a in moments]

        What is not done in every step alike must be named, or the audits take it for the rule, or miss it.

        Args:
            name: any; the same work has the same name in every step.
            per: "call" where its cost does not depend on how many examples there are, "example" where it is
                proportional to them.
            examples: of a call, where the work is per example.
            calls: how often the work is done inside.

        Raises:
            AltpropError: for another `per`, one that differs from before, and work per example without examples.
        """
        if per not in ("call", "example"):
            raise AltpropError(f"work {name!r} is per 'call' or per 'example'; got per={per!r}")
        if per == "example" and not examples:
            raise AltpropError(f"work {name!r} is per example; say how many: examples=")
        kind = self._kinds.setdefault(name, WorkKind(per))
        if kind.per != per:
            raise AltpropError(f"work {name!r} is per {kind.per}, and here it is said to be per {per}")
        return self.primitive(name, examples if per == "example" else 0, calls)

    def calls(self, kind: str) -> float:
        """Return how many calls of a kind of work there were."""
        return self._kinds[kind].calls if kind in self._kinds else 0

    def _unmeasured(self, work: WorkKind, kind: str, size: Size) -> AbstractContextManager[None]:
        """Return what measures a section of a size that was not measured yet.

        A kind with sections that count no call, and are parts of others, is measured in whole steps alone.

        Raises:
            Unmeasured: amid a step of many seeds.
        """
        opened = work.sizes is not work.known
        measured = opened or ((0, 0) not in work.known and len(work.known) < MOST_SIZES)
        if not (self.auditing and measured):
            return _NOTHING
        if self.stacked:
            raise Unmeasured(
                f"work {kind!r} of this size first occurs amid a step of many seeds; it is measured on one"
            )
        return _Measured(self, kind, size)

    def _counts(self) -> dict[str, tuple[float, float, float]]:
        """Return kind -> (calls, examples, FLOPs) so far."""
        return {name: (kind.calls, kind.examples, kind.total()) for name, kind in self._kinds.items()}

    def _open(self, kind: str, size: Size) -> None:
        """Measure every section of a kind up to the end of the step: calls of one step may differ in what they cost."""
        self._kinds[kind].sizes = set()
        self._new.add((kind, size))

    def _note(self, mode: CountingMode, before: dict[str, tuple[float, float, float]]) -> None:
        """Add what a measured section cost to what is known of the present step."""
        for name, kind in self._kinds.items():
            calls, examples, spent = before.get(name, (0, 0, 0.0))
            done = kind.calls - calls, kind.examples - examples, mode.flops.get(name, 0)
            if self._across_change is not None:
                kind.forget(spent + done[2])
            elif any(done):
                known = self._measured.get(name, (0, 0, 0))
                self._measured[name] = known[0] + done[0], known[1] + done[1], known[2] + done[2]
        self._end_change()
        for name, count in mode.uncounted.items():
            self.uncounted.setdefault(name, count)

    def _learn(self) -> None:
        """Let rates follow from what was measured in the step that ends."""
        for name, point in self._measured.items():
            self._kinds[name].add(*point)
        for name, size in self._new:
            self._kinds[name].known.add(size)
            self._kinds[name].sizes = self._kinds[name].known
        self._measured, self._new = {}, set()

    def charged(self, kind: str = "other") -> AbstractContextManager[None]:
        """Open a section for work of torch whose FLOPs the caller counts by `charge`: audits learn nothing from it."""
        return self._aside("charged", kind)

    def _aside(self, name: str, kind: str) -> AbstractContextManager[None]:
        """Open a section that audits do not learn from: counting modes see it under `name`, clocks under its kind."""
        mode = self._mode
        if mode is None or self._paused:
            return _NOTHING
        return _Section(mode, name if isinstance(mode, CountingMode) else kind)

    @property
    def paused(self) -> bool:
        """Whether nothing is counted at present."""
        return self._paused > 0

    def charge(self, kind: str, flops: float) -> None:
        """Book FLOPs of work that torch does not see (numpy, DEAP, an own kernel)."""
        if not self._paused:
            self._charged[kind] = self._charged.get(kind, 0.0) + flops

    def structure_changed(self, blocks: int, forward_flops: float) -> None:
        """Keep what is spent, forget all rates and audit the next step: from now on work costs something else.

        What is measured while the change happens is booked as it was measured, and teaches no rate.

        Args:
            blocks, forward_flops: of the model as it is now; passes that were counted stay as many as they were.
        """
        self._unit_base = self.forward_equivalents, self.flops
        for work in (self._kinds["block_forward"], self._kinds["block_backward"]):
            spent, scale = work.total(), max(1, blocks) / self.blocks
            work.calls, work.examples = work.calls * scale, work.examples * scale
            work.forget(spent)
        for kind in self._kinds.values():
            kind.forget(kind.total())
        self._changed = True
        if isinstance(self._mode, CountingMode):
            self._across_change = self.forward_flops
        self.blocks, self.forward_flops = max(1, blocks), forward_flops

    def _end_change(self) -> None:
        """Let what was measured across a change count in forwards of the model before it."""
        unit, self._across_change = self._across_change, None
        if unit:
            equivalents, flops = self._unit_base
            self._unit_base = equivalents + (self.flops - flops) / unit, self.flops

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Count nothing inside: evaluation and probes are not counted, in audited steps too."""
        outside = self._aside("paused", "other")
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
        other = self._kinds["other"]
        other.calls += 1
        other.examples += samples
        if self._measured:
            self._learn()

    def graph(self) -> AbstractContextManager[None]:
        """In an audited step, measure the bytes that autograd keeps for the graph that is built inside.

        Work under `torch.func` must stay outside: its transforms refuse the hooks.
        """
        return self._measured_graph() if isinstance(self._mode, CountingMode) and not self._paused else _NOTHING

    def keeps(self, tensors: Iterable[Tensor]) -> None:
        """In an audited step, measure the bytes that a way back without a graph keeps."""
        if isinstance(self._mode, CountingMode) and not self._paused:
            saved = SavedBytes()
            for tensor in tensors:
                saved.pack(tensor)
            self.saved_bytes = max(self.saved_bytes, saved.total)

    @contextmanager
    def _measured_graph(self) -> Iterator[None]:
        saved = SavedBytes()
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
            yield
        self.saved_bytes = max(self.saved_bytes, saved.total)

    def due_for_audit(self, last: bool = False) -> bool:
        """Return whether the step that begins now is audited.

        One of 0, 1, 3, 7, 15, ..., the `last` of its context, or the first after a change of structure.
        """
        return ((self.steps + 1) & self.steps == 0 or last or self._changed) and self.auditing

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
        before = self._counts()
        mode = CountingMode()
        self._mode, self._changed = mode, False
        started = time.process_time()
        try:
            with mode:
                yield
        finally:
            self._mode = None
            self.audit_seconds += time.process_time() - started
            self.untimed += 1
        predicted = observed = 0.0
        for name, kind in self._kinds.items():
            calls, examples, spent = before.get(name, (0, 0, 0.0))
            done = kind.calls - calls, kind.examples - examples
            flops = mode.flops.get(name, 0)
            observed += flops
            predicted += kind.flops(*done) if kind.points else flops
            if self._across_change is not None:
                kind.forget(spent + flops)
            elif flops or any(done):
                kind.add(*done, flops)
        self._end_change()
        self._learn()
        self.audits.append((predicted, observed))
        self.live_bytes = max(self.live_bytes, mode.peak_bytes)
        for name, count in mode.uncounted.items():
            self.uncounted[name] = self.uncounted.get(name, 0) + count

    @property
    def forwards(self) -> float:
        """Forward passes of the whole model over a batch; an individual of a population is one."""
        return _whole(self._passes("calls", "forward", "population", "cell"))

    @property
    def backwards(self) -> float:
        """Backward passes of the whole model over a batch, with gradients of its parameters."""
        return _whole(self._passes("calls", "backward"))

    @property
    def evaluations(self) -> float:
        """Values of the objective, each of one individual on one batch: every forward pass gives one, and every jvp."""
        return _whole(self._passes("calls", "forward", "population", "cell", "jvp"))

    @property
    def forward_rows(self) -> float:
        """Rows that passed forward through the whole model."""
        return _whole(self._passes("examples", "forward", "population", "cell"))

    @property
    def backward_rows(self) -> float:
        """Rows that passed backward through the whole model, with gradients of its parameters."""
        return _whole(self._passes("examples", "backward"))

    def _passes(self, unit: str, whole: str, *more: str) -> float:
        """Return calls or examples of kinds; a pass over one block is its share of a whole pass."""
        total: float = sum(getattr(self._kinds[kind], unit) for kind in (whole, *more))
        return total + float(getattr(self._kinds[f"block_{whole}"], unit)) / self.blocks

    @property
    def flops(self) -> float:
        """FLOPs so far."""
        if self._charged:
            return sum(self.flops_by_kind().values())
        if self._measured or self._new:
            self._learn()
        return sum(kind.total() for kind in self._kinds.values() if kind.calls or kind.spent)

    def flops_by_kind(self) -> dict[str, float]:
        """Return the FLOPs so far, of each kind that has any."""
        self._learn()
        found: dict[str, float] = {}
        for name, kind in self._kinds.items():
            amount = kind.total()
            if amount:
                found[name] = amount
        for name, amount in self._charged.items():
            found[name] = found.get(name, 0.0) + amount
        return found

    @property
    def residual(self) -> float:
        """Largest relative difference between an audited step and what the rates before it predicted.

        Or, where that is more, how far named work lies from its own rate, as a share of all FLOPs: work per call that
        is said to be per example, or the other way round.
        """
        steps = max((abs(p - o) / max(o, 1.0) for p, o in self.audits), default=0.0)
        total = max(self.flops, 1.0)
        kinds = self._kinds.values()
        return max(steps, sum(kind.misfit * kind.total() for kind in kinds) / total)

    @property
    def forward_equivalents(self) -> float:
        """FLOPs in units of one model forward on one example; where that costs none, counted calls (backward = 2)."""
        if self.forward_flops > 0:
            equivalents, flops = self._unit_base
            return equivalents + (self.flops - flops) / self.forward_flops
        products = 2 * self._kinds["jvp"].examples + 4 * self._kinds["hvp"].examples
        return (
            self._passes("examples", "forward", "population", "cell")
            + products
            + 2 * self._passes("examples", "backward")
        )

    @property
    def learner_seconds(self) -> float:
        """CPU seconds of all steps; those that were audited are taken to last as long as the others on average.

        Where every step was audited, what they took.
        """
        timed = self.steps - self.untimed
        return self.seconds * self.steps / timed if timed > 0 else self.seconds + self.audit_seconds

    def spent(self, currency: str) -> float:
        """Return what has been spent in a currency.

        Raises:
            AltpropError: for an unknown currency.
        """
        if currency == "epochs":
            return self.samples / self.epoch_samples
        if currency == "seconds":
            return self.learner_seconds if self.steps > self.untimed else 0.0
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
            "forward_rows": self.forward_rows,
            "backward_rows": self.backward_rows,
            "jvps": self.calls("jvp"),
            "hvps": self.calls("hvp"),
            "evaluations": self.evaluations,
            "environment_steps": self.environment_steps,
            "episodes": self.episodes,
            "flops": self.flops,
            "forward_equivalents": self.forward_equivalents,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the ledger in weights_only-safe types."""
        self._learn()
        kinds = {
            name: {
                "per": kind.per,
                "calls": kind.calls,
                "examples": kind.examples,
                "spent": kind.spent,
                "since": list(kind.since),
                "points": [list(point) for point in kind.points],
                "known": [list(size) for size in sorted(kind.known)],
            }
            for name, kind in self._kinds.items()
        }
        return {
            "numbers": {name: getattr(self, name) for name in _NUMBERS},
            "kinds": kinds,
            "changed": self._changed,
            "unit_base": list(self._unit_base),
            "charged": dict(self._charged),
            "uncounted": dict(self.uncounted),
            "audits": [list(pair) for pair in self.audits],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the ledger of `state_dict` back."""
        for name, value in state["numbers"].items():
            setattr(self, name, value)
        self._measured, self._new = {}, set()
        self._changed, self._unit_base = state["changed"], (state["unit_base"][0], state["unit_base"][1])
        self._kinds = {name: WorkKind(saved["per"]) for name, saved in state["kinds"].items()}
        for name, saved in state["kinds"].items():
            kind = self._kinds[name]
            kind.calls, kind.examples = saved["calls"], saved["examples"]
            kind.spent, kind.since = saved["spent"], (saved["since"][0], saved["since"][1])
            kind.points = [(c, e, f) for c, e, f in saved["points"]]
            kind.known.update((calls, examples) for calls, examples in saved["known"])
            kind.fit()
        self._charged, self.uncounted = dict(state["charged"]), dict(state["uncounted"])
        self.audits = [(float(p), float(o)) for p, o in state["audits"]]


_NUMBERS = (
    "steps",
    "updates",
    "samples",
    "environment_steps",
    "episodes",
    "seconds",
    "untimed",
    "live_bytes",
    "saved_bytes",
    "blocks",
    "forward_flops",
)


def _whole(value: float) -> float:
    """Return an int where shares that are summed in floating point make one."""
    value = round(value, 6)
    return int(value) if float(value).is_integer() else value
