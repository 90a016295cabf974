"""Gradient health, the standard tier: the basic one, and what the gradients of single examples say.

With g_i the gradient of example i of n, g their mean and S their covariance,

    tr S = n / (n - 1) (mean |g_i|^2 - |g|^2),    |G|^2 = |g|^2 - tr S / n,    noise scale B = mean tr S / mean |G|^2,

B over the probes of the run so far, "beyond n" where the mean of |G|^2 is not positive (McCandlish et al. 2018,
arXiv:1812.06162); diversity sum |g_i|^2 / |sum g_i|^2 (Yin et al. 2018, arXiv:1706.05699); SNR the mean of g_j^2 / S_jj
over parameters j (Liu et al. 2020, arXiv:2001.07384). Of dense layers they come in closed form, from what a layer sees
and what comes back to it: sum_i g_i^2 = (D^2)^T (A^2), element by element, without one gradient of an example.

Beside that, in how many directions the outputs of a layer differ: its effective rank is exp of the entropy of the
singular values, as shares of their sum, of its outputs less their mean over the examples (Roy and Vetterli 2007).
Where a layer normalises batches, its variance shift is the variance of what it sees in evaluation over the one that it
keeps from training and divides by: 1 where both agree, less where dropout below adds to the latter (Li et al. 2018,
arXiv:1801.05134).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from altprop.capabilities import Capability
from altprop.data import Batch
from altprop.losses import NoLoss
from altprop.models.base import Dense
from altprop.probes.basic import BasicProbes, Look, Value, looking, watched
from altprop.problem import Problem
from altprop.vectorized import differentiate

MOST = 5e7
"""Numbers that the gradients of single examples may be, where they are made one by one."""
SELDOM = 4
"""Probes from one of the dearer measurements to the next."""


class Found(NamedTuple):
    """What an instrument found.

    Attributes:
        values: name -> value, of the whole net.
        layers: name of a layer -> name -> value.
        sums: name -> number that is added up over the probes of a run.
    """

    values: dict[str, Value]
    layers: dict[str, dict[str, Value]]
    sums: dict[str, float]


class Instrument(NamedTuple):
    """What is measured on the probe batch before a step.

    Attributes:
        measure: (problem, batch, seed) -> what it found; called in evaluation mode, not counted.
        every: probes from one measurement to the next.
    """

    measure: Callable[[Problem, Batch, int], Found]
    every: int = 1


class TieredProbes:
    """The basic probes, and instruments beside them.

    Args:
        basic: the probes of the basic tier.
        problem, batch, seed: as for them.
        instruments: what is measured besides.
    """

    def __init__(
        self, basic: BasicProbes, problem: Problem, batch: Batch, seed: int, instruments: Sequence[Instrument]
    ) -> None:
        self._basic, self._problem, self._batch, self._seed = basic, problem, batch, seed
        self._instruments = list(instruments)
        self._count = 0
        self._sums: dict[str, float] = {}
        self._found: list[Found] = []
        self.look, self.look_again, self.own = basic.look, basic.look_again, basic.own

    @property
    def watching(self) -> bool:
        """Whether there is a model to look at."""
        return self._basic.watching

    def before(self, batch: Batch | None = None) -> None:
        """Look at the model before the step; see `BasicProbes.before`."""
        if self.watching:
            self.remember(self.look(batch))

    def remember(self, look: Look) -> None:
        """Keep what was seen before the step, and measure what is due."""
        self._basic.remember(look)
        due = [one for one in self._instruments if self._count % one.every == 0]
        self._count += 1
        blind = isinstance(self._problem.loss, NoLoss) or Capability.PLAYERS in self._problem.offers
        if not blind:
            with looking(self._problem):
                self._found = [one.measure(self._problem, self._batch, self._seed) for one in due]

    def after(self, own_model: bool, loss: Tensor | None = None) -> dict[str, Any]:
        """Return the trace row of the step; see `BasicProbes.after`."""
        row = self._basic.after(own_model, loss)
        found, self._found = self._found, []
        if row["note"] == "not applicable":
            return row
        for one in found:
            row["values"] |= one.values
            for name, value in one.sums.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            for name, values in one.layers.items():
                if name in row["layers"]:
                    row["layers"][name] |= values
        if "gradient_variance" in row["values"]:
            row["values"]["noise_scale"] = noise_scale(self._sums["variance"], self._sums["signal"])
        return row

    def state_dict(self) -> dict[str, Any]:
        """Return the state in weights_only-safe types."""
        return {"basic": self._basic.state_dict(), "count": self._count, "sums": dict(self._sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put a state of `state_dict` back."""
        self._basic.load_state_dict(state["basic"])
        self._count, self._sums = state["count"], dict(state["sums"])


def probes(problem: Problem, batch: Batch, seed: int) -> TieredProbes:
    """Return the probes of this tier."""
    return TieredProbes(BasicProbes(problem, batch, seed), problem, batch, seed, INSTRUMENTS)


def noise_scale(variance: float, signal: float) -> Value:
    """Return tr S / |G|^2, both summed over probes.

    >>> noise_scale(6.0, 2.0), noise_scale(6.0, -1.0)
    (3.0, 'beyond n')
    """
    if not (math.isfinite(variance) and math.isfinite(signal)):
        return None
    return variance / signal if signal > 0 else "beyond n"


class Moments(NamedTuple):
    """Of the gradients of single examples in one parameter: their mean, and the mean of their squares."""

    mean: Tensor
    square: Tensor


