"""The drawing layer: palette, canvas, axes, labels and medians."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from altprop.report.canvas import Canvas, text_width
from altprop.report.draw import Figure, groups, median_path, slug
from altprop.report.model import Learner
from altprop.report.panel import Axis, Panel, linear_ticks, needs_log, spanning, spread
from altprop.report.style import DARK, HUES, LIGHT, MARKERS, LearnerStyle, assign

INK = LearnerStyle("ink", None, "circle")
# Machado, Oliveira and Fernandes 2009, severity 1: protanopia, deuteranopia, tritanopia, on linear RGB.
SEEN = [
    np.eye(3),
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
]


def linear(colour: str) -> np.ndarray:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    rgb = np.clip(rgb, 0, 1)
    to_lms = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return to_lab @ np.cbrt(to_lms @ rgb)


def contrast(a: str, b: str) -> float:
    light, dark = sorted((linear(a) @ [0.2126, 0.7152, 0.0722], linear(b) @ [0.2126, 0.7152, 0.0722]), reverse=True)
    return float((light + 0.05) / (dark + 0.05))


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_can_be_told_apart_by_everybody(palette: dict[str, str]) -> None:
    """Least OKLab distance among hues, ink and grey; observed .080 (light) and .079 (dark)."""
    names = [*(f"c{i}" for i in range(HUES)), "ink", "grey"]
    for seen in SEEN:
        labs = [oklab(seen @ linear(palette[name])) for name in names]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(labs, 2)) > 0.06


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast_on_the_page(palette: dict[str, str]) -> None:
    assert contrast(palette["ink"], palette["page"]) > 12
    assert contrast(palette["soft"], palette["page"]) > 4.5
    assert all(contrast(palette[name], palette["page"]) >= 3 for name in (*(f"c{i}" for i in range(HUES)), "grey"))


def test_an_axis_of_values_that_rounding_alone_tells_apart_has_ticks() -> None:
    axis = spanning([0.05, 0.05 + 1e-16, 0.05 - 2e-16])
    assert len(set(axis.labels(axis.ticks(6)))) > 2


def test_every_learner_has_its_own_look() -> None:
    styles = assign(["reference", *["learner"] * 60, *["control"] * 3])
    assert len({(one.colour, one.dash, one.marker) for one in styles}) == len(styles)
    assert styles[0].colour == "ink"
    assert {one.colour for one in styles[-3:]} == {"grey"}
    assert all(one.colour not in ("ink", "grey") for one in styles[1:-3])
    assert len({one.colour for one in styles[1:9]}) == HUES


def test_canvas_is_safe_and_repeats_itself() -> None:
    def draw() -> Canvas:
        canvas = Canvas(100, 50, '<a "b">')
        canvas.text(5, 5, "</text><script>x</script> $y_1$ \x00", "c0", anchor="end")
        canvas.line([0, 10, math.nan, 20, 30], [0, 10, 5, 20, 30], "c1", dash=(2, 2))
        canvas.boxes([(1, 2, 3, 4)], "#123456")
        for shape in MARKERS:
            canvas.markers([5], [5], shape, "ink")
        return canvas

    canvas = draw()
    assert canvas.svg() == draw().svg()
    root = ET.fromstring(canvas.svg())
    names = [element.tag.rsplit("}")[-1] for element in root.iter()]
    assert set(names) == {"svg", "path", "text"}
    assert root.get("aria-label") == '<a "b">'
    text = next(element for element in root.iter() if element.tag.endswith("text"))
    assert text.text == "</text><script>x</script> $y_1$  "
    assert "var(--c0)" in (text.get("style") or "")
    assert not [element for element in root.iter() if element.get("id") or element.get("clip-path")]
    lines = [e for e in root.iter() if "stroke-dasharray" in (e.get("style") or "")]
    assert [line.get("d") for line in lines] == ["m0 0 10 10m10 10 10 10"]  # the gap parts the line
    assert "#123456" in canvas.svg()


def test_a_figure_file_brings_its_palettes() -> None:
    canvas = Canvas(10, 10, "x")
    canvas.line([0, 5], [0, 5], "c3")
    ET.fromstring(canvas.file())
    assert f"--c3:{LIGHT['c3']}" in canvas.file()
    assert f"--c3:{DARK['c3']}" in canvas.file()
    assert "prefers-color-scheme:dark" in canvas.file()
    assert "<style>" not in Figure("x", canvas).svg


@pytest.mark.parametrize("text", ["backprop+adam", "WWWWW", "iiiii", "0.123 × 10⁻⁴", "evolution_strategy"])
@pytest.mark.parametrize("bold", [False, True])
def test_text_is_never_wider_than_thought(text: str, bold: bool) -> None:
    """Against matplotlib's own measure of DejaVu Sans, the widest of the usual fonts."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    path = TextPath(
        (0, 0), text, size=10, prop=FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    )
    assert text_width(text, 10, bold) >= path.get_extents().width * 0.97


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.1, 0.97), (-3, 8), (0, 2e9), (0.93, 0.95), (1e-4, 9e-4), (0.2, 0.2001)]
)
def test_linear_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = linear_ticks(low, high, 5)
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    labels = Axis(low, high).labels(ticks)
    assert len(set(labels)) == len(ticks)


