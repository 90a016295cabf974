"""Cards on the page: those of the code that ran, and nothing where none was kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from altprop.records.archive import pack
from altprop.records.cards import Card, CardRecord, load_cards, write_card
from altprop.report.build import build

BACKPROP = Card(transport=True, slope=True, above=True, passes=2.615, memory=1.0)
FORWARD = Card(transport=None, slope=False, above=False, passes=43.0, memory=None)


def write(runs: Path, name: str, card: Card, code: str = "a", finished: str = "2024-01-01") -> CardRecord:
    return write_card(runs, name, f"rules.{name}", code * 64, card, {"kernel": 1}, finished)


@pytest.fixture
def runs(synthetic: ModuleType, tmp_path: Path) -> Path:
    def change(record: dict[str, Any], trace: list[Any], clock: list[Any]) -> None:
        record["config"]["algorithm"]["_target_"] = f"rules.{record['axes']['algorithm']}"
        record["provenance"]["sources"] = {"algorithm": "a" * 64}

    learners = [*synthetic.LEARNERS[:1], synthetic.Learner("dfa")]
    folder: Path = synthetic.write(tmp_path / "runs", learners, synthetic.TASKS[:1], 2, change=change)
    return folder


def lines(page: Path) -> list[str]:
    """The rows of the table of cards in the page's Markdown."""
    _, _, text = page.with_suffix(".md").read_text().partition("Cards, measured by intervention")
    return re.findall(r"^\| (?:backprop|dfa)\b.*$", text.partition("\n## ")[0], re.M)


def test_a_row_an_algorithm(runs: Path, tmp_path: Path) -> None:
    write(runs, "backprop", BACKPROP)
    write(runs, "dfa", FORWARD)
    page = build([runs], tmp_path / "out")
    assert lines(page) == ["| backprop | yes | yes | yes | 2.62 | 1 |", "| dfa | – | no | no | 43 | – |"]
    assert "What updates depend on and cost, by algorithm" in page.read_text()


def test_without_cards_nothing_is_said_of_them(runs: Path, tmp_path: Path) -> None:
    page = build([runs], tmp_path / "out")
    assert "Cards, measured by intervention" not in page.read_text()
    assert lines(page) == []


def test_the_card_is_that_of_the_code_that_ran(runs: Path, tmp_path: Path) -> None:
    write(runs, "dfa", BACKPROP)
    write(runs, "dfa", FORWARD, code="b", finished="2025-01-01")
    write(runs, "backprop", BACKPROP, code="c")
    page = build([runs], tmp_path / "out")
    assert lines(page) == [
        "| backprop; The card is of other code (cccccccccccc) than the runs. | yes | yes | yes | 2.62 | 1 |",
        "| dfa | yes | yes | yes | 2.62 | 1 |",
    ]


def test_an_archive_keeps_them(runs: Path, tmp_path: Path) -> None:
    write(runs, "dfa", FORWARD)
    packed = pack([runs], tmp_path)
    (card,), unreadable = load_cards(packed)
    assert (card.card, unreadable) == (FORWARD, [])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda card: card.pop("slope"), "its card tells no 'slope'"),
        (lambda card: card.update(passes="3"), "its card's 'passes' is '3'"),
        (lambda card: card.update(above=1.0), "its card's 'above' is 1.0"),
    ],
)
def test_what_is_no_card_is_told(runs: Path, change: Callable[[dict[str, Any]], Any], told: str) -> None:
    path = write(runs, "dfa", FORWARD).path
    data = json.loads(path.read_text())
    change(data["card"])
    path.write_text(json.dumps(data))
    found, unreadable = load_cards(runs)
    assert found == []
    assert told in unreadable[0]
