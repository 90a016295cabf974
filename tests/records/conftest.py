"""A record as the harness writes it, small, and the folder of a run store."""

import copy

import pytest

from altprop.records.store import RunStore

RECORD = {
    "cell": "c" * 16,
    "label": "backprop+adam",
    "workload": "digits",
    "axes": {"algorithm": "backprop", "optimizer": "adam", "dropout": "none", "task": "digits", "model": "mlp"},
    "seed": 0,
    "status": "completed",
    "reason": "The run spent its whole budget.",
    "traceback": None,
    "rerun": "altprop task=digits",
    "reference": True,
    "control": False,
    "config": {"task": {"name": "digits"}, "lr": 0.001},
    "result": {
        "status": "completed",
        "metric": "accuracy",
        "higher_is_better": True,
        "test": 0.94,
        "test_best": 0.95,
        "validation": 0.93,
        "validation_best": 0.96,
        "chance": 0.1,
        "oracle": None,
        "targets": {"50%": 0.52, "90%": 0.85},
        "hits": {"50%": {"step": [0, 10], "flops": [0.0, 1e6]}, "90%": None},
        "ledger": {"steps": 100, "samples": 6400, "forwards": 100, "backwards": 100, "hvps": 0, "flops": 2e7},
        "budget": {"currency": "flops", "amount": 2e7, "spent": 2e7},
        "parameters": 1234,
        "own_model": False,
    },
    "measured": {"cpu_seconds": 1.5, "wall_seconds": 1.6, "saved_bytes": 4096, "live_bytes": 9000, "host": "h"},
    "provenance": {"python": "3.11", "torch": "2.13.0", "cpu": "x", "threads": 1, "device": "cpu", "fingerprint": "f"},
}
TRACE = [
    {"kind": "evaluation", "split": "validation", "step": 0, "fraction": 0.0, "grid": 0.0, "flops": 0.0, "samples": 0,
     "metrics": {"accuracy": 0.1, "loss": float("inf")}},
    {"kind": "train", "step": 50, "fraction": 0.5, "loss": 0.7,
     "scalars": {"norm": 2.0}, "scalar_means": {"norm": 3.0}},
    {"kind": "probe", "step": 50, "fraction": 0.5, "flops": 1e7, "note": None,
     "values": {"alignment": 0.9, "alignment_low": None, "gradient_verdict": "healthy"},
     "layers": {"blocks.0": {"dead_fraction": 0.25}}},
    {"kind": "probe", "step": 75, "fraction": 0.75, "flops": 1.5e7, "note": "no update", "values": {}, "layers": {}},
    {"kind": "evaluation", "split": "test", "step": 100, "fraction": 1.0, "grid": 1.0, "flops": 2e7, "samples": 6400,
     "metrics": {"accuracy": 0.94}},
]  # fmt: skip
CLOCK = [{"step": 0, "cpu_seconds": 0.0}, {"step": 100, "cpu_seconds": 1.5}]


def _merged(old, changes):
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(old.get(name), dict) and name != "hits":
            _merged(old[name], value)
        else:
            old[name] = value
    return old


@pytest.fixture
def make():
    """Returns a function that makes a record, with changes merged in."""
    return lambda **changes: _merged(copy.deepcopy(RECORD), copy.deepcopy(changes))


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.fixture
def put(make):
    """Returns a function that commits a record with changes and gives it back."""

    def commit(store, key, trace=TRACE, clock=CLOCK, artefacts=None, **changes):
        return store.commit(key, make(**changes), trace, clock, "lr: 0.001\n", artefacts)

    return commit
