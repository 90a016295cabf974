"""Timing records: statistics against enumeration and numpy, and the file's promises."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from altprop.errors import AltpropError
from altprop.records.documents import read_document
from altprop.records.record import UnreadableRecordError
from altprop.records.store import RunStore
from altprop.records.timing import (
    Timed,
    Timing,
    file_name,
    load_timings,
    median_interval,
    ratios,
    spread,
    write_timing,
)

BASE = Timed("backprop+adam", "a" * 16, 0, "f", reference=True, cpu=(1e-3, 2e-3, 1e-3, 1e-3, 4e-3), wall=(1e-2,) * 5,
             breakdown={"forward": [4e-4], "other": [6e-4]}, block=50, first=113)  # fmt: skip
TWICE = replace(BASE, label="dfa+adam", cell="b" * 16, reference=False, cpu=(2e-3, 4e-3, 3e-3, 2e-3, 8e-3))
BROKEN = Timed("x", "c" * 16, 0, "f", reason="RuntimeError: boom", failed=True)


def write(runs: Path, *learners: Timed, workload: str = "digits", finished: str = "2026-01-01") -> Timing:
    return write_timing(
        runs, workload, 5, learners, {"order": "round robin"}, {"finished": finished}, {"fingerprint": "f"}
    )


@pytest.mark.parametrize("n", range(2, 13))
def test_median_interval_covers_as_it_says(n: int) -> None:
    """Enumeration: each value falls below or above the true median, all 2^n ways alike.

    With k below, x(r) < median < x(n+1-r) where r <= k <= n - r.
    """
    values = [float(value) for value in range(n)]
    found = median_interval(values)
    rank = int(found.low) + 1
    assert found.high == n - rank
    ways = list(itertools.product((0, 1), repeat=n))
    covered = sum(rank <= sum(way) <= n - rank for way in ways) / len(ways)
    assert found.coverage == pytest.approx(covered)
    narrower = sum(rank + 1 <= sum(way) <= n - rank - 1 for way in ways) / len(ways)
    assert rank == 1 or covered >= 0.95
    assert narrower < 0.95  # none narrower would do
    assert found.estimate == np.median(values)


def test_spread_is_numpys_quartiles_over_the_median() -> None:
    values = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6]
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    assert spread(values) == pytest.approx((high - low) / middle)


def test_ratios_are_of_one_round() -> None:
    assert ratios(TWICE.cpu, BASE.cpu) == pytest.approx([2, 2, 3, 2, 2])
    with pytest.raises(ValueError, match="argument 2 is longer"):
        ratios([1.0], [1.0, 2.0])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    timing = write(tmp_path / "runs", BASE, TWICE, BROKEN)
    assert timing.learners == (BASE, TWICE, replace(BROKEN, breakdown={}))
    assert timing.path == tmp_path / "runs" / Timing.folder / file_name("digits")
    first, second, third = json.loads(timing.path.read_text())["learners"]
    assert first["median"] == 1e-3
    assert second["ratio"]["rounds"] == pytest.approx([2, 2, 3, 2, 2])
    assert (second["ratio"]["median"], second["ratio"]["interval"]) == (2, [2, 3])
    assert second["ratio"]["coverage"] == 0.9375
    assert (third["status"], third["reason"]) == ("failed", "RuntimeError: boom")


def test_a_later_pass_replaces_the_earlier_one(tmp_path: Path) -> None:
    write(tmp_path, BASE, TWICE)
    write(tmp_path, BASE)
    (timing,), unreadable = load_timings(tmp_path)
    assert [one.label for one in timing.learners] == ["backprop+adam"]
    assert unreadable == []
    assert [path.name for path in (tmp_path / Timing.folder).iterdir()] == [
        timing.path.name
    ]  # nothing temporary is left


def test_folders_are_merged_in_any_order(tmp_path: Path) -> None:
    one, two, three = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    write(one, BASE, finished="2026-01-01")
    write(two, TWICE, finished="2026-01-02")
    write(three, BASE, finished="2026-01-01")  # the same content once more
    for folders in itertools.permutations([one, two, three]):
        found = [(t.workload, t.finished) for t in load_timings(folders)[0]]
        assert found == [("digits", "2026-01-02"), ("digits", "2026-01-01")]


def test_timing_is_no_run(tmp_path: Path) -> None:
    write(tmp_path, BASE)
    assert RunStore(tmp_path).keys() == []
    assert RunStore(tmp_path).read(Timing.folder) is None


def test_names_of_files_are_safe_and_apart() -> None:
    names = [file_name(name) for name in ("a/b", "a b", "../a", "..", "a" * 300, "ä")]
    assert len(set(names)) == len(names)
    assert all("/" not in name and not name.startswith(".") and len(name) < 120 for name in names)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda data: data.update(schema=2), "its schema is 2"),
        (lambda data: data.pop("rounds"), "its field 'rounds' is missing"),
        (lambda data: data.update(rounds=4), "5 are the least"),
        (lambda data: data["learners"][0].pop("cell"), "no label or no cell"),
        (lambda data: data["learners"][0]["cpu_seconds_a_step"].pop(), "does not have 5 positive figures"),
        (lambda data: data["learners"][0].update(cpu_seconds_a_step=[1, 2, 3, 4, 0]), "does not have 5 positive"),
        (lambda data: data["learners"][0].update(cpu_seconds_a_step=[1, 2, 3, 4, "x"]), "does not have 5 positive"),
        (lambda data: data["learners"][0].update(breakdown={"forward": []}), "no usable breakdown"),
        (lambda data: data["learners"][0].update(seed="first"), "invalid literal"),
    ],
)
def test_a_spoilt_record_is_a_sentence(edit: Any, problem: str, tmp_path: Path) -> None:
    path = write(tmp_path, BASE).path
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    with pytest.raises(UnreadableRecordError, match=problem):
        read_document(Timing, path)
    found, unreadable = load_timings(tmp_path)
    assert found == []
    assert len(unreadable) == 1


def test_a_folder_that_cannot_hold_it(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(AltpropError, match="a file of that name is in the way"):
        write(tmp_path / "runs", BASE)
