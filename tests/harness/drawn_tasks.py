"""Planted tasks that say what they want drawn: a game its trajectory, a stream its matrix."""

from __future__ import annotations

from typing import ClassVar

from games import Bilinear
from streams import SplitIris
from torch import nn

from altprop import Panel, Random, Split


class DrawnGame(Bilinear):
    """Both numbers are metrics, so that their path can be drawn."""

    metrics: ClassVar[dict[str, bool]] = {"x": False, "y": False}
    panels: tuple[Panel, ...] = (
        Panel("trajectory", ("x", "y"), "The equilibrium is (0, 0)."),
        Panel("curves", ("x", "y")),
    )

    def _evaluate_model(self, model: nn.Module, split: Split, random: Random) -> dict[str, float]:
        players = {name: float(p.detach()) for name, p in zip("xy", model.parameters(), strict=True)}
        return super()._evaluate_model(model, split, random) | players


class DrawnStream(SplitIris):
    """Accuracy on every set after every context."""

    panels: tuple[Panel, ...] = (Panel("matrix"),)


class DrawsWhatIsNotMeasured(DrawnStream):
    panels: tuple[Panel, ...] = (Panel("curves", ("speed",)),)
