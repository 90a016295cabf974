"""Gradient health, the basic tier: one step is watched, whatever rule takes it.

The learner's own signals are not needed: health is read off what one step did to the weights, on a probe batch that is
the same for all learners. The gradient is taken in evaluation mode and without noise, so that learners under different
noise are measured against one function. Probes are off the clock and off the books, and change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from altprop.capabilities import Capability
from altprop.noise import Noise
from altprop.probes.nullband import DRAWS, band, isotropic_bound, isotropic_cosines, measured_cosines
from altprop.problem import Problem
from altprop.randomness import generator_for
from altprop.task import Batch

Value = float | str | None
WHOLE = (
    "gradient_norm",
    "gradient_slope",
    "gradient_verdict",
    "update_norm",
    "update_ratio",
    "alignment",
    "alignment_low",
    "alignment_high",
    "descent_efficiency",
)
LAYER = (
    "gradient_rms",
    "update_ratio",
    "dead_fraction",
    "saturated_fraction",
    "alignment",
    "alignment_low",
    "alignment_high",
)
STEEP = 0.5  # decades a layer
DEAD = 1e-6  # of the range (of 1, where that is infinite)
SATURATED = 0.025  # of the range


@dataclass
class _Group:
    """A layer: consecutive parameters in the flat vector."""

    name: str
    start: int
    stop: int
    weights: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class _Seen:
    """What stood before the step."""

    shapes: list[tuple[str, torch.Size]]
    theta: Tensor
    gradient: Tensor
    loss: float
    units: dict[str, tuple[float | None, float | None]]


class BasicProbes:
    """Probes of one run: `before()`, one step of the learner, `after()`.

    Args:
        problem: whose model is watched.
        batch: the frozen probe batch.
        seed: of the null band's draws; the same for all learners.
        refresh: probes between two measurements of the null band.
    """

    def __init__(self, problem: Problem, batch: Batch, seed: int, refresh: int = 10) -> None:
        self._problem, self._batch, self._seed, self._refresh = problem, batch, seed, refresh
        self._count = 0
        self._own_model = False
        self._null: dict[str, Tensor] = {}
        self._seen: _Seen | None = None
        self._bounds: dict[int, float] = {}

    def before(self) -> None:
        """Look at the model before the step."""
        if self._own_model:
            return
        with self._looking():
            inputs: list[Tensor] = []
            outputs: list[Tensor] = []
            loss, grads = self._gradient(inputs, outputs)
            shapes = [(name, p.shape) for name, p in self._problem.params.items()]
            gradient = self._problem.flatten(grads)
            units = {f"blocks.{i}": self._units(i, y) for i, y in enumerate(outputs)}
            self._seen = _Seen(shapes, self._problem.flat(), gradient, float(loss), units)
            if self._count % self._refresh == 0:
                self._measure_null(inputs, outputs, gradient)
        self._count += 1

    def after(self, own_model: bool) -> dict[str, Any]:
        """Return the trace row of the step, with "values", "layers" and "note".

        Args:
            own_model: whether the learner trains a model of its own, so that these probes do not apply.
        """
        seen, self._seen = self._seen, None
        self._own_model = own_model
        if own_model or seen is None:
            return {"values": dict.fromkeys(WHOLE), "layers": {}, "note": "not applicable"}
        theta, old, gradient, shapes = self._common(seen)
        with self._looking():
            loss = float(self._problem.objective(self._batch))
        groups, chain = _groups(shapes), bool(seen.units)
        delta = theta - old
        norms = self._norms(groups, old, delta, gradient)
        whole, layers = norms.pop(""), norms
        values: dict[str, Value] = dict.fromkeys(WHOLE)
        values["gradient_norm"] = whole["gradient"]
        rows: dict[str, dict[str, Value]] = {g.name: dict.fromkeys(LAYER) for g in groups}
        for group in groups:
            row, n = rows[group.name], layers[group.name]
            size = sum(stop - start for start, stop in group.weights)
            row["gradient_rms"] = n["weights"] / math.sqrt(size)
            row["dead_fraction"], row["saturated_fraction"] = seen.units.get(group.name, (None, None))
        if chain:
            rms = [float(rows[group.name]["gradient_rms"] or 0.0) for group in groups if group.name in seen.units]
            values["gradient_slope"], values["gradient_verdict"] = slope_and_verdict(rms)
        else:
            values["gradient_verdict"] = "not applicable"
        moved = whole["update"] != 0
        if moved:
            values["update_norm"] = whole["update"]
            self._aligned(values, whole, theta.numel(), self._whole_null(groups, layers, whole, chain))
            for group in groups:
                self._aligned(rows[group.name], layers[group.name], group.stop - group.start, self._null.get(group.name))
            values["descent_efficiency"] = _efficiency(values, seen.loss - loss, -whole["dot"])
        alone = len(groups) == 1 and not chain
        return {"values": values, "layers": {} if alone else rows, "note": None if moved else "no update"}

    def state_dict(self) -> dict[str, Any]:
        """Return the state in weights_only-safe types."""
        return {"count": self._count, "own_model": self._own_model, "null": dict(self._null)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put a state of `state_dict` back."""
        self._count, self._own_model = state["count"], state["own_model"]
        self._null = dict(state["null"])

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Evaluation mode off the books; modes, buffers and the phase of the noise are put back."""
        with self._problem.observing(), self._problem.evaluating():
            yield

    def _gradient(self, inputs: list[Tensor], outputs: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return loss and gradient; for a chain, collect what enters and leaves each block."""
        problem, batch = self._problem, self._batch
        if Capability.CHAIN not in problem.offers:
            return problem.gradient(batch)

        def walk() -> Tensor:
            x = batch.inputs
            for block in problem.layered.blocks:
                inputs.append(x.detach())
                x = block(x)
                outputs.append(x.detach())
            value = problem.output_loss(x, batch)
            noise = problem.layered.noise
            penalty = noise.penalty() if isinstance(noise, Noise) else None
            return value if penalty is None else value + penalty

        return problem.gradient(batch, loss=walk)

    def _units(self, index: int, y: Tensor) -> tuple[float | None, float | None]:
        """Return (dead, saturated) of a block's outputs (n, units, ...).

        A unit is dead where it lies at one bound of its activation on all rows (and positions), so that it passes no
        gradient. Saturated is the share of outputs in the outer 2.5 % of the range at either end, for activations with
        two bounds.
        """
        block: Any = self._problem.layered.blocks[index]
        bounds = block.activation.bounds
        if bounds is None:
            return None, None
        low, high = bounds
        span = high - low if math.isfinite(high - low) else 1.0
        flat = y.transpose(0, 1).flatten(1) if y.dim() > 2 else y.T
        least, most = flat.amin(1), flat.amax(1)
        dead = torch.zeros_like(least, dtype=torch.bool)
        if math.isfinite(low):
            dead |= most <= low + DEAD * span
        if math.isfinite(high):
            dead |= least >= high - DEAD * span
        share = float(dead.double().mean())
        if not math.isfinite(high - low):
            return share, None
        margin = SATURATED * span
        return share, float(((y <= low + margin) | (y >= high - margin)).double().mean())

    def _measure_null(self, inputs: list[Tensor], outputs: list[Tensor], gradient: Tensor) -> None:
        """Measure the null cosines of every block of a chain on the probe batch."""
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
                    self._null[group.name] = found.to("cpu", torch.float64)
                else:
                    self._null[group.name] = isotropic_cosines(group.stop - group.start, generator)

    def _whole_null(
        self, groups: list[_Group], layers: dict[str, dict[str, float]], whole: dict[str, float], chain: bool
    ) -> Tensor | None:
        """Return null cosines of the whole step: those of the layers, weighted by the norms of this very step."""
        scale = whole["update"] * whole["gradient"]
        if not chain or not scale > 0 or any(group.name not in self._null for group in groups):
            return None
        total = torch.zeros(DRAWS, dtype=torch.float64, device="cpu")
        for group in groups:
            share = layers[group.name]["update"] * layers[group.name]["gradient"] / scale
            if share > 0:
                total += share * self._null[group.name]
        return total

    def _aligned(self, row: dict[str, Value], norms: dict[str, float], d: int, null: Tensor | None) -> None:
        """Fill in update ratio, alignment and its band, where there was an update."""
        if norms["update"] == 0:
            return
        row["update_ratio"] = norms["update"] / norms["theta"] if norms["theta"] > 0 else None
        if norms["gradient"] == 0:
            return
        row["alignment"] = -norms["dot"] / (norms["update"] * norms["gradient"])
        if null is None:
            bound = self._bounds.setdefault(d, -1.0)
            if bound < 0:
                bound = self._bounds[d] = isotropic_bound(d)
            low, high = -bound, bound
        else:
            low, high = band(null)
        if math.isfinite(high):
            row["alignment_low"], row["alignment_high"] = low, high

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

    @staticmethod
    def _norms(groups: list[_Group], theta: Tensor, delta: Tensor, gradient: Tensor) -> dict[str, dict[str, float]]:
        """Return norms and the dot product of each group, and of the whole under ""; one transfer."""
        found, names = [], [("", slice(None)), *((g.name, slice(g.start, g.stop)) for g in groups)]
        for _, piece in names:
            t, u, g = theta[piece], delta[piece], gradient[piece]
            found += [t.norm(), u.norm(), g.norm(), torch.dot(u, g)]
        for group in groups:
            found.append(torch.cat([gradient[start:stop] for start, stop in group.weights]).norm())
        numbers = torch.stack(found).tolist()
        keys = ("theta", "update", "gradient", "dot")
        table = {name: dict(zip(keys, numbers[4 * i :], strict=False)) for i, (name, _) in enumerate(names)}
        for group, value in zip(groups, numbers[4 * len(names) :], strict=True):
            table[group.name]["weights"] = value
        return table


