import math
from typing import Any

import pytest

from altprop import catalogue
from altprop.errors import AltpropError
from altprop.search_space import Dimension, Space

LR = {"low": 1e-4, "high": 1.0, "scale": "log"}


def test_trials_of_a_small_study_are_trials_of_a_large_one() -> None:
    space = Space.read({"optimizer.lr": LR, "algorithm.momentum": {"choices": [0.0, 0.9]}})
    assert space.trials(5) == space.trials(16)[:5]
    assert len({str(trial) for trial in space.trials(16)}) == 16


def test_sixteen_trials_fill_sixteen_equal_parts_of_the_log_scale() -> None:
    rates = [trial["optimizer.lr"] for trial in Space.read({"optimizer.lr": LR}).trials(16)]
    places = sorted(math.floor((math.log10(rate) + 4) / 4 * 16) for rate in rates)
    assert places == list(range(16))  # what random draws do with a chance of 1e-6


def test_learners_with_as_many_options_are_tried_at_the_same_places() -> None:
    one = Space.read({"optimizer.lr": LR}).trials(4)
    other = Space.read({"algorithm.sigma": LR}).trials(4)
    assert [trial["optimizer.lr"] for trial in one] == [trial["algorithm.sigma"] for trial in other]


def test_what_is_set_by_hand_is_not_searched() -> None:
    space = Space.read({"optimizer.lr": LR, "algorithm.k2": {"choices": [5, 10]}}, fixed={"optimizer.lr"})
    assert {name for trial in space.trials(3) for name in trial} == {"algorithm.k2"}
    assert Space.read({"optimizer.lr": LR}, fixed={"optimizer.lr"}).trials(3) == []


@pytest.mark.parametrize(("low", "high", "scale"), [(1, 4, "linear"), (1, 64, "log"), (0, 3, "linear")])
def test_whole_numbers_reach_both_ends_and_no_further(low: int, high: int, scale: str) -> None:
    one = Dimension.read("n", {"low": low, "high": high, "scale": scale, "type": "int"})
    values = [one.at(u / 4096) for u in range(4096)]
    assert (min(values), max(values)) == (low, high)
    assert all(isinstance(value, int) for value in values)
    if scale == "linear":  # each whole number gets an equal share
        shares = {value: values.count(value) / 4096 for value in values}
        assert max(shares.values()) - min(shares.values()) < 2e-3


def test_values_stay_inside_and_can_be_typed_again() -> None:
    one = Dimension.read("lr", {"low": 1.23456e-5, "high": 0.98765, "scale": "log"})
    values = [one.at(u) for u in (0.0, 0.1, 0.5, 1 - 1e-12)]
    assert values[0] == 1.235e-5
    assert all(1.23456e-5 <= value <= 0.98765 for value in values)
    assert all(float(f"{value:.4g}") == value for value in values[:-1])
    assert Dimension("lr", 1.23449e-5, 1.0, "log").at(0.0) == 1.23449e-5  # rounding must not leave the range


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "must be {low: .., high: .., scale: log} or {choices: [..]}; got 3"),
        ({"low": 2, "high": 1}, "low must be a number below high; got low=2, high=1"),
        ({"low": 0, "high": 1, "scale": "log"}, "a log scale needs low above 0; got 0"),
        ({"low": 0.1, "high": 1, "scale": "cubic"}, "scale is one of linear, log"),
        ({"low": 0.1, "hihg": 1}, "hihg is unknown; did you mean high?"),
        ({"choices": [1]}, "at least two values"),
        ({"choices": "ab"}, "at least two values"),
        ({"choices": [1, 2], "low": 1}, "nothing beside it"),
        ({"low": float("nan"), "high": 1}, "low must be a number below high"),
        ({"low": True, "high": 2}, "low must be a number below high"),
    ],
)
def test_a_wrong_entry_says_what_is_wrong(given: Any, words: str) -> None:
    with pytest.raises(AltpropError, match=r"^search of optimizer\.lr") as caught:
        Space.read({"optimizer.lr": given})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [*catalogue.entries("algorithm").values(), *catalogue.entries("optimizer").values()],
    ids=lambda entry: f"{entry.group}-{entry.name}",
)
def test_every_algorithm_and_optimizer_declares_what_is_searched(entry: catalogue.Entry) -> None:
    if entry.name == "custom":
        return
    assert "search" in entry.values, "say search: {} where there is nothing to search"
    space = Space.read(entry.values["search"])
    for one in space.dimensions:
        default = entry.values[one.name]
        if one.choices:
            assert default in one.choices
        else:
            assert one.low <= default <= one.high
    if entry.group == "optimizer":
        assert "lr" in entry.values["search"]


def test_a_whole_number_on_a_log_scale_is_tried_near_its_geometric_mean() -> None:
    assert Dimension.read("n", {"low": 1, "high": 1024, "scale": "log", "type": "int"}).at(0.5) in range(16, 65)
    assert Dimension.read("n", {"low": 1, "high": 1024, "scale": "linear", "type": "int"}).at(0.5) in range(508, 517)
