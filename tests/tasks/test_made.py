"""Tasks made by a formula or a generator: their values, by slow twins, and what their options refuse."""

import math

import pytest
import torch

from altprop.errors import AltpropError
from altprop.tasks.adding import Adding
from altprop.tasks.parity import Parity
from altprop.tasks.two_spirals import TwoSpirals
from altprop.tasks.xor import Xor


def test_xor_is_the_truth_table() -> None:
    train = Xor().data().train
    table = {tuple(x): t for x, (t,) in zip(train.inputs.tolist(), train.targets.tolist(), strict=True)}
    assert table == {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 0}


@pytest.mark.parametrize("bits", [2, 3, 7])
def test_parity_flips_with_every_bit(bits) -> None:
    task = Parity(bits=bits)
    train = task.data().train
    assert task.spec.input_shape == (bits,)
    table = {tuple(x): t for x, (t,) in zip(train.inputs.tolist(), train.targets.tolist(), strict=True)}
    assert len(table) == 2**bits
    assert table[(-1.0,) * bits] == 0
    for row, target in table.items():
        for i in range(bits):
            assert table[(*row[:i], -row[i], *row[i + 1 :])] == 1 - target


@pytest.mark.parametrize("bits", [1, 13, 2.5, "4"])
def test_parity_refuses_other_numbers_of_bits(bits) -> None:
    with pytest.raises(AltpropError, match=r"task.bits must be a whole number from 2 to 12"):
        Parity(bits=bits)


def test_two_spirals_by_the_published_formula() -> None:
    data = TwoSpirals().data()
    points = data.train.inputs.tolist()
    assert len(points) == 194
    for i in range(97):
        angle, radius = i * math.pi / 16, 6.5 * (104 - i) / 104
        expected = (radius * math.sin(angle), radius * math.cos(angle))
        assert points[i] == pytest.approx(expected, abs=1e-12)
        assert points[97 + i] == pytest.approx([-v for v in expected], abs=1e-12)
    assert data.train.targets[:, 0].tolist() == [1.0] * 97 + [0.0] * 97
    between = data.tests["between"]
    assert len(between) == 192
    radii = between.inputs.norm(dim=1)
    assert radii[0] == pytest.approx(6.5 * 103.5 / 104)
    assert radii[96] == pytest.approx(radii[0])


def test_binary_tasks_say_yes_at_the_threshold_of_their_loss() -> None:
    outputs = torch.tensor([[0.2], [0.2], [0.8], [-0.3]], dtype=torch.float64)
    split = Xor().data().train
    by_loss = {loss: Xor(loss=loss).evaluate(lambda x: outputs, split)["accuracy"] for loss in Xor.losses}
    # targets 0 1 1 0; logits above 0 say 1 1 1 0, fits above 1/2 say 0 0 1 0
    assert by_loss == {"binary_cross_entropy": 0.75, "half_squared_error": 0.75, "mse": 0.75}
    outputs = torch.tensor([[0.2], [0.2], [0.2], [0.2]], dtype=torch.float64)
    by_row = {loss: Xor(loss=loss).evaluate(lambda x: outputs[:3], _first(split, 3)) for loss in Xor.losses}
    assert by_row["binary_cross_entropy"]["accuracy"] == pytest.approx(2 / 3)
    assert by_row["mse"]["accuracy"] == pytest.approx(1 / 3)


def _first(split, n):
    from dataclasses import replace

    return replace(split, inputs=split.inputs[:n], targets=split.targets[:n], rows=split.rows[:n])


def test_adding_marks_one_number_in_each_half_and_sums_them() -> None:
    task = Adding(length=9, samples=400, test_samples=50)
    data = task.data()
    for split in (data.train, data.validation, data.tests["test"]):
        numbers, marks = split.inputs.unbind(2)
        assert split.inputs.shape[0] == 9
        assert marks[:4].sum(0).tolist() == marks[4:].sum(0).tolist() == [1.0] * len(split)
        for column in range(len(split)):
            marked = [float(n) for n, m in zip(numbers[:, column], marks[:, column], strict=True) if m == 1]
            assert float(split.targets[column, 0]) == pytest.approx(sum(marked))
    spread = data.train.inputs[..., 0]
    assert 0 <= float(spread.min()) < 0.01
    assert 0.99 < float(spread.max()) < 1


def test_adding_always_one_is_a_sixth() -> None:
    task = Adding(length=2, samples=20_000, test_samples=20_000)
    test = task.data().tests["test"]
    found = task.evaluate(lambda x: torch.ones_like(test.targets), test)["mse"]
    # the variance of (sum - 1)^2 is 1/15 - 1/36: four standard errors over 20,000 rows
    assert found == pytest.approx(1 / 6, abs=4 * math.sqrt((1 / 15 - 1 / 36) / 20_000))


def test_adding_draws_both_marks_evenly() -> None:
    marks = Adding(length=4, samples=8000).data().train.inputs[..., 1].mean(1)
    assert marks.tolist() == pytest.approx([0.5] * 4, abs=4 * math.sqrt(0.25 / 6400))


@pytest.mark.parametrize("option", [{"length": 1}, {"samples": 1}, {"test_samples": 0}, {"length": 2.0}])
def test_adding_refuses_unusable_sizes(option) -> None:
    with pytest.raises(AltpropError, match=f"task.{next(iter(option))} must be a whole number of at least"):
        Adding(**option)