@pytest.mark.parametrize(("low", "high"), [(1, 1e6), (2, 50), (3, 4), (1e-9, 1e-2), (0.9, 1.1)])
def test_log_ticks(low: float, high: float) -> None:
    axis = Axis(low, high, log=True)
    ticks = axis.ticks(5)
    assert 2 <= len(ticks) <= 10
    assert len(set(axis.labels(ticks))) == len(ticks)
    assert np.all(np.diff(axis.place(ticks)) > 0)


def test_log_axis_leaves_out_what_it_cannot_show() -> None:
    assert np.isnan(Axis(1, 10, log=True).place([0.0, -1.0])).all()
    assert Axis(1, 100, log=True).place([10.0]) == pytest.approx(0.5)


def test_spanning_copes_with_anything() -> None:
    for values in ([], [math.nan], [3.0], [0.0, 0.0], [math.inf, 1.0], [-1.0, -1.0]):
        for log in (False, True):
            axis = spanning(values, log=log)
            assert axis.high > axis.low
    assert needs_log([1.0, 100.0])
    assert not needs_log([0.0, 100.0])


@pytest.mark.parametrize("wanted", [[1.0, 1.0, 1.0], [9.0, 9.5, 10.0], [5.0, 0.0, 5.1], [2.0]])
def test_spread_labels_keep_their_distance(wanted: list[float]) -> None:
    places = spread(wanted, 2.0, 0.0, 10.0)
    ordered = sorted(places)
    assert all(b - a >= 2 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert ordered[0] >= 0
    assert ordered[-1] <= 10 + 1e-9
    assert np.argsort(places, kind="stable").tolist() == np.argsort(wanted, kind="stable").tolist()


def test_panel_keeps_outliers_inside() -> None:
    canvas = Canvas(100, 100, "x")
    panel = Panel(canvas, (10, 10, 80, 80), Axis(0, 1), Axis(0, 1))
    across, down = panel.at([-5, 0.5, 9], [9, 0.5, -9])
    assert across.tolist() == [10, 50, 90]
    assert down.tolist() == [10, 50, 90]
    assert panel.level(2.0, "ink") is None


def test_median_path_ends_where_half_are_gone() -> None:
    x = [np.arange(4.0)] * 3
    y = [np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 5.0]), np.array([1.0, 9.0, 7.0, math.nan])]
    across, down = median_path([x[0], x[1][:2], x[2]], y, 1)
    assert down[:3].tolist() == [1.0, 5.0, 3.0]  # at 2 one is gone: -inf, 3, 7
    assert np.isnan(down[3])
    assert across[:3].tolist() == [0.0, 1.0, 2.0]
    lower = median_path([x[0], x[1][:2], x[2]], y, -1)[1]
    assert lower[2] == 7.0  # where less is better a run that is gone is the largest


def learner(index: int, reference: bool = False) -> Learner:
    return Learner(f"l{index}", {}, reference, False, INK, index)


def test_crowds_are_split_with_the_reference_in_each() -> None:
    crowd = [learner(0, True), *(learner(i) for i in range(1, 41))]
    parts = groups(crowd)
    assert len(parts) == 5
    assert all(part[0].reference and len(part) == 9 for part in parts)
    assert sorted(one.index for part in parts for one in part[1:]) == list(range(1, 41))
    assert groups(crowd[:12]) == [crowd[:12]]


def test_slugs_are_safe_and_distinct() -> None:
    assert slug("final", "../../etc/passwd").startswith("final-etc-passwd-")
    assert slug("a", "x/y") != slug("a", "x-y")
    assert slug("a", "x/y") != slug("a", "x:y")
    assert len(slug("a", "w" * 500)) < 64


def test_text_stands_where_it_was_put() -> None:
    canvas = Canvas(100, 50, "x")
    canvas.text(9, 5, "plain", "ink", 12, "middle")
    plain = ET.fromstring(canvas.svg())[0]
    assert (plain.get("x"), plain.get("y"), plain.get("text-anchor"), plain.text) == ("9.0", "5.0", "middle", "plain")


def test_usual_looks_are_left_to_the_page_and_all_others_written() -> None:
    canvas = Canvas(100, 50, "x")
    canvas.line([0, 9], [0, 9], "ink", 2.0)
    canvas.line([0, 9], [9, 0], "ink", 2.0, (2, 2))
    canvas.boxes([(1, 2, 3, 4)], "grey")
    canvas.text(5, 5, "small", "soft", 9.5)
    styles = [element.get("style") or "" for element in ET.fromstring(canvas.svg())]
    assert styles[0] == "stroke:var(--ink);stroke-width:2"
    assert "stroke-linecap:butt" in styles[1]
    assert styles[2:] == ["fill:var(--grey)", ""]
    assert "path{fill:none;stroke-linecap:round" in canvas.file()
