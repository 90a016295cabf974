"""Units of a hard threshold: who takes derivatives is refused there, and whoever says to need none learns there."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from altprop import catalogue
from altprop.capabilities import DERIVATIVES
from altprop.errors import Refused
from altprop.harness.building import Parts, build_parts
from altprop.harness.cell import make_cell
from altprop.harness.composition import compose_cell

THRESHOLDS = ["task=iris", "model.hidden=[20,20]", "model.activation=sign"]
OVER_TIME = ["task=temporal_order", "model=rnn", "model.hidden=[4]", "model.activation=sign"]
LEAVE_HIDDEN_WEIGHTS = {"reservoir"}
"""Learners of the readout alone; controls that are no learners say so themselves."""


def parts_of(*overrides: str) -> Parts:
    config = OmegaConf.to_container(compose_cell(overrides), resolve=True)
    return build_parts(make_cell(config, overrides), 0)  # type: ignore[arg-type]


def need_no_derivative(*overrides: str) -> list[str]:
    """Return the learners for a net like this that do not ask for a derivative, controls left out."""
    config = OmegaConf.to_container(compose_cell(overrides), resolve=True)
    offered = catalogue.offers(config["task"], config["model"])  # type: ignore[call-overload, index]
    found = []
    for name, entry in catalogue.entries("algorithm").items():
        required = catalogue.requires(entry.values)
        if (
            required <= offered - DERIVATIVES
            and not entry.values.get("control")
            and name not in {"custom", *LEAVE_HIDDEN_WEIGHTS}
        ):
            found.append(name)
    return found


@pytest.mark.parametrize("name", need_no_derivative(*THRESHOLDS))
def test_who_needs_no_derivative_moves_the_weights_below(name: str) -> None:
    parts = parts_of(f"algorithm={name}", *THRESHOLDS)
    weights = {name: p.detach().clone() for name, p in parts.model.named_parameters() if p.dim() > 1}
    params, still = dict(parts.model.named_parameters()), list(weights)
    for step in range(20):  # some leave a layer alone: no unit may flip between two phases
        if not still or parts.algorithm.own_model:
            return
        parts.algorithm.step(parts.feed.batch(step))
        still = [name for name in still if torch.equal(params[name], weights[name])]
    raise AssertionError(f"{still} never moved")


@pytest.mark.parametrize(
    ("learner", "options"),
    [
        ("backprop", THRESHOLDS),
        ("dfa", THRESHOLDS),
        ("local_losses", THRESHOLDS),
        ("backprop", ["task=digits", "model=cnn", "model.activation=sign"]),
        ("backprop", ["task=iris", "model=shortcut_mlp", "model.activation=sign"]),
        ("backprop", ["task=iris", "model=residual_mlp", "model.activation=sign"]),
        ("bptt", OVER_TIME),
        ("rtrl", [*OVER_TIME, "model=leaky_rnn"]),
    ],
)
def test_who_needs_one_is_refused(learner: str, options: list[str]) -> None:
    with pytest.raises(Refused, match=r"needs a differentiable objective; .* offers none; try model.activation=tanh"):
        parts_of(f"algorithm={learner}", *options)


@pytest.mark.parametrize("options", [["task=iris", "model=linear", "+model.activation=sign"], THRESHOLDS[:2]])
def test_a_model_without_thresholds_is_not(options: list[str]) -> None:
    assert parts_of("algorithm=backprop", *options).problem.offers >= DERIVATIVES


def test_the_hint_is_of_derivatives_alone() -> None:
    with pytest.raises(Refused, match=r"needs a differentiable objective and a recurrent model; .* offers none$"):
        parts_of("algorithm=rtrl", *THRESHOLDS)
