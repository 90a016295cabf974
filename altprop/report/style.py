"""One colour, dash and marker a learner, the same in every figure and table, in light and in dark.

The eight hues were searched for the largest least distance (OKLab) between any two of them, ink and grey, seen with
normal vision and with simulated protanopia, deuteranopia and tritanopia (Machado 2009), at a contrast of 3:1 and more
against the page. Colour is never alone: dash and marker repeat with another period. The reference learner is ink,
controls are grey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LIGHT = {
    "page": "#fcfcfa",
    "ink": "#1c1e21",
    "soft": "#595e66",
    "grey": "#868b93",
    "line": "#dcdcd6",
    "band": "#ecece7",
    "c0": "#188ffe",
    "c1": "#c03e1a",
    "c2": "#388262",
    "c3": "#bb7d1f",
    "c4": "#7c60a0",
    "c5": "#014e8b",
    "c6": "#6c3a56",
    "c7": "#920915",
}
DARK = {
    "page": "#15171b",
    "ink": "#eceae4",
    "soft": "#a9adb5",
    "grey": "#7d828a",
    "line": "#33373e",
    "band": "#24272d",
    "c0": "#3b98ff",
    "c1": "#f1835d",
    "c2": "#5bea93",
    "c3": "#e6c229",
    "c4": "#b565cb",
    "c5": "#9ec4ec",
    "c6": "#c094b6",
    "c7": "#d5484a",
}
HUES = 8
DASHES: tuple[tuple[float, ...] | None, ...] = (None, (5, 2), (1.5, 1.8), (6, 2, 1.5, 2), (9, 3))
MARKERS = ("circle", "square", "triangle", "diamond", "down", "cross", "plus")


@dataclass(frozen=True)
class LearnerStyle:
    """How a learner is drawn.

    Attributes:
        colour: name of a colour in LIGHT and DARK.
        dash: lengths of dash and gap in points, None for a solid line.
        marker: one of MARKERS.
        width: of its line, relative to the others.
    """

    colour: str
    dash: tuple[float, ...] | None
    marker: str
    width: float = 1.0


def assign(roles: Sequence[str], twins: Mapping[int, int] | None = None) -> list[LearnerStyle]:
    """Return styles for learners in their order; each role is "reference", "control" or "learner".

    Args:
        roles: one a learner.
        twins: position of a learner -> position, further up, of the one it varies: it takes the hue of that, under
            another dash and marker. So a tuned learner has the colour of itself at its defaults.

    >>> [style.colour for style in assign(["reference", "learner", "control"])]
    ['ink', 'c0', 'grey']
    """
    styles: list[LearnerStyle] = []
    plain = controls = 0
    varied: dict[int, int] = {}
    for place, role in enumerate(roles):
        base = (twins or {}).get(place)
        if base is not None:
            varied[base] = varied.get(base, 0) + 1
            styles.append(_twin(styles[base], varied[base]))
        elif role == "reference":
            styles.append(LearnerStyle("ink", None, "circle", 1.25))
        elif role == "control":
            dash = DASHES[1 + controls % (len(DASHES) - 1)]
            styles.append(LearnerStyle("grey", dash, MARKERS[-1 - controls % len(MARKERS)]))
            controls += 1
        else:
            # One dash a round of hues. The markers' period of 7 is prime to 8, so 280 learners differ.
            dash = DASHES[plain // HUES % len(DASHES)]
            styles.append(LearnerStyle(f"c{plain % HUES}", dash, MARKERS[plain % len(MARKERS)]))
            plain += 1
    return styles


def _twin(style: LearnerStyle, count: int) -> LearnerStyle:
    """Return the look of a learner's `count`-th variant: the dash after next, a marker that none of that dash has."""
    dash = DASHES[(DASHES.index(style.dash) + 2 * count) % len(DASHES)]
    marker = MARKERS[(MARKERS.index(style.marker) + 3 * count) % len(MARKERS)]
    return LearnerStyle(style.colour, dash, marker)


def variables(palette: dict[str, str]) -> str:
    """Return the CSS custom properties of a palette."""
    return "".join(f"--{name}:{value};" for name, value in palette.items())
