"""Diagnostics that a learner brings: in the probe rows, neither timed nor counted, and in no bit of the run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import altprop

Run = Callable[..., Any]
OWN = ("algorithm=custom", "optimizer=adam", "task=digits", "probes=basic", "budget.block=5")


def of(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    (path,) = folder.glob("*/record.json")
    rows = [json.loads(line) for line in (path.parent / "trace.jsonl").read_text().splitlines()]
    return json.loads(path.read_text()), rows


def bare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "own"} for row in rows]


@pytest.mark.parametrize("noise", ["none", "standard"])
def test_no_bit_of_the_run_changes(run: Run, tmp_path: Path, noise: str) -> None:
    for name in ("Diagnosed", "Silent"):
        run(*OWN, f"algorithm._target_=diagnosed.{name}", f"dropout={noise}", runs=name)
    (watched, rows), (plain, others) = of(tmp_path / "Diagnosed"), of(tmp_path / "Silent")
    assert watched["status"] == plain["status"] == "completed"
    left_out = {"trace_sha256"}
    assert {k: v for k, v in watched["result"].items() if k not in left_out} == {
        k: v for k, v in plain["result"].items() if k not in left_out
    }
    assert bare(rows) == others
    assert watched["measured"]["live_bytes"] == plain["measured"]["live_bytes"]


def test_they_stand_in_the_rows_of_the_probes(run: Run, tmp_path: Path) -> None:
    run(*OWN, "algorithm._target_=diagnosed.Diagnosed")
    _, rows = of(tmp_path / "runs")
    probes = [row for row in rows if row["kind"] == "probe"]
    assert len(probes) == 6
    assert all("own" not in row for row in rows if row["kind"] != "probe")
    for row in probes:
        own = row["own"]
        assert own["steps"] == row["step"]  # after the step
        assert own["radius"] > 0
        assert own["gap"] == "NaN"
        assert own["word"] is own["vector"] is None
        assert row["values"]["alignment"] != 7.0
    assert len({row["own"]["slope"] for row in probes}) == 6
    trace = altprop.load_trace(tmp_path / "runs")
    trace = trace[trace["kind"] == "probe"]
    assert list(trace[trace["name"] == "steps"]["value"]) == [row["step"] for row in probes]
    assert trace[trace["name"] == "alignment"]["value"].max() < 7  # the basic one keeps its name
    assert math.isnan(trace[trace["name"] == "gap"]["value"].iloc[0])


@pytest.mark.parametrize("name", ["Unnamed", "Undecomposed"])
def test_what_is_no_diagnostic_breaks_no_run(run: Run, tmp_path: Path, name: str) -> None:
    run(*OWN, f"algorithm._target_=diagnosed.{name}")
    record, rows = of(tmp_path / "runs")
    assert record["status"] == "completed"
    assert all("own" not in row for row in rows)


def test_without_probes_there_are_none(run: Run, tmp_path: Path) -> None:
    run(*OWN, "algorithm._target_=diagnosed.Diagnosed", "probes=off")
    assert all("own" not in row for row in of(tmp_path / "runs")[1])


def test_stacked_seeds_measure_what_single_ones_do(run: Run, tmp_path: Path) -> None:
    for runs, stack in (("at_once", "true"), ("loop", "false")):
        words = ("algorithm._target_=diagnosed.Diagnosed", "seeds=5", "dtype=float64", f"stack_seeds={stack}")
        run(*OWN, *words, runs=runs)
    found = {}
    for runs in ("at_once", "loop"):
        for path in (tmp_path / runs).glob("*/record.json"):
            record = json.loads(path.read_text())
            rows = [json.loads(line) for line in (path.parent / "trace.jsonl").read_text().splitlines()]
            found[runs, record["seed"]] = [row["own"] for row in rows if row["kind"] == "probe"]
            assert record["measured"].get("stacked") == (5 if runs == "at_once" else None)
    for seed in range(5):
        for one, other in zip(found["at_once", seed], found["loop", seed], strict=True):
            assert one.keys() == other.keys()
            for name in ("radius", "slope", "steps"):
                assert one[name] == pytest.approx(other[name], rel=1e-8)
    assert found["loop", 0][0]["slope"] != found["loop", 1][0]["slope"]
