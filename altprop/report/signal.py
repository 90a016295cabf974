"""Whether the learning signal gets through a deep net: judged where it is carried, over the run, with the cause.

The gradient of a weight is a signal times an input, so its size hides that signals die out. The signal itself is dL/dz
of each layer, z being its pre-activation; on the way forth it is how far z spreads over the examples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from altprop.report.canvas import Array
from altprop.report.format import figure, percent, plural, signed
from altprop.report.health import layer_matrix, layer_names, layers_of
from altprop.report.model import Run, as_number

LEAST = 4
"""Trainable layers of a net that is judged: over fewer there is no depth to lose a signal in."""
LOSS, GAIN = 1.0, 2.0
"""Decades that a signal may lose and gain from end to end. Nets that learn gain by themselves: 10 layers on digits, at
.86 and .90 of accuracy with Adam, gained 1.1 and 1.3 decades; one that was stuck at .18 gained 2.5."""
HEALTHY, VANISHING, EXPLODING = "healthy", "vanishing", "exploding"
_DRAWN = {
    "torch": "U(−1/√n, 1/√n), variance 1/3n",
    "he_normal": "N(0, 2/n)",
    "he_uniform": "uniform, variance 2/n",
    "lecun_normal": "N(0, 1/n)",
    "glorot_normal": "N(0, 2/(n + m))",
    "glorot_uniform": "uniform, variance 2/(n + m)",
    "unit_normal": "N(0, 1)",
}
"""How an initialisation draws the weights of a layer with n inputs and m outputs."""


@dataclass(frozen=True)
class Signal:
    """What is said of the signal in one direction.

    Attributes:
        verdict: such as "vanishing until 18 % of the budget", or why nothing is said.
        figures: what it rests on; empty where nothing was judged.
        cause: a sentence on what takes or adds to it; empty where it is healthy.
        judged: whether there is a verdict.
    """

    verdict: str
    figures: str = ""
    cause: str = ""
    judged: bool = True


def backward(runs: Sequence[Run]) -> Signal:
    """Judge the signal on its way back, over all layers that train: dL/dz, its root mean square over the examples."""
    layers, why = _judged(runs)
    if why:
        return Signal(why, judged=False)
    fraction, values = layer_matrix(runs, "backward_signal", layers)
    steps = [_slope(column[::-1]) for column in values.T]
    found = _told(fraction, steps, len(layers), "the first layer", "the last")
    return found if found.verdict.startswith(HEALTHY) else _with_cause(runs, layers, found, steps, values)


def forward(runs: Sequence[Run]) -> Signal:
    """Judge the signal on its way forth, over the hidden layers: how far z spreads over the examples."""
    layers, why = _judged(runs)
    if why:
        return Signal(why, judged=False)
    hidden = layers[:-1]
    fraction, values = layer_matrix(runs, "forward_signal", hidden)
    return _told(fraction, [_slope(column) for column in values.T], len(hidden), "the last hidden layer", "the first")


def _judged(runs: Sequence[Run]) -> tuple[list[str], str]:
    """Return the layers whose signal is judged, and why there is no verdict, empty where there is one."""
    layers = [name for name in layer_names(runs) if name.startswith("blocks.")]
    trained = [name for name in layers if not _frozen(runs, name)]
    if not layers:
        return [], "no layered net"
    if len(trained) < LEAST:
        return [], f"{plural(len(trained), 'trained layer')}: not judged"
    known = {name for run in runs for row in run.probes[:1] for name, one in layers_of(row).items() if _has_signal(one)}
    return trained, "" if known.issuperset(trained) else "not recorded"


def _has_signal(layer: dict[str, object]) -> bool:
    return as_number(layer.get("backward_signal")) is not None


def _frozen(runs: Sequence[Run], layer: str) -> bool:
    """Return whether a layer never moved, though it had a gradient."""
    probed = [one for run in runs for row in run.probes if (one := layers_of(row).get(layer)) is not None]
    moved = any(one.get("update_ratio") is not None for one in probed)
    return not moved and any(as_number(one.get("gradient_rms"), 0.0) for one in probed)


def _slope(signal: Array) -> float:
    """Return decades a layer along the way of a signal (L,); -inf where it dies, NaN where there is none to follow.

    >>> round(_slope(np.array([1.0, 0.1, 0.01])), 9), _slope(np.array([1.0, 0.0, 0.0]))
    (-1.0, -inf)
    """
    if not signal.size or np.isnan(signal).any() or signal[0] == 0:
        return math.nan
    if np.isinf(signal).any():
        return math.inf
    if (signal == 0).any():
        return -math.inf
    depth = np.arange(signal.size) - (signal.size - 1) / 2
    return float(depth @ np.log10(signal) / (depth @ depth))


def _state(slope: float, layers: int) -> str:
    """Return what a slope means over so many layers; empty where it is none."""
    decades = slope * (layers - 1)
    if math.isnan(slope):
        return ""
    return VANISHING if decades <= -LOSS else EXPLODING if decades >= GAIN else HEALTHY


def _told(fraction: Array, slopes: Sequence[float], layers: int, end: str, start: str) -> Signal:
    """Return the verdict over a run from the slope at each probe.

    Args:
        fraction: share of the budget at the probes, (T,).
        slopes: (T,), decades a layer.
        layers: how many the signal goes through.
        end, start: where it arrives and where it comes from, in words.
    """
    states = [_state(slope, layers) for slope in slopes]
    shares = _shares(fraction, states)
    bad = {state: share for state, share in shares.items() if state in (VANISHING, EXPLODING)}
    if not shares:
        return Signal("not recorded", judged=False)
    state = max(bad, key=lambda one: bad[one]) if bad else HEALTHY
    typical = float(np.median([slope for slope, one in zip(slopes, states, strict=True) if one == state]))
    factor = 10 ** (typical * (layers - 1))
    figures = f"{signed(typical, 2)} decades a layer: {end} has {figure(factor)} of {start}"
    return Signal(f"{state} {_when(fraction, states, state)}", figures if math.isfinite(typical) else "")


def _shares(fraction: Array, states: Sequence[str]) -> dict[str, float]:
    """Return state -> share of the budget, a probe speaking until the next one."""
    found: dict[str, float] = {}
    edges = [*fraction.tolist(), 1.0]
    for place, state in enumerate(states):
        if state:
            found[state] = found.get(state, 0.0) + max(edges[place + 1] - edges[place], 1e-9)
    return found


def _when(fraction: Array, states: Sequence[str], state: str) -> str:
    """Return when a state lasts, in words.

    >>> _when(np.array([0.0, 0.2, 0.6]), ["vanishing", "healthy", "healthy"], "vanishing")
    'until 20 % of the budget'
    """
    here = [one == state for one in states if one]
    at = [share for share, one in zip(fraction.tolist(), states, strict=True) if one]
    if all(here):
        return "throughout"
    first, last = here.index(True), len(here) - 1 - here[::-1].index(True)
    if all(here[first : last + 1]) and first == 0:
        return f"until {percent(at[last + 1])} of the budget"
    if all(here[first : last + 1]) and last == len(here) - 1:
        return f"from {percent(at[first])} of the budget on"
    return f"for {percent(_shares(fraction, states)[state])} of the budget"


def _with_cause(
    runs: Sequence[Run], layers: Sequence[str], found: Signal, slopes: Sequence[float], values: Array
) -> Signal:
    """Add what each layer does to the signal on its way back: its activation and the weights above it, exactly."""
    state = found.verdict.split()[0]
    _, passed = layer_matrix(runs, "passed", layers)
    chosen = [place for place, slope in enumerate(slopes) if _state(slope, len(layers)) == state]
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, where a signal underflowed at every probe
        logs = np.log(passed[:-1, chosen])
        through = np.exp(np.nanmedian(logs, axis=1).mean())
        weights = np.exp(np.nanmedian(np.log(values[:-1, chosen] / values[1:, chosen]) - logs, axis=1).mean())
    if not (math.isfinite(through) and math.isfinite(weights) and through > 0 and weights > 0):
        return found
    activation, drawn = _option(runs, "activation"), _option(runs, "initialisation")
    at_first = f", {_DRAWN.get(drawn, drawn)} at first," if drawn else ""
    cause = (
        f"a layer's {activation or 'activation'} lets {figure(float(through))} of the signal pass and its weights"
        f"{at_first} multiply it by {figure(float(weights))}, together {figure(float(through * weights))} a layer; "
        f"weights that multiply it by {figure(float(1 / through))} would keep it"
    )
    return Signal(found.verdict, found.figures, cause)


def _option(runs: Sequence[Run], name: str) -> str:
    """Return an option of the model as the runs were configured, empty where it is not told."""
    model = runs[0].record.data["config"].get("model")
    value = model.get(name) if isinstance(model, dict) else None
    return value if isinstance(value, str) else ""
