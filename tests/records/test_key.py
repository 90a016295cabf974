import os
import subprocess
import sys
from enum import StrEnum

import pytest

from altprop.records.key import canonical_json, cell_key, relevant, run_key

CONFIG = {"task": {"name": "digits", "sizes": [64, 32]}, "lr": 1e-3, "betas": (0.9, 0.999), "name": "é"}


def test_key_order_and_the_hash_seed_change_nothing():
    code = (
        "from altprop.records.key import *;"
        "names = set('abcdefghij');"  # The order of a set varies with the hash seed: so does that of this dict.
        "print(run_key({name: {other: 0.1 for other in names} for name in names}, 's', 3), [*names][0])"
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
    assert run_key(CONFIG, "s", 0, kernel=1) == "51ffdb7e8d39b2eca98861e415caab88"
    assert cell_key(CONFIG, "s", kernel=1) == "a99e0dc230e9226b"


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
    base = run_key(CONFIG, "s", 0)
    others = [
        run_key({**CONFIG, "lr": 2e-3}, "s", 0),
        run_key(CONFIG, "t", 0),
        run_key(CONFIG, "s", 1),
        run_key(CONFIG, "s", 0, device_type="cuda"),
        run_key(CONFIG, "s", 0, precision="bf16-mixed"),
        run_key(CONFIG, "s", 0, threads=2),
        run_key(CONFIG, "s", 0, kernel=999),
    ]
    assert len({base, *others}) == 8
    assert len(base) == 32
    assert int(base, 16) >= 0


def test_seeds_share_their_cell_and_nothing_else_does():
    cells = {cell_key(CONFIG, "s"), cell_key(CONFIG, "t"), cell_key({}, "s"), cell_key(CONFIG, "s", "cuda")}
    assert len(cells) == 4
    assert all(len(cell) == 16 for cell in cells)


def test_relevant_leaves_out_whole_groups_and_single_fields():
    config = {"hydra": {"x": 1}, "runs_dir": "r", "trainer": {"devices": 2, "precision": "32"}, "model": {"seeds": 3}}
    assert relevant(config) == {"trainer": {"precision": "32"}, "model": {"seeds": 3}}
    assert relevant(config, ["model.seeds"])["model"] == {}
