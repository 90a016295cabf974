"""Forward-forward: what its oracles leave open."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from altprop import AltpropError, ModelSpec, OptimizerFactory, Refused
from altprop.algorithms.local.forward_forward import ForwardForward, goodness, normalised
from altprop.capabilities import Capability
from altprop.conformance.case import find_target
from altprop.conformance.suite import RULES
from altprop.models.cnn import CNN
from altprop.randomness import generator_for
from altprop.testing import make_problem, relative_error, set_up, sgd, toy


def ready(sizes: tuple[int, ...] = (5, 7, 6, 4, 3), **options: Any) -> tuple[ForwardForward, Any]:
    problem, batch = toy(sizes, activation="relu")
    return set_up(ForwardForward(sgd(), **options), problem), batch


@pytest.mark.parametrize("rule", ["stacks_as_it_steps", "counts_what_it_does", "resumes_to_the_bit"])
def test_other_options_obey_too(rule: str) -> None:
    target = find_target("forward_forward")
    for chosen in (("negatives=uniform",), ("prediction=readout", "negatives=uniform")):
        options = tuple(f"algorithm.{one}" for one in chosen)
        assert RULES[rule](replace(target, overrides=(*target.overrides, *options))) is None


@pytest.mark.parametrize(
    "options", [{"threshold": 0}, {"negatives": "soft"}, {"prediction": "both"}, {"layers": "lower"}]
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(AltpropError, match=r"algorithm\.(threshold|negatives|prediction|layers)"):
        ForwardForward(sgd(), **options)


def test_what_it_cannot_run_is_refused() -> None:
    with pytest.raises(Refused, match="has none; use model=mlp"):
        ready((5, 3))
    with pytest.raises(Refused, match="single examples"):
        set_up(ForwardForward(sgd()), toy(normalisation="batch")[0])


@pytest.mark.parametrize(("negatives", "passes"), [("hard", 3), ("uniform", 2)])
def test_passes_of_a_step_are_counted(negatives: str, passes: int) -> None:
    """Three hidden blocks a pass, forth and back; the readout's block once where there is one."""
    rule, batch = ready(negatives=negatives)
    rule.step(batch)
    assert rule.problem.ledger.calls("block_forward") == 3 * passes + (negatives == "hard")
    assert rule.problem.ledger.calls("block_backward") == 6 + (negatives == "hard")


def test_a_prediction_by_goodness_takes_a_pass_for_each_class_and_one_by_readout_one() -> None:
    rule, batch = ready()
    for predict, calls in ((rule.goodness_of_classes, 3 * 3), (rule.read, 3 + 1)):
        before = rule.problem.ledger.calls("block_forward")
        assert predict(batch.inputs).shape == (8, 3)
        assert rule.problem.ledger.calls("block_forward") - before == calls


@pytest.mark.parametrize("layers", ["all", "upper"])
def test_predictions_are_what_the_formula_says(layers: str) -> None:
    rule, batch = ready(layers=layers, threshold=0.3)
    blocks = list(rule.problem.layered.blocks)
    for label in range(3):
        x, odds = batch.inputs, []
        for index, block in enumerate(blocks[:-1]):
            y = (x @ block.weight.T + block.bias + (rule.own["label"][:, label] if index == 0 else 0)).relu()
            odds.append(y.square().sum(1) - 0.3 * y.shape[1])
            x = y / y.square().mean(1, keepdim=True).sqrt()
        expected = sum(odds[1:] if layers == "upper" else odds)
        assert torch.allclose(rule.goodness_of_classes(batch.inputs)[:, label], expected, atol=1e-6)


def test_the_readout_reads_all_hidden_layers_but_the_first_and_learns_by_its_own_gradient() -> None:
    rule, batch = ready(negatives="hard")
    assert list(rule.own) == ["label", "readout_1"]
    rule.own["readout_1"].data.normal_(generator=generator_for(1))
    between, last = rule._features(batch.inputs)
    weights = [rule.own["readout_1"], *rule.problem.layered.blocks[-1].parameters()]
    outputs = last @ weights[1].T + weights[2] + between[0] @ weights[0].T
    assert torch.allclose(rule.read(batch.inputs), outputs, atol=1e-14)
    names = ["readout_1", "blocks.3.weight", "blocks.3.bias"]
    found = torch.autograd.grad(rule.problem.output_loss(outputs, batch), weights)
    _, direction, own = rule.gradients(batch)
    assert relative_error({**direction, **own}, dict(zip(names, found, strict=True))) <= 1e-14
    one_hidden, _ = ready((5, 7, 3))
    assert list(one_hidden.own) == ["label"]


def test_rows_without_a_label_teach_nothing() -> None:
    rule, batch = ready()
    some = replace(batch, labelled=torch.arange(8) < 5)
    part = replace(batch, inputs=batch.inputs[:5], targets=batch.targets[:5], index=batch.index[:5])
    wrong = (batch.targets + 1) % 3
    rule.wrong_labels = lambda batch, logits: wrong[: batch.rows]  # type: ignore[method-assign]
    found, expected = ({**rule.gradients(one)[1], **rule.gradients(one)[2]} for one in (some, part))
    assert relative_error(found, expected) <= 1e-13


def test_a_layer_hands_on_the_direction_and_not_the_length() -> None:
    y = toy()[0].random.normal(4, 3, 2, 2).relu()
    assert torch.allclose(goodness(normalised(y)), torch.full((4,), 12.0).double())
    assert torch.allclose(normalised(5 * y), normalised(y))
    assert not normalised(0 * y).any()


def test_convolutions_learn_and_the_label_reaches_every_position() -> None:
    model = CNN(ModelSpec((64,), 3), (4, 5), generator=generator_for(0)).double()
    problem = make_problem(
        model, "cross_entropy", offers=frozenset({Capability.SUPERVISED, Capability.CLASSES}), train_size=30
    )
    rule = set_up(ForwardForward(OptimizerFactory("torch.optim.Adam", lr=0.01)), problem)
    targets = torch.arange(30) % 3
    inputs = problem.random.normal(30, 64) + 2 * problem.random.normal(3, 64)[targets]
    batch = replace(toy()[1], inputs=inputs, targets=targets, index=torch.arange(30))
    for _ in range(150):
        rule.step(batch)
    for predict in (rule.goodness_of_classes, rule.read):
        assert float((predict(inputs).argmax(1) == targets).double().mean()) > 0.9


def test_a_neutral_pass_knows_no_label() -> None:
    rule, batch = ready()
    first = next(iter(rule.problem.layered.blocks))
    expected = first.respond(first.transform(batch.inputs) + rule.own["label"].mean(1))
    rule._passes = lambda x, label, plain=rule._passes: seen.append(plain(x, label)) or seen[-1]  # type: ignore
    seen: list[list[torch.Tensor]] = []
    rule.read(batch.inputs)
    assert torch.allclose(seen[0][0], expected, atol=1e-14)
