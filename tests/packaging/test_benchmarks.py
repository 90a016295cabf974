"""The benchmarks run and print what their command promises; how long things take is no test's business."""

import json
import sys
from functools import partial
from importlib import import_module

import pytest

from benchmarks.__main__ import main


@pytest.mark.parametrize("name", ["harness", "probes"])
def test_a_benchmark_ends_in_one_json_object(name, monkeypatch, capsys):
    """Sixty steps in place of thousands; `seeds` is left out, since a round of it takes minutes."""
    module = import_module(f"benchmarks.{name}")
    monkeypatch.setattr(module, "run", partial(module.run, steps=60))
    monkeypatch.setattr(sys, "argv", ["benchmarks", name, "--rounds", "1"])
    main()
    printed = capsys.readouterr().out.strip().splitlines()
    found = json.loads(printed[-1])
    assert found["name"] == name
    assert all(ratio > 0 for ratio in found["ratios"].values())
    assert 1.0 in found["ratios"].values()
    assert len(found["ratios"]) == sum(line.count(" us") for line in printed)


def test_what_grows_with_the_length_and_what_with_the_width():
    """Backpropagation keeps all times; RTRL one matrix, whose product costs the fourth power of the width."""
    through_time = import_module("benchmarks.through_time")
    rules = ("bptt", "truncated_bptt (5, 10)", "rtrl", "eprop")
    by_length = through_time.growth("T", (10, 20), 1, rules).ratios()
    assert by_length["bptt, saved"] > 0.9
    assert by_length["rtrl, saved"] == by_length["rtrl, state"] == by_length["eprop, state"] == 0
    assert by_length["truncated_bptt (5, 10), saved"] < 0.6
    by_width = through_time.growth("W", (4, 8, 16), 1, rules[2:]).ratios()
    assert 3.3 < by_width["rtrl, FLOPs"] < 4
    assert 2.4 < by_width["rtrl, state"] < 3
    assert 1.4 < by_width["eprop, state"] < 2


def test_how_far_back_each_rule_reaches():
    found = import_module("benchmarks.through_time").reach(length=20, lags=(5, 10)).ratios()
    assert found["truncated_bptt (5, 10), beyond 10"] == 0 < found["truncated_bptt (5, 10), beyond 5"]
    assert found["rtrl, beyond 10"] == pytest.approx(found["bptt, beyond 10"])
    assert 0 < found["eprop, beyond 10"] < found["bptt, beyond 10"]
    assert found["rtrl, cosine"] == pytest.approx(1)
