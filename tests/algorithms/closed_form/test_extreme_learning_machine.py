"""Extreme learning machine: what its oracles leave open."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from altprop import AltpropError, ModelSpec, Refused
from altprop.algorithms.closed_form.extreme_learning_machine import ExtremeLearningMachine
from altprop.algorithms.dropout.standard import StandardDropout
from altprop.capabilities import Capability
from altprop.data import Batch
from altprop.models.cnn import CNN
from altprop.randomness import generator_for
from altprop.testing import make_problem, set_up, toy


@pytest.mark.parametrize(
    ("sizes", "options", "sentence"),
    [
        ((5, 3), {}, "this model has none; use model=mlp"),
        ((5, 7, 3), {"noise": StandardDropout(0.3)}, "use dropout=none"),
        ((5, 7, 3), {"normalisation": "batch"}, "use model.normalisation=layer"),
    ],
)
def test_bad_options_and_what_cannot_run(sizes: tuple[int, ...], options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        set_up(ExtremeLearningMachine(), toy(sizes, **options)[0])
    with pytest.raises(AltpropError, match=r"algorithm\.ridge"):
        ExtremeLearningMachine(-1.0)


def test_rows_without_a_label_teach_nothing_and_the_second_step_changes_nothing() -> None:
    found = []
    for some in (True, False):
        problem, batch = toy(loss="half_squared_error")
        kept = torch.arange(8) < 5
        part = replace(batch, inputs=batch.inputs[:5], targets=batch.targets[:5], index=batch.index[:5])
        hidden = replace(batch, labelled=kept, targets=torch.where(kept[:, None], batch.targets, torch.nan))
        rule = set_up(ExtremeLearningMachine(), problem)
        for _ in range(2):
            assert rule.step(hidden if some else part).done
            found.append(problem.flat())
    assert torch.equal(found[0], found[1])
    assert float((found[0] - found[2]).abs().max()) <= 1e-10


def test_dead_units_leave_a_readout() -> None:
    problem, batch = toy(activation="relu")
    problem.params["blocks.1.weight"].data.zero_()
    problem.params["blocks.1.bias"].data.fill_(-1.0)
    set_up(ExtremeLearningMachine(0.0), problem).step(batch)
    shares = torch.bincount(batch.targets, minlength=3) / 8
    with torch.no_grad():
        assert float((problem.model(batch.inputs) - shares).abs().max()) <= 1e-12


def test_it_reads_feature_maps() -> None:
    model = CNN(ModelSpec((64,), 3), (4, 5), activation="tanh", generator=generator_for(0)).double()
    offers = frozenset({Capability.SUPERVISED, Capability.CLASSES})
    problem = make_problem(model, "cross_entropy", offers=offers)
    batch = Batch(problem.random.normal(9, 64), problem.random.integers(0, 3, 9), torch.arange(9))
    rule = set_up(ExtremeLearningMachine(0.0), problem)
    rule.step(batch)
    expected = torch.nn.functional.one_hot(batch.targets, 3)
    with torch.no_grad():
        assert float((model(batch.inputs) - expected).abs().max()) <= 1e-6  # 20 units, 9 rows
