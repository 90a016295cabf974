"""Cards of learners whose papers say what they depend on, and where a claim would not survive."""

from pathlib import Path

import pytest

from altprop.cli.check import main
from altprop.conformance.card import card
from altprop.conformance.case import find_target
from altprop.records.cards import load_cards
from altprop.records.oracle_checks import code_of

# Weight transport, slope of the activations, what lies above.
KNOWN = {
    "backprop": (True, True, True),
    "manual_backprop": (True, None, True),
    "dfa": (False, True, True),
    "feedback_alignment": (False, True, True),
    "kolen_pollack": (False, True, True),
    "sign_symmetry": (True, True, True),
    "drtp": (False, True, False),
    "target_propagation": (True, True, True),
    "equilibrium_propagation": (True, False, True),
    "local_losses": (False, True, False),
    "synthetic_gradients": (True, True, True),
    "node_perturbation": (False, False, True),
    "forward_gradient": (False, True, True),
    "openai_es": (False, False, True),
    "frozen_features": (None, None, None),
    "som": (None, None, None),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_card_tells_what_is_known(name: str) -> None:
    found = card(find_target(name))
    assert (found.transport, found.slope, found.above) == KNOWN[name]


def test_a_card_counts_passes_and_what_is_kept() -> None:
    """A pass back costs two forward, but for the first layer's inputs; a rule without a way back keeps nothing."""
    backprop, local, forward = (card(find_target(name)) for name in ("backprop", "local_losses", "forward_gradient"))
    assert 2.5 < backprop.passes < 3
    assert backprop.memory == 1
    assert local.memory is not None
    assert local.memory < 0.3
    assert forward.memory == 0


def test_the_command_prints_and_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--card", "--runs", str(tmp_path), "dfa"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "reads the weights above, or sends through their transpose: no" in shown
    assert "needs the activations' derivative: yes" in shown
    (kept,), unreadable = load_cards(tmp_path)
    assert unreadable == []
    assert str(kept.path) in shown
    assert (kept.card.transport, kept.card.slope, kept.card.above) == KNOWN["dfa"]
    assert kept.code == code_of("altprop.algorithms.feedback.dfa.DirectFeedbackAlignment")


def test_a_task_has_no_card(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--card", "task=iris"])
    assert ended.value.code == 2
    assert "--card is of an algorithm" in capsys.readouterr().err
