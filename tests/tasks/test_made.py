"""Tasks made by a formula or a generator: their values, by slow twins, and what their options refuse."""

import math
import re

import pytest
import torch

from altprop.errors import AltpropError
from altprop.tasks.adding import Adding
from altprop.tasks.copy import Copy
from altprop.tasks.digits import Digits
from altprop.tasks.digits_sequence import DigitsSequence
from altprop.tasks.parity import Parity
from altprop.tasks.reber import SYMBOLS as REBER
from altprop.tasks.reber import Reber
from altprop.tasks.temporal_order import SYMBOLS, TemporalOrder
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


def test_adding_leaves_the_last_times_without_a_mark() -> None:
    marks = Adding(length=9, quiet=3, samples=400, test_samples=50).data().train.inputs[..., 1]
    assert marks[6:].sum() == 0
    assert marks[:4].sum(0).tolist() == marks[4:6].sum(0).tolist() == [1.0] * marks.shape[1]
    assert (marks[4:6].sum(1) > 0).all()
    with pytest.raises(AltpropError, match="leaves no time for the second mark of 9; take at most 4"):
        Adding(length=9, quiet=5)
    Adding(length=9, quiet=4)


@pytest.mark.parametrize("option", [{"length": 1}, {"samples": 1}, {"test_samples": 0}, {"length": 2.0}])
def test_adding_refuses_unusable_sizes(option) -> None:
    with pytest.raises(AltpropError, match=f"task.{next(iter(option))} must be a whole number of at least"):
        Adding(**option)


def test_copy_asks_for_what_was_read_in_its_order() -> None:
    task = Copy(length=4, symbols=3, alphabet=5, samples=60, test_samples=20)
    data = task.data()
    assert task.spec.input_shape == (7,)
    assert task.spec.outputs == 6
    for split in (data.train, data.validation, data.tests["test"]):
        assert split.inputs.shape == (10, len(split), 7)
        assert split.inputs.sum(2).unique().tolist() == [1.0]
        for read, wanted in zip(split.inputs.argmax(2).T.tolist(), split.targets.T.tolist(), strict=True):
            assert read[3:] == [5, 5, 5, 6, 5, 5, 5]
            assert wanted == [5] * 7 + read[:3]
            assert set(read[:3]) <= set(range(5))


@pytest.mark.parametrize("length", [10, 100])
def test_copy_without_memory_is_ten_ln_eight(length) -> None:
    """Blanks to the signal, then all symbols alike: the published figure, and .173287 at T = 100."""
    task = Copy(length=length, symbols=10, samples=20, test_samples=3000)
    test = task.data().tests["test"]
    outputs = torch.full((length + 20, 3000, 9), -1e3, dtype=torch.float64)
    outputs[:-10, :, 8], outputs[-10:, :, :8] = 0.0, 0.0
    found = task.evaluate(lambda x: outputs, test)
    assert found["loss"] == pytest.approx(10 * math.log(8) / (length + 20), abs=1e-12)
    if length == 100:
        assert found["loss"] == pytest.approx(0.173287, abs=5e-7)
    # One symbol said always: 30,000 draws, four standard errors.
    outputs[-10:, :, 3] = 1.0
    assert task.evaluate(lambda x: outputs, test)["accuracy"] == pytest.approx(1 / 8, abs=4 * (7 / 64 / 30_000) ** 0.5)


def test_temporal_order_is_read_off_the_two_that_matter() -> None:
    task = TemporalOrder(length=20, samples=4000, test_samples=4000)
    data = task.data()
    places: list[set[int]] = [set(), set()]
    for split in (data.train, data.validation):
        for read, target in zip(split.inputs.argmax(2).T.tolist(), split.targets.tolist(), strict=True):
            word = "".join(SYMBOLS[i] for i in read)
            assert word[0] + word[-1] == "EB"
            found = [(place, symbol) for place, symbol in enumerate(word) if symbol in "XY"]
            assert ["XX", "XY", "YX", "YY"][target] == found[0][1] + found[1][1]
            assert set(word[1:-1]) <= set("abcdXY")
            for seen, (place, _) in zip(places, found, strict=True):
                seen.add(place)
    assert places == [{2, 3}, {10, 11}]
    # What knows the later symbol alone is right in every second case: four standard errors.
    test = data.tests["test"]
    later = (test.inputs[10:12, :, SYMBOLS.index("Y")].sum(0) > 0).long()
    outputs = torch.nn.functional.one_hot(2 * later + later, 4).double()
    assert task.evaluate(lambda x: outputs, test)["accuracy"] == pytest.approx(0.5, abs=4 * 0.5 / 4000**0.5)


def _strings(split) -> list[str]:
    read = [split.inputs.argmax(2), split.targets]
    rows = [torch.cat([read[0][:1, i], read[1][: int(split.mask[:, i].sum()), i]]).tolist() for i in range(len(split))]
    for row, string in enumerate(rows):  # each input is the target before
        assert read[0][: len(string) - 1, row].tolist() == string[:-1]
    return ["".join(REBER[i] for i in string) for string in rows]


