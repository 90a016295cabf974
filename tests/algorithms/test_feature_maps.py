"""Which alternatives to backpropagation learn on convolutions, and what they leave as it is there."""

import pytest

from altprop import catalogue
from altprop.conformance.case import find_target, make, steps
from altprop.errors import Refused

FAMILIES = tuple(
    f"altprop.algorithms.{name}." for name in ("closed_form", "energy", "feedback", "local", "perturbation")
)
CONVOLUTIONS = ("task=digits", "task.batch_size=8", "model=cnn", "model.channels=[4,5]", "model.activation=tanh")
REFUSED = {"target_propagation": "needs a model of dense blocks without normalisation"}
# Blocks of three that have not moved after three steps: never, or in a stage that has not come.
AT_REST = {"extreme_learning_machine": {0, 1}, "greedy_layerwise": {1, 2}}


def of_families() -> list[str]:
    """Return the learners whose folders are those of `FAMILIES`."""
    targets = {name: str(entry.values.get("_target_")) for name, entry in catalogue.entries("algorithm").items()}
    return sorted(name for name, path in targets.items() if path.startswith(FAMILIES))


@pytest.mark.parametrize("name", of_families())
def test_it_learns_on_convolutions_or_says_why_not(name: str) -> None:
    if name in REFUSED:
        with pytest.raises(Refused, match=REFUSED[name]):
            make(find_target(name), *CONVOLUTIONS)
        return
    parts = make(find_target(name), *CONVOLUTIONS, "optimizer=sgd")
    before = {key: p.detach().clone() for key, p in parts.model.named_parameters()}
    steps(parts, 3)
    moved = {int(key.split(".")[1]) for key, p in parts.model.named_parameters() if bool((p != before[key]).any())}
    assert {0, 1, 2} - moved == AT_REST.get(name, set())
