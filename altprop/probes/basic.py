"""Gradient health, the basic tier: one step is watched, whatever rule takes it.

The learner's own signals are not needed: health is read off what one step did to the weights, on a probe batch that is
the same for all learners. The gradient is taken in evaluation mode and without noise, so that learners under different
noise are measured against one function. In a game each player is a layer, measured against the player's own loss.
Probes are neither timed nor counted, and change nothing.

Of a layered model the signal itself is measured at every block, with z its pre-activation and y its output: on the way
forth how far z spreads over the examples, on the way back the length of dL/dz of an example, and which share of the
arriving dL/dy the activation (and what normalises) lets pass. The product of these shares and of what the weights
between two blocks do is the whole way back, exactly.

Two cosines stand apart: of what the learner hands to its optimizer (of its update, where it has none) with the gradient
of the very batch that it saw, under the same noise; and of the whole update with the gradient on the probe batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from altprop.algorithm import Algorithm
from altprop.capabilities import Capability
from altprop.data import Batch
from altprop.losses import NoLoss
from altprop.probes.nullband import DRAWS, bound, isotropic_bound, isotropic_cosines, measured_cosines
from altprop.problem import Problem
from altprop.randomness import generator_for
from altprop.vectorized import differentiate

Value = float | str | None
WHOLE = (
    "gradient_norm",
    "forward_slope",
    "backward_slope",
    "update_norm",
    "update_ratio",
    "signal_alignment",
    "alignment",
    "alignment_low",
    "alignment_high",
    "descent_efficiency",
)
SIGNALS = ("forward_signal", "backward_signal", "passed")
LAYER = (
    "gradient_rms",
    *SIGNALS,
    "update_ratio",
    "dead_fraction",
    "saturated_fraction",
    "signal_alignment",
    "alignment",
    "alignment_low",
    "alignment_high",
)
DEAD = 1e-6  # of the range (of 1, where that is infinite)
SATURATED = 0.025  # of the range


@dataclass
class _Group:
    """A layer: consecutive parameters in the flat vector, and which of them are weights, by position."""

    name: str
    start: int
    stop: int
    members: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)


class Look(NamedTuple):
    """What is computed on the probe batch before a step, as tensors alone: where seeds are stacked, for all at once.

    Attributes:
        loss: scalar.
        theta: (D,), the parameters.
        gradient: (D,), of the loss.
        inputs, outputs: what enters and what leaves each block of a layered model, (n, ...).
        signals: (L, 3), the SIGNALS of each block; (0, 3) where there are none.
        of_batch: (D,), the gradient on the batch of the step; (0,) where there is none.
    """

    loss: Tensor
    theta: Tensor
    gradient: Tensor
    inputs: list[Tensor]
    outputs: list[Tensor]
    signals: Tensor
    of_batch: Tensor


@dataclass
class _Seen:
    """What stood before the step."""

    shapes: list[tuple[str, torch.Size]]
    theta: Tensor
    gradient: Tensor
    loss: float
    units: dict[str, tuple[float | None, float | None]]
    signals: dict[str, list[float]]
    of_batch: Tensor


class BasicProbes:
    """Probes of one run: `before()`, one step of the learner, `after()`.

    Args:
        problem: whose model is watched.
        batch: the frozen probe batch.
        seed: of the null band's draws; the same for all learners.
        refresh: probes between two measurements of the null band; one more follows soon after the first.
    """

    def __init__(self, problem: Problem, batch: Batch, seed: int, refresh: int = 32) -> None:
        self._problem, self._batch, self._seed, self._refresh = problem, batch, seed, refresh
        problem.probe_batch = batch
        self._count = 0
        self._own_model = False
        self._null: dict[str, Tensor] = {}
        self._seen: _Seen | None = None
        self._bounds: dict[str, float] = {}

    @property
    def watching(self) -> bool:
        """Whether there is a model to look at."""
        return not self._own_model

    def before(self, batch: Batch | None = None) -> None:
        """Look at the model before the step.

        Args:
            batch: that the step is fed.
        """
        if self.watching:
            self.remember(self.look(batch))

    def look(self, batch: Batch | None = None) -> Look:
        """Return what the model does on the probe batch, and the gradient on the batch that the step is fed."""
        of_batch = self._gradient_of(batch)
        with looking(self._problem):
            problem = self._problem
            if Capability.LAYERED in problem.offers and not self._blind:
                return self._look_through(of_batch)
            loss, grads = self._gradient()
            none = torch.zeros(0, 3, device=problem.device)
            return Look(loss, problem.flat(), problem.flatten(grads), [], [], none, of_batch)

    def _gradient_of(self, batch: Batch | None) -> Tensor:
        """Return the gradient on the batch of a step, in training mode and under the noise of its start."""
        problem = self._problem
        continued = batch is not None and batch.reset is not None and not bool(batch.reset.all())
        if batch is None or continued or self._blind or Capability.PLAYERS in problem.offers:
            return torch.zeros(0, device=problem.device)
        with problem.observing():
            problem.begin_step(problem.ledger.steps)
            return problem.flatten(problem.gradient(batch)[1])

    def remember(self, look: Look) -> None:
        """Keep what was seen before the step, and measure the null band where that is due."""
        with looking(self._problem):
            shapes = [(name, p.shape) for name, p in self._problem.params.items()]
            units = {f"blocks.{i}": self._units(i, y) for i, y in enumerate(look.outputs)}
            signals = {f"blocks.{i}": row for i, row in enumerate(look.signals.tolist())}
            self._seen = _Seen(shapes, look.theta, look.gradient, float(look.loss), units, signals, look.of_batch)
            self._problem.heard = {}
            if self._count % self._refresh == 0 or self._count == self._refresh // 4:
                self._measure_null(look.inputs, look.outputs, look.gradient)
        self._count += 1

    def look_again(self) -> Tensor | None:
        """Return the objective on the probe batch after the step; None where there is none, or one of each player."""
        if self._blind or Capability.PLAYERS in self._problem.offers:
            return None
        with looking(self._problem):
            return self._problem.objective(self._batch)

    def after(self, own_model: bool, loss: Tensor | None = None) -> dict[str, Any]:
        """Return the trace row of the step, with "values", "layers" and "note".

        Args:
            own_model: whether the learner trains a model of its own, so that these probes do not apply.
            loss: what `look_again` returned, where it was called already.
        """
        seen, self._seen = self._seen, None
        heard, self._problem.heard = self._problem.heard or {}, None
        self._own_model = own_model
        if own_model or seen is None:
            return {"values": dict.fromkeys(WHOLE), "layers": {}, "note": "not applicable"}
        theta, old, gradient, shapes = self._common(seen)
        loss = self.look_again() if loss is None else loss
        drop = None if loss is None else seen.loss - float(loss)
        groups = _groups(shapes)
        whole, layers = _norms(groups, shapes, old, theta - old, gradient)
        values: dict[str, Value] = dict.fromkeys(WHOLE)
        values["gradient_norm"] = None if self._blind else whole.gradient
        rows: dict[str, dict[str, Value]] = {}
        for group, norms in zip(groups, layers, strict=True):
            row = rows[group.name] = dict.fromkeys(LAYER)
            row["gradient_rms"] = None if self._blind else norms.rms
            row["dead_fraction"], row["saturated_fraction"] = seen.units.get(group.name, (None, None))
            row |= dict(zip(SIGNALS, seen.signals.get(group.name, ()), strict=False))
            _align(row, norms, self._bound(group.name, group.stop - group.start))
        forth, back = ([row[place] for row in seen.signals.values()] for place in range(2))
        values["forward_slope"], values["backward_slope"] = slope(forth), slope(back[::-1])
        if whole.update != 0:
            values["update_norm"] = whole.update
            _align(values, whole, self._whole_bound(groups, layers, whole))
            values["descent_efficiency"] = None if drop is None else _efficiency(values, drop, -whole.dot)
        if len(seen.of_batch) == len(theta) and whole.update != 0:
            direction = self._direction(heard, old - theta)
            own, each = _norms(groups, shapes, direction, direction, seen.of_batch)
            cosines = map(_cosine, (own, *each))
            for row, cosine in zip((values, *rows.values()), cosines, strict=True):
                row["signal_alignment"] = cosine
        single = len(groups) == 1 and not seen.units
        note = None if whole.update != 0 else "no update"
        return {"values": values, "layers": {} if single else rows, "note": note}

    def _direction(self, heard: Mapping[str, Tensor], update: Tensor) -> Tensor:
        """Return what the learner handed to its optimizer, (D,), or else the way that it went, which is its own."""
        if not heard:
            return update
        parts = [(heard[n] if n in heard else torch.zeros_like(p)).flatten() for n, p in self._problem.params.items()]
        return torch.cat(parts)

    def own(self, algorithm: Algorithm) -> dict[str, float | None]:
        """Return the diagnostics that a learner brings itself, measured after the step; empty where it brings none."""
        with looking(self._problem):
            return algorithm.probe(self._batch)

    def state_dict(self) -> dict[str, Any]:
        """Return the state in weights_only-safe types."""
        return {
            "count": self._count,
            "own_model": self._own_model,
            "null": dict(self._null),
            "bounds": dict(self._bounds),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put a state of `state_dict` back."""
        self._count, self._own_model = state["count"], state["own_model"]
        self._null, self._bounds = dict(state["null"]), dict(state["bounds"])

    def _gradient(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Return loss and gradient of a model that has no blocks."""
        problem = self._problem
        if Capability.PLAYERS in problem.offers:
            return self._gradient_of_each_player()
        if self._blind:
            return torch.zeros((), device=problem.device), {n: torch.zeros_like(p) for n, p in problem.params.items()}
        return problem.gradient(self._batch)

    def _look_through(self, of_batch: Tensor) -> Look:
        """Return what a layered model does, and what goes through each block, forth and back."""
        problem = self._problem
        names, parameters = problem.named_parameters()
        with torch.enable_grad(), watched(problem.layered.blocks) as (inputs, outputs, before):
            loss = problem.uncounted.value(None, self._batch)
        known = len(before) == len(outputs)  # a block of somebody's own may have no pre-activation
        places = [*before, *outputs] if known else []
        found = differentiate(loss, [*parameters, *places])
        loss, grads = problem._averaged_over_ranks(
            loss.detach(), dict(zip(names, found[: len(names)], strict=True)), self._batch
        )
        at_z, at_y = found[len(names) : len(names) + len(before)], found[len(names) + len(before) :]
        rows = [
            _signals(z.detach(), own * self._batch.rows, arriving * self._batch.rows)
            for z, own, arriving in zip(before, at_z, at_y, strict=known)
        ]
        made = [
            (y - x if getattr(block, "skip", False) else y).detach()  # a skip hands its input on as well
            for block, x, y in zip(problem.layered.blocks, inputs, outputs, strict=True)
        ]
        signals = torch.stack(rows) if known else torch.zeros(0, 3, device=problem.device)
        gradient = problem.flatten(grads)
        return Look(loss, problem.flat(), gradient, [x.detach() for x in inputs], made, signals, of_batch)

    @property
    def _blind(self) -> bool:
        """Whether there is no loss to differentiate, as in an environment: updates are seen, and no gradient."""
        return isinstance(self._problem.loss, NoLoss) and Capability.PLAYERS not in self._problem.offers

    def _gradient_of_each_player(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each parameter's gradient of the loss of the player that it belongs to; a game has no one loss."""
        problem = self._problem
        found = {name: torch.zeros_like(p) for name, p in problem.params.items()}
        for player in problem.players:
            own = problem.gradient(self._batch, of=player)[1]
            found |= {f"{player}.{name}": grad for name, grad in own.items()}
        return torch.full((), math.nan, device=problem.device), found

    def _units(self, index: int, y: Tensor) -> tuple[float | None, float | None]:
        """Return (dead, saturated) of a block's outputs (n, units, ...).

        A unit is dead where it lies at one bound of its activation on all rows (and positions), so that it passes no
        gradient. Saturated is the share of outputs in the outer 2.5 % of the range at either end, for activations with
        two bounds.
        """
        block: Any = self._problem.layered.blocks[index]
        if block.activation.bounds is None:
            return None, None
        y = y[:, -block.weight.shape[0] :]  # a shortcut hands its input on, in front
        low, high = block.activation.bounds
        finite = math.isfinite(high - low)
        span = high - low if finite else 1.0
        rows = [0, *range(2, y.dim())]
        dead = 0
        if math.isfinite(low):
            dead += int((y.amax(rows) <= low + DEAD * span).sum())
        if math.isfinite(high):
            dead += int((y.amin(rows) >= high - DEAD * span).sum())
        share = dead / y.shape[1]
        if not finite:
            return share, None
        near = ((y <= low + SATURATED * span) | (y >= high - SATURATED * span)).sum()
        return share, int(near) / y.numel()

    def _measure_null(self, inputs: list[Tensor], outputs: list[Tensor], gradient: Tensor) -> None:
        """Measure the null cosines of every block on the probe batch."""
        if not inputs:
            return
        problem = self._problem
        generator = generator_for(self._seed, "null band", self._count)
        with torch.no_grad():
            error = problem.output_gradient(outputs[-1], self._batch)
            for group in _groups([(name, p.shape) for name, p in problem.params.items()]):
                if group.name.startswith("blocks."):
                    index = int(group.name.removeprefix("blocks."))
                    block: Any = problem.layered.blocks[index]
                    piece = gradient[group.start : group.stop]
                    found = measured_cosines(block, inputs[index], error, piece, generator)
                else:
                    found = isotropic_cosines(group.stop - group.start, generator)
                self._null[group.name] = found.to("cpu", torch.float64)
                self._bounds[group.name] = bound(self._null[group.name].numpy())

    def _bound(self, name: str, d: int) -> float:
        """Return the measured bound of a layer, or that of random directions in d dimensions."""
        if name not in self._bounds:
            self._bounds[name] = isotropic_bound(d)
        return self._bounds[name]

    def _whole_bound(self, groups: list[_Group], layers: list[_Norms], whole: _Norms) -> float:
        """Return the bound of the whole step: null cosines of the layers, weighted by the norms of this very step."""
        scale = whole.update * whole.gradient
        if any(group.name not in self._null for group in groups) or not 0 < scale < math.inf:
            return self._bound("", groups[-1].stop)
        shares = [norms.update * norms.gradient / scale for norms in layers]
        cosines = np.zeros(DRAWS)
        for share, group in zip(shares, groups, strict=True):
            if share > 0:
                cosines += share * self._null[group.name].numpy()
        return bound(cosines)

    def _common(self, seen: _Seen) -> tuple[Tensor, Tensor, Tensor, list[tuple[str, torch.Size]]]:
        """Return (new, old, gradient, names and shapes) over the parameters that are there before and after."""
        params = self._problem.params
        if [(name, p.shape) for name, p in params.items()] == seen.shapes:
            return self._problem.flat(), seen.theta, seen.gradient, seen.shapes
        offset, keep, shapes = 0, [], []
        for name, shape in seen.shapes:
            if name in params and params[name].shape == shape:
                keep.append(torch.arange(offset, offset + shape.numel(), device=seen.theta.device))
                shapes.append((name, shape))
            offset += shape.numel()
        index = torch.cat(keep)
        new = torch.cat([params[name].detach().flatten() for name, _ in shapes])
        return new, seen.theta[index], seen.gradient[index], shapes


def probes(problem: Problem, batch: Batch, seed: int) -> BasicProbes:
    """Return the probes of this tier."""
    return BasicProbes(problem, batch, seed)


@dataclass(frozen=True)
class _Norms:
    """Norms of parameters, update and gradient, update . gradient, and the RMS of the weights' gradient."""

    theta: float
    update: float
    gradient: float
    dot: float
    rms: float


def _norms(
    groups: list[_Group], shapes: list[tuple[str, torch.Size]], theta: Tensor, delta: Tensor, gradient: Tensor
) -> tuple[_Norms, list[_Norms]]:
    """Return the norms of the whole and of each group, summed up in double precision."""
    sizes = [shape.numel() for _, shape in shapes]
    ends = list(accumulate(sizes))
    pieces = [slice(stop - size, stop) for stop, size in zip(ends, sizes, strict=True)]
    # numpy's calls cost a fifth of torch's, and there are four for every parameter.
    t, u, g = (vector.cpu().numpy() for vector in (theta, delta, gradient))
    squares = [[float(np.dot(v[piece], v[piece])) for piece in pieces] for v in (t, u, g)]
    dots = [float(np.dot(u[piece], g[piece])) for piece in pieces]

    def gather(members: list[int], weights: list[int]) -> _Norms:
        t, u, g = (math.sqrt(sum(row[i] for i in members)) for row in squares)
        count = sum(sizes[i] for i in weights)
        rms = math.sqrt(sum(squares[2][i] for i in weights) / count)
        return _Norms(t, u, g, sum(dots[i] for i in members), rms)

    everything = list(range(len(sizes)))
    return gather(everything, everything), [gather(group.members, group.weights) for group in groups]


def _groups(shapes: list[tuple[str, torch.Size]]) -> list[_Group]:
    """Group parameters by layer: "blocks.0", or the first part of the name ("cell", "readout", "theta")."""
    groups: dict[str, _Group] = {}
    offset = 0
    for position, (name, shape) in enumerate(shapes):
        parts = name.split(".")
        key = ".".join(parts[:2]) if parts[0] == "blocks" else parts[0]
        group = groups.setdefault(key, _Group(key, offset, offset))
        offset += shape.numel()
        group.stop = offset
        group.members.append(position)
        if len(shape) > 1:
            group.weights.append(position)
    for group in groups.values():
        group.weights = group.weights or group.members
    return list(groups.values())


def _cosine(norms: _Norms) -> float | None:
    """Return the cosine of update and gradient, None where one of them is zero."""
    if norms.update == 0 or norms.gradient == 0:
        return None
    cosine = norms.dot / norms.update / norms.gradient
    return max(-1.0, min(1.0, cosine)) if math.isfinite(cosine) else cosine


def _align(row: dict[str, Value], norms: _Norms, bound: float) -> None:
    """Fill in update ratio, alignment and null band; they stay empty where there was no update."""
    if norms.update == 0:
        return
    row["update_ratio"] = norms.update / norms.theta if norms.theta > 0 else None
    if norms.gradient == 0:
        return
    cosine = _cosine(norms)
    row["alignment"] = None if cosine is None else -cosine
    if math.isfinite(bound):
        row["alignment_low"], row["alignment_high"] = -bound, bound


@contextmanager
def looking(problem: Problem) -> Iterator[None]:
    """Enter evaluation mode, not counted, at the weights that train; put modes, buffers and masks back after."""
    modes = [(module, module.training) for module in problem.model.modules()]
    problem.model.eval()
    try:
        with problem.observing():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def watched(blocks: Iterable[Any]) -> Iterator[tuple[list[Tensor], list[Tensor], list[Tensor]]]:
    """Give lists that fill with the inputs, the outputs and the pre-activations of blocks, in the order of a pass."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    before: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        inputs.append(arguments[0])
        outputs.append(output)

    def through(respond: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        before.append(z)
        return respond(z)

    hooks = []
    for block in blocks:
        hooks.append(block.register_forward_hook(keep))
        vars(block)["respond"] = partial(through, block.respond)
    try:
        yield inputs, outputs, before
    finally:
        for block, hook in zip(blocks, hooks, strict=True):
            hook.remove()
            del vars(block)["respond"]


def _signals(z: Tensor, own: Tensor, arriving: Tensor) -> Tensor:
    """Return the SIGNALS of a block, (3,).

    Args:
        z: (n, ...), pre-activations.
        own, arriving: (n, ...), the derivatives of each example's loss in z and in the block's output.
    """
    spread = (z - z.mean(0)).square().mean().sqrt()
    length = own.square().sum().div(len(own)).sqrt()
    return torch.stack([spread, length, length / arriving.square().sum().div(len(arriving)).sqrt()])


def slope(values: Sequence[float]) -> float | None:
    """Return the least-squares slope of log10(values) in decades a place; None for fewer than two, or no logarithm.

    >>> slope([1e-4, 1e-3, 1e-2]), slope([1.0, 0.0])
    (1.0, None)
    """
    if len(values) < 2 or not all(value > 0 and math.isfinite(value) for value in values):
        return None
    logs = [math.log10(value) for value in values]
    middle, mean = (len(logs) - 1) / 2, sum(logs) / len(logs)
    above = sum((i - middle) * (y - mean) for i, y in enumerate(logs))
    return above / sum((i - middle) ** 2 for i in range(len(logs)))


def _efficiency(values: dict[str, Value], drop: float, predicted: float) -> float | None:
    """Return (L(theta) - L(theta + dtheta)) / (-gradient . dtheta), or None where that says nothing."""
    alignment, high = values["alignment"], values["alignment_high"]
    if not isinstance(alignment, float) or not predicted > 0:
        return None
    if isinstance(high, float) and alignment <= high:
        return None
    return drop / predicted
