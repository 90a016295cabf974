"""What the probes recorded of each learner, along its runs and layer by layer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from altprop.report.canvas import Array
from altprop.report.model import Run, as_number
from altprop.report.tracks import Track

WORDS = ("not applicable", "no update")


def whole(row: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a probe row that belong to the whole model."""
    return _block(row, "values")


def own(row: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a probe row that the learner brings itself."""
    return _block(row, "own")


def _block(row: dict[str, Any], name: str) -> dict[str, Any]:
    values = row.get(name)
    return values if isinstance(values, dict) else {}


def track(runs: Sequence[Run], name: str, of: Callable[[dict[str, Any]], dict[str, Any]] = whole) -> Track:
    """Return a quantity of the whole model, or of what `of` returns of a probe row, along each run."""
    fraction, values = [], []
    for run in runs:
        fraction.append(np.array([as_number(row.get("fraction"), math.nan) for row in run.probes], dtype=float))
        values.append(np.array([as_number(of(row).get(name), math.nan) for row in run.probes], dtype=float))
    return Track(fraction, values)


def layers_of(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return layer -> values of a probe row."""
    return {k: v for k, v in _block(row, "layers").items() if isinstance(v, dict)}


def layer_names(runs: Sequence[Run]) -> list[str]:
    """Return all probed layers in the order of depth, which their numbered names give."""
    return _names(runs, layers_of)


def own_names(runs: Sequence[Run]) -> list[str]:
    """Return the diagnostics that a learner brings itself, sorted."""
    return _names(runs, own)


def _names(runs: Sequence[Run], of: Callable[[dict[str, Any]], dict[str, Any]]) -> list[str]:
    return sorted({name for run in runs for row in run.probes for name in of(row)}, key=natural)


def natural(name: str) -> list[Any]:
    """Sort key by which "blocks.2" comes before "blocks.10".

    >>> sorted(["blocks.10", "blocks.2", "readout"], key=natural)
    ['blocks.2', 'blocks.10', 'readout']
    """
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def layer_matrix(runs: Sequence[Run], name: str, layers: Sequence[str]) -> tuple[Array, Array]:
    """Return the median over runs of a layer quantity: fractions (T,) and values (L, T), NaN where no run has one."""
    length = max((len(run.probes) for run in runs), default=0)
    values = np.full((len(runs), len(layers), length), math.nan)
    fraction = np.full((len(runs), length), math.nan)
    for i, run in enumerate(runs):
        for t, row in enumerate(run.probes):
            fraction[i, t] = as_number(row.get("fraction"), math.nan)
            probed = layers_of(row)
            for k, layer in enumerate(layers):
                values[i, k, t] = as_number(probed.get(layer, {}).get(name), math.nan)
    return _median(fraction), _median(values)


def _median(stack: Array) -> Array:
    """Return the median over the first axis without the NaNs; NaN where there is nothing else."""
    filled = np.sort(stack, axis=0)  # NaNs go to the end
    n = np.sum(~np.isnan(stack), axis=0)
    low = np.take_along_axis(filled, np.maximum((n - 1) // 2, 0)[None], axis=0)[0]
    high = np.take_along_axis(filled, np.minimum(n // 2, max(len(stack) - 1, 0))[None], axis=0)[0]
    return np.asarray(np.where(n > 0, (low + high) / 2, math.nan))


def in_words(runs: Sequence[Run]) -> str:
    """Say why there are no numbers: the note that all probes carry, or that nothing was probed."""
    rows = [row for run in runs for row in run.probes]
    if not rows:
        return "not probed"
    notes = {row.get("note") for row in rows}
    only = notes.pop() if len(notes) == 1 else None
    return str(only) if only in WORDS else ""


def inside_band(runs: Sequence[Run]) -> float | None:
    """Return the share of probes whose alignment lies inside the null band that was measured with it."""
    known = hits = 0
    for run in runs:
        for row in run.probes:
            low, at, high = (as_number(whole(row).get(f"alignment{end}")) for end in ("_low", "", "_high"))
            if low is not None and at is not None and high is not None:
                known += 1
                hits += low <= at <= high
    return hits / known if known else None