# Reber's diagram as a regular expression: after T S* X and after P T* V one may cross over and back.
REBERS = re.compile(r"B([TP])B(?:TS*(?:X(XT*VP)*S|X(?:XT*VP)*XT*VV)|PT*V(?:PXT*V)*(?:V|PS))E\1E")


def test_reber_strings_are_of_the_grammar() -> None:
    task = Reber(samples=500, test_samples=500)
    data = task.data()
    for split in (data.train, data.tests["test"]):
        found = _strings(split)
        assert [one for one in found if not REBERS.fullmatch(one)] == []
        # All branches are taken: half of all begin with either, four standard errors.
        assert sum(one[1] == "T" for one in found) / len(found) == pytest.approx(0.5, abs=4 * 0.5 / len(found) ** 0.5)
        assert not split.inputs[~split.mask].any()
    assert {one[3] for one in found} == {"T", "P"}


def test_reber_has_the_cross_entropy_of_its_coins() -> None:
    """7 ln 2 / 11 with the first symbol in mind, 8 ln 2 / 11 without: from the states, symbol by symbol."""
    task = Reber(samples=2, test_samples=4000)
    split = task.data().tests["test"]
    follow = {0: "TP", 1: "SX", 2: "TV", 3: "XS", 4: "PV"}
    goes = {(0, "T"): 1, (0, "P"): 2, (1, "S"): 1, (1, "X"): 3, (2, "T"): 2, (2, "V"): 4}
    goes |= {(3, "X"): 2, (3, "S"): 5, (4, "P"): 3, (4, "V"): 5}
    scores = {memory: torch.full((*split.targets.shape, 7), -40.0, dtype=torch.float64) for memory in (True, False)}
    for row, string in enumerate(_strings(split)):
        allowed, state = ["TP", "B"], 0
        for symbol in string[3:-3]:
            allowed.append(follow[state])
            state = goes[state, symbol]
        for memory, table in scores.items():
            for time, symbols in enumerate([*allowed, "E", string[1] if memory else "TP", "E"]):
                table[time, row, [REBER.index(one) for one in symbols]] = 0.0
    found = {memory: task.evaluate(lambda x, mask, y=table: y, split) for memory, table in scores.items()}
    # The standard error of the ratio is .0011 over 4,000 strings.
    assert found[True]["loss"] == pytest.approx(7 * math.log(2) / 11, abs=0.0044)
    assert found[False]["loss"] == pytest.approx(8 * math.log(2) / 11, abs=0.0044)
    assert found[True]["accuracy"] == 1.0
    # It always says T where T is possible.
    assert task.evaluate(lambda x, mask: scores[False] + torch.eye(7)[1], split)["accuracy"] == pytest.approx(
        0.5, abs=0.032
    )


@pytest.mark.parametrize("option", [{"length": 0}, {"symbols": 0}, {"alphabet": 1}, {"samples": 1}])
def test_copy_refuses_unusable_sizes(option) -> None:
    with pytest.raises(AltpropError, match=f"task.{next(iter(option))} must be a whole number of at least"):
        Copy(**option)


def test_copy_refuses_too_few_sequences() -> None:
    with pytest.raises(
        AltpropError, match=r"task.symbols=2 of 3 make too few sequences for 100 to train on and 10 oth"
    ):
        Copy(symbols=2, alphabet=3, samples=100, test_samples=10).data()


@pytest.mark.parametrize("option", [{"length": 9}, {"samples": 1}, {"test_samples": 0}])
def test_temporal_order_refuses_unusable_sizes(option) -> None:
    with pytest.raises(AltpropError, match=f"task.{next(iter(option))} must be a whole number of at least"):
        TemporalOrder(**option)


def test_digits_sequence_is_digits_pixel_by_pixel() -> None:
    plain = Digits(validation="none").data()
    rows, mixed = DigitsSequence(validation="none").data(), DigitsSequence(order="permuted", data_seed=3).data()
    assert rows.train.inputs.shape == (64, len(plain.train), 1)
    assert torch.equal(rows.train.inputs[:, :, 0].T, plain.train.inputs)
    assert torch.equal(rows.tests["test"].targets, plain.tests["test"].targets)
    images, permuted = plain.tests["test"].inputs, mixed.tests["test"].inputs[:, :, 0].T
    assert not torch.equal(permuted, images)
    assert torch.equal(permuted.sort(1).values, images.sort(1).values)
    # One permutation, the same for every image and every seed.
    other = DigitsSequence(order="permuted").data()
    assert torch.equal(other.tests["test"].inputs, mixed.tests["test"].inputs)
    with pytest.raises(AltpropError, match=r"unknown task.order=columns; known are: permuted, rows"):
        DigitsSequence(order="columns")
