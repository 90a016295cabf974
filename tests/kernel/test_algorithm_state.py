"""What a learner's state may hold, and how it comes back."""

import io
from typing import Any

import numpy as np
import pytest
import torch

from altprop.algorithm import decode, dump, load
from altprop.conformance.case import difference
from altprop.errors import AltpropError
from altprop.optim import OptimizerFactory
from altprop.testing import toy


def through_a_file(value: Any) -> Any:
    torch.save(dump(value, "x"), file := io.BytesIO())
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6).reshape(2, 3),
        np.array([1.5, -2.0], dtype=np.float32),
        np.array([True, False]),
        np.zeros((0, 3)),
        np.array(2.5),
        np.float32(0.1),
        np.float64(0.1),
        np.int16(7),
        np.bool_(True),
    ],
)
def test_arrays_and_numbers_of_numpy_come_back_as_they_were(value: Any) -> None:
    saved = through_a_file({"a": [value]})
    for found in (load(None, saved)["a"][0], decode(saved)["a"][0]):
        assert type(found) is type(value)
        assert found.dtype == value.dtype
        assert found.shape == value.shape
        assert np.array_equal(found, value)


def test_a_saved_array_is_a_copy() -> None:
    array = np.ones(3)
    saved = dump(array, "x")
    array[0] = 5
    first = load(None, saved)
    first[1] = 7
    assert load(None, saved).tolist() == [1, 1, 1]


def test_an_array_of_objects_is_refused() -> None:
    with pytest.raises(AltpropError, match="state 'genes' holds an array of object, which cannot be saved"):
        dump(np.array([object()]), "genes")


def test_decoded_state_is_what_it_was() -> None:
    plain = {"a": (1, [2.0, None, "x"]), 3: {"b": True}}
    assert decode(through_a_file(plain)) == plain
    assert torch.equal(decode(through_a_file([torch.ones(2)]))[0], torch.ones(2))
    problem, _ = toy()
    updater = problem.updater(OptimizerFactory("torch.optim.SGD", lr=0.1, momentum=0.5))
    assert difference(decode(through_a_file(updater)), updater.state_dict()) is None
    generator = torch.Generator(device="cpu").manual_seed(3)
    assert torch.equal(decode(through_a_file(generator)), generator.get_state())
