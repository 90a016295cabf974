"""Section 7, second part: what each learner's updates depend on and cost, as it was told by intervention."""

from __future__ import annotations

from collections.abc import Sequence

from altprop.records.cards import CardRecord
from altprop.report.blocks import Block, Cell, Cells, Grid, Text
from altprop.report.format import figure
from altprop.report.oracle_checks import Verified

_INTRODUCTION = (
    "Cards, measured by intervention in a running learner on a small net: steps are taken from the same state with the "
    "same draws while one thing is changed, and the first layer's update is compared with the one without the change. "
    "The weights above: those of the way back are others than those of the forward pass. The slope: activations have "
    "twice their derivative. Neither shows in a forward pass. The last layer: it has other weights; whoever does not "
    "notice can update a layer without waiting for those above."
)


def card_section(found: Sequence[Verified], cards: Sequence[CardRecord]) -> list[Block]:
    """Return a row an algorithm, or nothing where no card was kept."""
    rows = [_row(one, known) for one in found if (known := _card_of(one, cards)) is not None]
    if not rows:
        return []
    head: Cells = [
        "algorithm",
        "reads the\nweights above",
        "needs the\nslope",
        "depends on\nthe last layer",
        Cell("a step, in\nforward passes", kind="r"),
        Cell("bytes kept for the way back,\n8 hidden layers (backprop = 1)", kind="r"),
    ]
    return [Text(_INTRODUCTION), Grid("What updates depend on and cost, by algorithm", head, rows)]


def _card_of(one: Verified, cards: Sequence[CardRecord]) -> CardRecord | None:
    """Return the card of an algorithm: of the code that its runs were made with, else the one measured last."""
    of_it = [card for card in cards if (card.algorithm, card.target) == (one.algorithm, one.target)]
    return max(of_it, key=lambda card: (card.code in one.codes, card.finished), default=None)


def _row(one: Verified, known: CardRecord) -> Cells:
    card = known.card
    note = () if known.code in one.codes else (f"The card is of other code ({known.code[:12]}) than the runs.",)
    return [
        Cell(one.name, kind="t", flags=note),
        *(_answer(value) for value in (card.transport, card.slope, card.above)),
        Cell(figure(card.passes, 3), kind="r"),
        Cell("–" if card.memory is None else figure(card.memory, 2), kind="r" if card.memory is not None else "r none"),
    ]


def _answer(value: bool | None) -> Cell:
    return Cell("–", kind="none") if value is None else Cell("yes" if value else "no")
