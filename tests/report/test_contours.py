"""Contour lines: on a circle's own radius, in every picture alike, and nothing where nothing was declared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from altprop.report.canvas import Canvas
from altprop.report.contours import Ground, contour
from altprop.report.panel import Panel
from altprop.report.task_panels import _ground

AXIS = np.linspace(-2, 2, 41)
BOWL = AXIS[None] ** 2 + (2 * AXIS[:, None]) ** 2


def test_a_contour_goes_round_where_the_function_has_the_value() -> None:
    pieces = contour(BOWL, 1.0).reshape(-1, 2)
    x, y = pieces[:, 0] / 10 - 2, pieces[:, 1] / 10 - 2
    assert np.allclose(x**2 + (2 * y) ** 2, 1.0, atol=0.02)
    assert np.ptp(x) == pytest.approx(2, abs=0.01)  # rows are y: half as tall as wide
    assert np.ptp(y) == pytest.approx(1, abs=0.01)
    ends, counts = np.unique(pieces.round(9), axis=0, return_counts=True)
    assert len(ends) > 40
    assert (counts % 2 == 0).all()  # closed
    assert len(contour(BOWL, 100.0)) == 0
    holed = BOWL.copy()
    holed[20, 30] = np.nan
    assert np.isfinite(contour(holed, 1.0)).all()


def test_the_ground_is_drawn_on_its_own_axes_with_y_upwards() -> None:
    slope = np.repeat(np.linspace(0.0, 1.0, 5)[:, None], 4, 1)  # rises upwards
    ground = Ground({"x": [0, 3], "y": [10, 20], "levels": slope.tolist()})
    assert [(axis.low, axis.high) for axis in ground.axes] == [(0, 3), (10, 20)]
    canvas = Canvas(100, 100, "")
    panel = Panel(canvas, (20, 10, 60, 80), *ground.axes)
    before = len(canvas._paths)
    ground.draw(panel)
    points = np.concatenate([path[0] for path in canvas._paths[before:]])
    assert points[:, 0].min() == 20
    assert points[:, 0].max() == 80
    assert points[:, 1].min() == pytest.approx(90 - 80 * 8 / 9)  # the highest line but the ridge


@pytest.mark.parametrize(
    "declared", [None, {}, {"x": [0, 1]}, {"x": [0, 1], "y": [1, 0], "levels": [[1, 2], [3, 4]]}, 7]
)
def test_what_is_no_ground_is_none(declared: Any) -> None:
    assert _ground(declared) is None
