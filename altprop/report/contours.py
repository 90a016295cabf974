"""Contour lines of a function on a grid, to draw trajectories over."""

from __future__ import annotations

from typing import Any

import numpy as np

from altprop.report.canvas import Array
from altprop.report.panel import Axis, Panel

LINES = 9
LEAST = 0.05
"""Share of the grid below the lowest line."""


class Ground:
    """What a panel declared of the function behind its trajectories (`altprop.Ground`).

    Args:
        declared: the record of it.

    Raises:
        KeyError, TypeError, ValueError: where it is no such record.
    """

    def __init__(self, declared: dict[str, Any]) -> None:
        self.levels = np.array(declared["levels"], dtype=float)
        ends = [tuple(float(value) for value in declared[name]) for name in ("x", "y")]
        (left, right), (below, above) = ends
        if self.levels.ndim != 2 or min(self.levels.shape) < 2 or not (left < right and below < above):
            raise ValueError("no grid")
        self.axes = Axis(left, right), Axis(below, above)

    def draw(self, panel: Panel) -> None:
        """Draw the lines in a panel of these axes."""
        known = self.levels[np.isfinite(self.levels)]
        # A bottom narrower than the cells of the grid would show as islands.
        low, high = np.quantile(known, [LEAST, 1.0]) if known.size else (0.0, 0.0)
        down, across = self.levels.shape
        for level in np.linspace(low, high, LINES + 1)[:-1]:
            found = contour(self.levels, float(level))
            x = panel.left + found[:, 0::2] / (across - 1) * panel.width
            y = panel.bottom - found[:, 1::2] / (down - 1) * panel.height
            panel.canvas.segments(np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1), "soft", 0.6, 0.55)


def contour(levels: Array, level: float) -> Array:
    """Return where a function on a grid (H, W) has a value, as straight pieces (n, 4): x0, y0, x1, y1 in cells.

    Each square is cut into two triangles, in which the function is taken to be linear: a triangle has one piece, or
    none, so no square is ambiguous.

    >>> contour(np.array([[0.0, 1.0], [0.0, 1.0]]), 0.25).tolist()
    [[0.25, 0.0, 0.25, 0.25], [0.25, 0.25, 0.25, 1.0]]
    """
    corners = np.indices(levels.shape).transpose(1, 2, 0)[..., ::-1].astype(float)  # x, y
    here, right, above, far = (
        (levels[rows, columns].ravel(), corners[rows, columns].reshape(-1, 2))
        for rows in (slice(None, -1), slice(1, None))
        for columns in (slice(None, -1), slice(1, None))
    )
    pieces = []
    for triangle in ((here, right, far), (here, far, above)):
        ends = [_crossing(*triangle[a], *triangle[b], level) for a, b in ((0, 1), (1, 2), (0, 2))]
        for one, other in ((0, 1), (1, 2), (0, 2)):
            both = np.concatenate([ends[one], ends[other]], 1)
            pieces.append(both[np.isfinite(both).all(1)])
    return np.concatenate(pieces)


def _crossing(f: Array, a: Array, g: Array, b: Array, level: float) -> Array:
    """Return the points (n, 2) between a and b where values from f to g pass a level, NaN where they do not."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where((f < level) != (g < level), (level - f) / (g - f), np.nan)
    return np.asarray(a + share[:, None] * (b - a))
