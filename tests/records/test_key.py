import os
import subprocess
import sys
from enum import StrEnum

import pytest

from altprop.records.encode import canonical_json
from altprop.records.key import cell_key, relevant, run_key

CONFIG = {"task": {"name": "digits", "sizes": [64, 32]}, "lr": 1e-3, "betas": (0.9, 0.999), "name": "é"}


def test_key_order_and_the_hash_seed_change_nothing():
    code = (
        "from altprop.records.key import *;"
        "names = set('abcdefghij');"  # The order of a set varies with the hash seed: so does that of this dict.
        "print(cell_key({name: {other: 0.1 for other in names} for name in names}, 's', 'd'), [*names][0])"
    )
    outputs = []
    for seed in ("0", "1", "2", "random"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        outputs.append(done.stdout.split())
    assert len({first for _, first in outputs[:3]}) > 1, "the orders did not differ, so this test shows nothing"
    assert len({key for key, _ in outputs}) == 1


def test_key_is_the_same_today_and_tomorrow():
    # A literal: whoever changes how keys are made sees here that all records of all users become unreachable.
    assert cell_key(CONFIG, "s", "d", kernel=1) == "56a907bfb3bcbf34"
    assert run_key("a99e0dc230e9226b", 0) == "4df974ca9aa826f4bb33c3fe46558392"


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.0, "0.0"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e22, "1e+22"),
        (float("nan"), '"NaN"'),
        (float("-inf"), '"-Infinity"'),
        (True, "true"),
        (1, "1"),
        (1.0, "1.0"),
        (None, "null"),
        ("é\n", '"\\u00e9\\n"'),
        ((1, [2]), "[1,[2]]"),
        ({"b": 1, "a": {}}, '{"a":{},"b":1}'),
        (Colour.RED, '"red"'),
        (2**70, "1180591620717411303424"),
    ],
)
def test_canonical_text(value, text):
    assert canonical_json(value) == text


@pytest.mark.parametrize(("value", "word"), [({1: 2}, "names as keys"), ({1, 2}, "set"), ([object()], "object")])
def test_what_has_no_canonical_text_is_refused(value, word):
    with pytest.raises(TypeError, match=word):
        canonical_json(value)


def test_every_ingredient_changes_the_key():
    cells = [
        cell_key(CONFIG, "s", "d"),
        cell_key({**CONFIG, "lr": 2e-3}, "s", "d"),
        cell_key(CONFIG, "t", "d"),
        cell_key(CONFIG, "s", "e"),
        cell_key(CONFIG, "s", "d", device_type="cuda"),
        cell_key(CONFIG, "s", "d", precision="bf16-mixed"),
        cell_key(CONFIG, "s", "d", threads=2),
        cell_key(CONFIG, "s", "d", kernel=999),
    ]
    runs = {run_key(cell, seed) for cell in cells for seed in (0, 1)}
    assert len(set(cells)) == 8
    assert len(runs) == 16
    assert all(len(cell) == 16 and int(cell, 16) >= 0 for cell in cells)
    assert all(len(run) == 32 and int(run, 16) >= 0 for run in runs)


def test_what_a_part_declares_irrelevant_and_what_describes_it_change_nothing():
    task = {"_target_": "my.Csv", "path": "a.csv", "target": "species"}
    declared = {**task, "irrelevant": ["path"]}
    assert relevant({"task": declared, "dtype": "float32"}) == {
        "task": {"_target_": "my.Csv", "target": "species"},
        "dtype": "float32",
    }
    assert cell_key({"task": task}, "s", "d") != cell_key({"task": {**task, "path": "b.csv"}}, "s", "d")
    assert cell_key({"task": declared}, "s", "d") == cell_key({"task": {**declared, "path": "b.csv"}}, "s", "d")
    assert cell_key({"task": declared}, "s", "d") != cell_key({"task": {**declared, "target": "petal"}}, "s", "d")
    described = {"_target_": "my.Rule", "paper": "Me 2026", "optimizer": {"_target_": "my.Step", "search": {"lr": 1}}}
    assert relevant({"algorithm": described})["algorithm"] == {
        "_target_": "my.Rule",
        "optimizer": {"_target_": "my.Step"},
    }
    # An option that only shares its name with a description, inside a mapping that is no part.
    assert relevant({"model": {"schedule": {"search": "linear"}}}) == {"model": {"schedule": {"search": "linear"}}}
