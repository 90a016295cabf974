"""Rules that disturb weights or units: their options in the harness, what they refuse, what a step costs."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from altprop import AltpropError, Refused
from altprop.algorithms.perturbation.forward_gradient import ForwardGradient
from altprop.algorithms.perturbation.node_perturbation import NodePerturbation
from altprop.algorithms.perturbation.nodes import kept_pass
from altprop.conformance.case import find_target
from altprop.conformance.suite import RULES
from altprop.testing import relative_error, set_up, sgd, toy

OPTIONS = {
    "forward_gradient": ["perturb=activations", "directions=2", "draw=rademacher"],
    "node_perturbation": ["sides=2", "samples=2"],
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("rule", ["stacks_as_it_steps", "counts_what_it_does", "tells_an_honest_loss"])
def test_other_options_obey_too(name: str, rule: str) -> None:
    target = find_target(name)
    chosen = tuple(f"algorithm.{option}" for option in OPTIONS[name])
    assert RULES[rule](replace(target, overrides=(*target.overrides, *chosen))) is None


@pytest.mark.parametrize("make", [lambda: ForwardGradient(sgd(), "activations"), lambda: NodePerturbation(sgd())])
@pytest.mark.parametrize(("norm", "sentence"), [("layer", "not blocks.0.norm.weight"), ("batch", "single examples")])
def test_models_that_units_cannot_teach_are_refused(make: Any, norm: str, sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        make().setup(toy(normalisation=norm)[0])


@pytest.mark.parametrize(
    "options",
    [{"perturb": "units"}, {"draw": "cauchy"}, {"directions": 0}, {"perturb": "activations", "directions": 1.5}],
)
def test_bad_options_of_forward_gradient(options: dict[str, Any]) -> None:
    with pytest.raises(AltpropError, match=r"algorithm\.(perturb|draw|directions)"):
        ForwardGradient(sgd(), **options)


@pytest.mark.parametrize("options", [{"sigma": 0}, {"sides": 3}, {"samples": 0}])
def test_bad_options_of_node_perturbation(options: dict[str, Any]) -> None:
    with pytest.raises(AltpropError, match=r"algorithm\.(sigma|sides|samples)"):
        NodePerturbation(sgd(), **options)


@pytest.mark.parametrize("draw", ["normal", "rademacher"])
def test_more_directions_are_averaged(draw: str) -> None:
    """K directions in one step are the mean of what K single ones give, from the same stream."""
    for perturb in ("weights", "activations"):
        problem, batch = toy((4, 5, 4, 3))
        together = set_up(ForwardGradient(sgd(), perturb, 3, draw), problem).direction(batch)[1]
        problem, batch = toy((4, 5, 4, 3))
        rule = set_up(ForwardGradient(sgd(), perturb, 1, draw), problem)
        each = [rule.direction(batch)[1] for _ in range(3)]
        assert relative_error(together, {n: sum(one[n] for one in each) / 3 for n in together}) <= 1e-13
        assert problem.ledger.calls("jvp") == 3
        assert problem.ledger.backwards == (0 if perturb == "weights" else 3)


def test_draws_of_an_example_are_its_own() -> None:
    problem, batch = toy((4, 5, 4, 3))
    rule = set_up(ForwardGradient(sgd(), "activations"), problem)
    drawn: list[torch.Tensor] = []
    rule._slopes = lambda batch, error, u: (drawn.extend(u), error.new_zeros(len(error)))[1]
    rule.direction(batch)
    assert [tuple(u.shape) for u in drawn] == [(8, 5), (8, 4)]
    assert all(len(u.unique()) == u.numel() for u in drawn)


def test_a_linear_model_has_no_unit_to_disturb() -> None:
    problem, batch = toy((4, 3))
    rule = set_up(ForwardGradient(sgd(), "activations"), problem)
    assert relative_error(rule.direction(batch)[1], problem.gradient(batch)[1]) <= 1e-14


def test_rows_without_a_label_teach_nothing() -> None:
    problem, batch = toy((4, 5, 4, 3))
    labelled = torch.arange(8) < 5
    part = replace(batch, inputs=batch.inputs[:5], targets=batch.targets[:5], index=batch.index[:5])
    rule = set_up(NodePerturbation(sgd(), 1e-4, 2), problem)
    some = replace(batch, labelled=labelled)
    axes = torch.eye(12, dtype=torch.float64).split([5, 4, 3], dim=1)
    draws = [[axis[k].expand(8, -1) for axis in axes] for k in range(12)]
    mean = rule.along(some, kept_pass(problem, some), draws)
    assert relative_error({name: 12 * value for name, value in mean.items()}, problem.gradient(part)[1]) <= 1e-7


def test_a_penalty_of_the_task_is_counted_once() -> None:
    problem, batch = toy((4, 5, 4, 3))
    problem.uncounted.charge(lambda params: sum(100 * p.square().sum() for p in params.values()))
    rule = set_up(ForwardGradient(sgd()), problem)
    loss, direction = rule.direction(batch)
    assert float(loss) == pytest.approx(float(problem.objective(batch)), rel=1e-13)
    slopes = torch.cat([200 * p.detach().flatten() for p in problem.params.values()])
    assert float((problem.flatten(direction) - slopes).norm() / slopes.norm()) < 0.1


def test_passes_are_counted() -> None:
    problem, batch = toy((4, 5, 4, 3))
    set_up(NodePerturbation(sgd(), sides=2, samples=3), problem).step(batch)
    assert (problem.ledger.forwards, problem.ledger.backwards) == (7, 1)


def test_units_of_sign_learn() -> None:
    problem, batch = toy((4, 20, 3), activation="sign", rows=16)
    rule = set_up(NodePerturbation(sgd(0.1), sigma=0.3, samples=20), problem)
    assert all(not bool(g.any()) for n, g in problem.gradient(batch)[1].items() if n.startswith("blocks.0"))
    start = problem.flat()
    losses = [float(rule.step(batch).loss) for _ in range(200)]
    assert losses[-1] < 0.5 * losses[0]
    assert float((problem.flat() - start)[:80].norm()) > 0.1