def example_moments(problem: Problem, batch: Batch) -> dict[str, Moments] | None:
    """Return parameter name -> moments of the rows' gradients, without any penalty; None where they would be too many.

    Args:
        problem: in evaluation mode.
        batch: rows whose losses are the batch's mean.
    """
    model: Any = problem.model
    dense = Capability.LAYERED in problem.offers and all(type(block) is Dense for block in problem.layered.blocks)
    own = {id(p) for block in problem.layered.blocks for p in (block.weight, block.bias)} if dense else set()
    if dense and batch.weights is None and problem.loss.is_mean and all(id(p) in own for p in model.parameters()):
        return _written_out(problem, batch)
    if batch.rows * sum(p.numel() for p in model.parameters()) > MOST:
        return None
    each = problem.per_example_gradients(batch)
    return {name: Moments(g.mean(0), g.square().mean(0)) for name, g in each.items()}


def _written_out(problem: Problem, batch: Batch) -> dict[str, Moments]:
    """Return the moments in dense layers: what a layer sees is A (n, m), and what comes back D (n, k)."""
    blocks: list[Any] = list(problem.layered.blocks)
    with torch.enable_grad(), watched(blocks) as (inputs, _, before):
        loss = problem.uncounted.output_loss(problem.uncounted.outputs(None, batch), batch)
    found, n = {}, batch.rows
    back = differentiate(loss, before)
    with torch.no_grad():
        for index, (block, x, at_z) in enumerate(zip(blocks, inputs, back, strict=True)):
            a, d = block.perturbed(x.detach()), at_z * n
            a2, d2 = a.square(), d.square()
            found[f"blocks.{index}.weight"] = Moments(d.T @ a / n, d2.T @ a2 / n)
            found[f"blocks.{index}.bias"] = Moments(d.mean(0), d2.mean(0))
    return found


def of_examples(problem: Problem, batch: Batch, seed: int) -> Found:
    """Measure what the gradients of single examples say."""
    n = batch.rows
    moments = example_moments(problem, batch) if n > 1 else None
    if moments is None:
        return Found({}, {}, {})
    squares = variance = 0.0
    layers: dict[str, dict[str, Value]] = {}
    told: dict[str, list[Tensor]] = {}
    for name, (mean, square) in moments.items():
        spread = (square - mean.square()).clamp(min=0) * n / (n - 1)
        squares += float(mean.square().sum(dtype=torch.float64))
        variance += float(spread.sum(dtype=torch.float64))
        parts = name.split(".")
        layer = ".".join(parts[:2]) if parts[0] == "blocks" else parts[0]
        told.setdefault(layer, []).append((mean.square() / spread)[spread > 0])
    for name, each in told.items():
        layers[name] = {"snr": _mean(torch.cat(each))}
    signal = squares - variance / n
    values: dict[str, Value] = {
        "gradient_variance": variance,
        "gradient_signal": signal,
        "diversity": (variance * (n - 1) / n + squares) / (n * squares) if squares > 0 else None,
        "snr": _mean(torch.cat([one for each in told.values() for one in each])),
    }
    return Found(values, layers, {"variance": variance, "signal": signal})


def _mean(values: Tensor) -> float | None:
    return float(values.mean(dtype=torch.float64)) if len(values) else None


def of_outputs(problem: Problem, batch: Batch, seed: int) -> Found:
    """Measure the effective rank of what each block puts out, and the variance shift where one normalises batches."""
    if Capability.LAYERED not in problem.offers:
        return Found({}, {}, {})
    blocks: list[Any] = list(problem.layered.blocks)
    with torch.no_grad(), watched(blocks) as (_, outputs, before):
        problem.uncounted.outputs(None, batch)
    layers: dict[str, dict[str, Value]] = {
        f"blocks.{i}": {"effective_rank": effective_rank(y)} for i, y in enumerate(outputs)
    }
    for i, (block, z) in enumerate(zip(blocks, before, strict=False)):
        if len(before) == len(blocks) and getattr(getattr(block, "norm", None), "running_var", None) is not None:
            layers[f"blocks.{i}"]["variance_shift"] = variance_shift(z, block.norm.running_var)
    return Found({}, layers, {})


def variance_shift(z: Tensor, running: Tensor) -> float | None:
    """Return the variance of pre-activations (n, C, ...) over what batch normalisation holds it for (C,), mean over C.

    >>> round(variance_shift(torch.tensor([[0.0], [2.0]]), torch.tensor([4.0])), 6)
    0.5
    """
    if len(z) < 2:
        return None
    ratio = z.transpose(0, 1).flatten(1).var(1) / running
    return float(ratio.mean()) if bool(ratio.isfinite().all()) else None


def effective_rank(outputs: Tensor) -> float | None:
    """Return exp of the entropy of the singular values of outputs (n, ...) less their mean; None where all are alike.

    >>> round(effective_rank(torch.eye(4)), 6)
    3.0
    """
    y = outputs.detach().flatten(1).double()
    y = y - y.mean(0)
    if not bool(y.isfinite().all()):
        return None
    values = torch.linalg.svdvals(y)
    values = values[values > 1e-12 * values.sum()]
    if not len(values):
        return None
    share = values / values.sum()
    return float(torch.exp(-(share * share.log()).sum()))


INSTRUMENTS = (Instrument(of_examples), Instrument(of_outputs, SELDOM))
