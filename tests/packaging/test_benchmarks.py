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
