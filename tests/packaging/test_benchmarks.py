"""The benchmarks run and print what their command promises; how long things take is no test's business."""

import json
import math
import sys
from configparser import ConfigParser
from functools import partial
from importlib import import_module

import pytest
import torch

from altprop.tasks.digits import Digits
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


def test_evolution_beside_what_is_here(monkeypatch, capsys):
    """Small sizes; a library that is not installed is left out, and the benchmark says why."""
    evolution = import_module("benchmarks.evolution")
    monkeypatch.setattr(evolution, "missing", lambda name: f"{name} is left out: not here")
    small = {"seeds": 1, "limit": 40, "count": 8, "generations": 3, "neat_generations": 2, "timed": 8}
    monkeypatch.setattr(evolution, "run", partial(evolution.run, **small))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "evolution", "--rounds", "1"])
    main()
    printed = capsys.readouterr().out.strip().splitlines()
    ratios = json.loads(printed[-1])["ratios"]
    assert ratios["64 rows: genetic"] == ratios["512 rows: genetic"] == 1
    assert len(ratios) == sum(line.count(" us") for line in printed) == 12
    assert sum("left out" in line for line in printed) == 4
    assert not any("evosax" in line for line in printed if "left out" not in line and "deap" not in line)
    names = [line[:30].strip() for line in printed]
    assert all(names.count(name) == 1 for name in ("pgpe", "openai_es", "genetic, truncation"))
    assert (names.count("cma_es"), names.count("DEAP cma.Strategy"), names.count("neat")) == (4, 4, 2)


@pytest.mark.parametrize("module", ["cma", "evotorch", "evosax.algorithms"])
def test_a_peer_takes_the_same_start(module):
    """Its first generation lies around the start at the same width; on a machine without it there is nothing to try."""
    evolution, peers = import_module("benchmarks.evolution"), import_module("benchmarks.peers.evolution")
    if reason := evolution.missing(module):
        pytest.skip(reason)
    made = {"cma": peers.pycma, "evotorch": peers.evotorch_cma, "evosax.algorithms": peers.evosax_cma}[module]
    seen = []

    def watched(flat):
        seen.append(flat.clone())
        return evolution.FUNCTIONS["sphere"](flat)

    start = torch.linspace(-3, 3, 10, dtype=torch.float64)
    made(watched, start, 0.01, 200, 0, active=False)()
    assert (seen[0].mean(0) - start).abs().max() < 5 * 0.01 / math.sqrt(200)
    assert seen[0].std(0).mean() == pytest.approx(0.01, rel=0.1)


def test_losses_of_a_population_are_those_of_the_model():
    """What EvoTorch is handed is what our learners see, and so is the first population."""
    evolution, peers = import_module("benchmarks.evolution"), import_module("benchmarks.peers.evolution")
    train = Digits().data().to(torch.device("cpu"), torch.float32).train
    task = evolution.network(train, 0, 6)
    found = peers.losses(task)(task.first)
    expected = [evolution.scored(row, train, train)[0] for row in task.first]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(task.first[0], task.start)


def test_what_neat_python_is_told():
    peers = import_module("benchmarks.peers.evolution")
    example, stanleys = ConfigParser(), ConfigParser()
    example.read_string(peers.neat_config({}))
    stanleys.read_string(peers.neat_config(peers.STANLEY))
    assert example["DefaultGenome"]["weight_mutate_power"] == "0.5"
    assert stanleys["DefaultGenome"]["weight_mutate_power"] == "1.44"  # the deviation of U(-2.5, 2.5)
    assert {name: set(section) for name, section in example.items()} == {
        name: set(section) for name, section in stanleys.items()
    }
