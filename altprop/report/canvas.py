"""A drawing of lines, areas, markers and text, written as SVG.

Colours are names of the palette and become CSS variables, which the page or the file itself defines, so one drawing
serves light and dark. There are no ids, no clip paths and no styles of its own, so that many drawings live in one page;
equal calls give equal bytes. It is written by hand for that: a figure of twelve learners on twelve seeds takes 8 ms
here, and 196 ms and four times the bytes in matplotlib, which knows one palette at a time and brings ids, fonts and
clip paths that would have to be taken out again; a report holds hundreds.

Coordinates are points from the upper left corner.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from html import escape
from typing import Any

import numpy as np

from altprop.report.format import short
from altprop.report.style import DARK, LIGHT, variables

SIGNATURE = "altprop-figure"
_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_WIDTHS = (
    dict.fromkeys("ijl.,:;'|!I ", 0.34)
    | dict.fromkeys("frt()[]-/", 0.42)
    | dict.fromkeys("mwMW%@", 0.98)
    | dict.fromkeys("ABCDGHKNOPQRUVXYZ+=−<>_…·", 0.8)
)
Array = np.ndarray[Any, np.dtype[np.float64]]
USUAL_SIZE = 9.5
RULES = {
    "path": "fill:none;stroke-linecap:round;stroke-linejoin:round",
    "text": f"font-size:{USUAL_SIZE}px;fill:var(--soft)",
}
"""The looks that most paths and texts have: the page's style, or the file's, says them once for all."""
_STANDALONE = (
    f":root{{{variables(LIGHT)}color-scheme:light dark}}"
    f"@media(prefers-color-scheme:dark){{:root{{{variables(DARK)}}}}}"
    f"path{{{RULES['path']}}}text{{{RULES['text']}}}"
    "svg{background:var(--page)}text{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif;"
    "paint-order:stroke;stroke:var(--page);stroke-width:3px;stroke-linejoin:round}"
)


class Canvas:
    """A drawing of a given size.

    Args:
        width: in points, one point being one CSS pixel at natural size.
        height: in points.
        label: what the drawing shows, for those who cannot see it.
    """

    def __init__(self, width: float, height: float, label: str) -> None:
        self.width, self.height, self.label = width, height, label
        self._paths: list[tuple[Any, ...]] = []
        self._texts: list[tuple[Any, ...]] = []

    def line(
        self,
        x: Sequence[float] | Array,
        y: Sequence[float] | Array,
        colour: str,
        width: float = 1.0,
        dash: Sequence[float] | None = None,
        opacity: float = 1.0,
    ) -> None:
        """Draw a line through points (n,); it is interrupted where a coordinate is not finite."""
        points = np.column_stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)])
        ok = np.isfinite(points).all(axis=1)
        for piece in np.split(np.arange(len(points)), np.flatnonzero(~ok)):
            kept = piece[ok[piece]]
            if len(kept) > 1:
                self._stroke(points[kept], [1] + [2] * (len(kept) - 1), colour, width, dash, opacity)

    def _stroke(
        self,
        points: Array,
        codes: list[int],
        colour: str,
        width: float,
        dash: Sequence[float] | None = None,
        opacity: float = 1.0,
    ) -> None:
        """Draw lines, as part of the path before them if that looks alike: the seeds of a learner become one path."""
        look = (colour, width, dash, opacity, False)
        before = self._paths[-1] if self._paths else None
        if before is not None and before[2:] == look:
            self._paths[-1] = (np.vstack([before[0], points]), [*before[1], *codes], *look)
        else:
            self._paths.append((points, codes, *look))

    def segments(self, rows: Iterable[Sequence[float]], colour: str, width: float = 1.0, opacity: float = 1.0) -> None:
        """Draw separate straight lines, each (x0, y0, x1, y1), as one path."""
        ends = np.array(list(rows), dtype=float).reshape(-1, 2)
        if len(ends):
            self._stroke(ends, [1, 2] * (len(ends) // 2), colour, width, None, opacity)

    def area(self, x: Sequence[float], y: Sequence[float], colour: str, opacity: float = 1.0) -> None:
        """Draw a filled polygon."""
        points = np.column_stack([x, y]).astype(float)
        codes = [1] + [2] * (len(points) - 1) + [79]
        self._paths.append((np.vstack([points, points[:1]]), codes, colour, 0.0, None, opacity, True))

    def boxes(self, rows: Iterable[Sequence[float]], colour: str, opacity: float = 1.0) -> None:
        """Draw filled boxes, each (x, y, width, height), as one path."""
        corners = []
        for x, y, w, h in rows:
            corners += [(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)]
        if corners:
            codes = [1, 2, 2, 2, 79] * (len(corners) // 5)
            self._paths.append((np.array(corners, dtype=float), codes, colour, 0.0, None, opacity, True))

    def markers(
        self,
        x: Sequence[float] | Array,
        y: Sequence[float] | Array,
        shape: str,
        colour: str,
        size: float = 6.0,
        opacity: float = 1.0,
    ) -> None:
        """Draw markers of a shape in style.MARKERS, centred on points (n,), `size` points across, as one path."""
        points = np.column_stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)])
        points = points[np.isfinite(points).all(axis=1)]
        if not len(points):
            return
        if shape == "circle":
            # A line without length and with round ends is a disc, in a tenth of the characters of its outline.
            ends = np.repeat(points, 2, axis=0)
            self._stroke(ends, [1, 2] * len(points), colour, size, None, opacity)
            return
        vertices, codes, filled = _marker(shape)
        placed = (vertices * [size, -size])[None] + points[:, None]
        width = 0.0 if filled else size / 4
        self._paths.append((placed.reshape(-1, 2), list(codes) * len(points), colour, width, None, opacity, filled))

    def text(
        self,
        x: float,
        y: float,
        text: str,
        colour: str = "soft",
        size: float = 10.0,
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """Write one line of text with its baseline at y."""
        self._texts.append((x, y, text, colour, size, anchor, bold))

    def svg(self) -> str:
        """Return the drawing as an <svg> element for a page that defines the palette."""
        return self._svg("", f'style="max-width:{self.width * 1.25:g}px" ')

    def file(self) -> str:
        """Return the drawing as a file of its own, with both palettes inside."""
        return self._svg(f"<style>{_STANDALONE}</style>\n", f'width="{self.width:g}" height="{self.height:g}" ') + "\n"

    def _svg(self, head: str, size: str) -> str:
        label = escape(printable(self.label))
        return (
            f'<svg class="{SIGNATURE}" xmlns="http://www.w3.org/2000/svg" role="img" {size}'
            f'viewBox="0 0 {self.width:g} {self.height:g}" aria-label="{label}">\n{head}{self.body}</svg>'
        )

    @property
    def body(self) -> str:
        """The inside of the <svg> element."""
        return "".join([_path(*path) for path in self._paths] + [_text(*text) for text in self._texts])


def _path(
    points: Array,
    codes: Sequence[int],
    colour: str,
    width: float,
    dash: Sequence[float] | None,
    opacity: float,
    filled: bool,
) -> str:
    look = f"fill:{_colour(colour)}" if filled else f"stroke:{_colour(colour)};stroke-width:{width:.3g}"
    if dash:
        lengths = ",".join(f"{length * max(width, 1.0):.3g}" for length in dash)
        look += f";stroke-dasharray:{lengths};stroke-linecap:butt"
    look += f";opacity:{opacity:.2g}" if opacity < 1 else ""
    return f'<path d="{_outline(points, codes)}" style="{look}"/>\n'


def _text(x: float, y: float, text: str, colour: str, size: float, anchor: str, bold: bool) -> str:
    look = f"font-size:{size:g}px" if size != USUAL_SIZE else ""
    look += f";fill:{_colour(colour)}" if colour != "soft" else ""
    look += ";font-weight:700" if bold else ""
    style = f' style="{look.lstrip(";")}"' if look else ""
    side = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{side}{style}>{escape(printable(text), quote=False)}</text>\n'


def _colour(name: str) -> str:
    return f"var(--{name})" if name in LIGHT else name


def printable(text: str) -> str:
    r"""Return text without the characters that XML forbids.

    >>> printable("a\x00b")
    'a b'
    """
    return _CONTROL.sub(" ", text)


@lru_cache
def _marker(shape: str) -> tuple[Array, tuple[int, ...], bool]:
    """Return the corners of a marker in a box of side 1, their path codes, and whether it is filled."""
    if shape in ("cross", "plus"):
        arms = np.array([[-0.4, -0.4], [0.4, 0.4], [-0.4, 0.4], [0.4, -0.4]])
        straight = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, -0.5], [0.0, 0.5]])
        return (arms if shape == "cross" else straight), (1, 2, 1, 2), False
    else:
        corners = {
            "square": np.array([[-0.43, -0.43], [0.43, -0.43], [0.43, 0.43], [-0.43, 0.43], [-0.43, -0.43]]),
            "triangle": np.array([[-0.52, -0.42], [0.52, -0.42], [0.0, 0.55], [-0.52, -0.42]]),
            "down": np.array([[-0.52, 0.42], [0.52, 0.42], [0.0, -0.55], [-0.52, 0.42]]),
            "diamond": np.array([[-0.58, 0.0], [0.0, -0.58], [0.58, 0.0], [0.0, 0.58], [-0.58, 0.0]]),
            "tick": np.array([[-0.12, -0.6], [0.12, -0.6], [0.12, 0.6], [-0.12, 0.6], [-0.12, -0.6]]),
        }[shape]
    return corners, (1, *[2] * (len(corners) - 2), 79), True


def _outline(points: Array, codes: Sequence[int]) -> str:
    """Return an outline with each point given from the one before, in tenths of a point.

    Args:
        points: (n, 2).
        codes: 1 to move to a point, 2 to draw a line to it, 79 to close.

    >>> _outline(np.array([[10, 20.04], [12.5, 19.5], [12.5, 30], [0, 0], [0, 0], [1, 1]]), [1, 2, 2, 79, 1, 2])
    'm10 20 2.5-.5 0 10.5zm-10-20 1 1'
    """
    written: list[str] = []
    here = start = (0, 0)
    for code, (x, y) in zip(codes, np.rint(np.asarray(points) * 10).astype(int).tolist(), strict=True):
        if code == 79:
            written.append("z")
            here = start
            continue
        if code == 1:
            written.append("m")
            start = (x, y)
        written += [_tenths(x - here[0], written[-1] == "m"), _tenths(y - here[1])]
        here = (x, y)
    return "".join(written)


def _tenths(count: int, first: bool = False) -> str:
    """Write a number of tenths as SVG has it shortest, set off from the number before it."""
    whole, rest = divmod(abs(count), 10)
    text = f"{whole or ''}.{rest}" if rest else str(whole)
    return f"-{text}" if count < 0 else text if first else f" {text}"


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Return the width of a line of text in points, on the safe side: in DejaVu Sans, the widest of the usual fonts.

    >>> text_width("ii", 10) < text_width("mm", 10)
    True
    """
    wide = sum(_WIDTHS.get(character, 0.64 if ord(character) < 0x2E80 else 1.0) for character in text)
    return wide * size * (1.12 if bold else 1.0)


def fit(text: str, width: float, size: float, bold: bool = False) -> str:
    """Cut text in its middle until it fits a width in points; on one line, printable.

    >>> fit("a" * 50, 40, 10), fit("short", 40, 10)
    ('aaa…aa', 'short')
    """
    length = len(text)
    while length > 3 and text_width(short(text, length), size, bold) > width:
        length = min(length - 1, max(3, int(length * width / text_width(short(text, length), size, bold)) + 1))
    return short(text, max(length, 3))