def _groups(shapes: list[tuple[str, torch.Size]]) -> list[_Group]:
    """Group parameters by layer: "blocks.0", or the first part of the name ("cell", "readout", "theta")."""
    groups: dict[str, _Group] = {}
    offset = 0
    for name, shape in shapes:
        parts = name.split(".")
        key = ".".join(parts[:2]) if parts[0] == "blocks" else parts[0]
        stop = offset + shape.numel()
        group = groups.setdefault(key, _Group(key, offset, stop))
        group.stop = stop
        if len(shape) > 1 or len(parts) == 1:
            group.weights.append((offset, stop))
        offset = stop
    for group in groups.values():
        group.weights = group.weights or [(group.start, group.stop)]
    return list(groups.values())


def slope_and_verdict(rms: list[float]) -> tuple[float | None, str]:
    """Return the least-squares slope of log10(rms) over depth, in decades a layer, and what it means.

    Args:
        rms: root mean square of each layer's gradient, from the input to the output.

    >>> slope_and_verdict([1e-4, 1e-3, 1e-2])
    (1.0, 'vanishing')
    >>> slope_and_verdict([1.0, 1.0])
    (0.0, 'healthy')
    """
    if len(rms) < 2 or not any(rms):
        return None, "not applicable"
    if not all(map(math.isfinite, rms)):
        return None, "exploding"
    if not all(rms):
        return None, "vanishing"
    depth = range(len(rms))
    logs = [math.log10(value) for value in rms]
    middle, mean = (len(rms) - 1) / 2, sum(logs) / len(logs)
    above = sum((i - middle) * (y - mean) for i, y in zip(depth, logs, strict=True))
    slope = above / sum((i - middle) ** 2 for i in depth)
    verdict = "vanishing" if slope > STEEP else "exploding" if slope < -STEEP else "healthy"
    return slope, verdict


def _efficiency(values: dict[str, Value], drop: float, foretold: float) -> float | None:
    """Return (L(theta) - L(theta + dtheta)) / (-gradient . dtheta), or None where that says nothing."""
    alignment, high = values["alignment"], values["alignment_high"]
    if not isinstance(alignment, float) or not foretold > 0:
        return None
    if isinstance(high, float) and alignment <= high:
        return None
    return drop / foretold
