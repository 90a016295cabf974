"""Pooling is over data sets: several workloads of one are never counted as several tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from altprop.report.across import Across, across, shares, stratum
from altprop.report.build import build
from altprop.report.data_sets import counted, data_sets, weights
from altprop.report.model import Report
from altprop.report.reading import read

Change = Callable[[dict[str, Any], Any, Any], None]


def renamed(suffix: str, **config: Any) -> Change:
    """A change of a run into one of the same task's workload `task[suffix]`, of the same data."""

    def change(record: dict[str, Any], trace: Any, clock: Any) -> None:
        record["workload"] += f"[{suffix}]"
        record["key"], record["cell"] = record["key"][:-4] + suffix[-4:].rjust(4, "0"), record["cell"][:-1] + suffix[-1]
        record["config"] |= config

    return change


def pooled(report: Report) -> Across:
    found = across(report)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def plain(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks as they are."""
    folder: Path = synthetic.write(tmp_path_factory.mktemp("plain") / "runs", tasks=synthetic.TASKS[:2])
    return folder


@pytest.fixture(scope="module")
def thrice(synthetic: ModuleType, plain: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same two tasks, and the first of them twice more, with the very same results, as other workloads."""
    folder = tmp_path_factory.mktemp("thrice")
    for suffix in ("one", "two"):
        synthetic.write(folder / suffix, tasks=synthetic.TASKS[:1], change=renamed(suffix))
    return [plain, folder / "one", folder / "two"]


def test_a_task_that_is_there_three_times_counts_once(plain: Path, thrice: list[Path]) -> None:
    once, often = read([plain], "x"), read(thrice, "x")
    assert [len(group) for group in data_sets(often.tables)] == [3, 1]
    assert counted(once) == "2 tasks"
    assert counted(often) == "2 tasks in 4 workloads"
    assert sum(weights(often.tables).values()) == pytest.approx(2)
    ours, theirs = pooled(often), pooled(once)
    assert ours.data_sets == theirs.data_sets == 2
    assert len(ours.tasks) == 4
    for mine, other in zip(ours.pooled, theirs.pooled, strict=True):
        assert (mine.learner.name, mine.n, mine.failed, mine.ranks) == (
            other.learner.name,
            other.n,
            other.failed,
            other.ranks,
        )
        assert mine.iqm.estimate == pytest.approx(other.iqm.estimate)
        assert mine.area == pytest.approx(other.area)
        assert mine.met == pytest.approx(other.met)
    for pair, (share, count) in theirs.wins.items():
        assert (ours.wins[pair][0].estimate, ours.wins[pair][1]) == (pytest.approx(share.estimate), count)


def test_the_mean_over_its_workloads_stands_for_a_data_set(synthetic: ModuleType, plain: Path, tmp_path: Path) -> None:
    def worse(record: dict[str, Any], trace: Any, clock: Any) -> None:
        renamed("half")(record, trace, clock)
        if record["result"].get("test") is not None:
            record["result"]["test"] /= 2

    synthetic.write(tmp_path / "half", tasks=synthetic.TASKS[:1], change=worse)
    report = read([plain, tmp_path / "half"], "x")
    group = data_sets(report.tables)[0]
    name = report.learners[0].name
    each = [shares(table, name) for table in group]
    assert stratum(group, name).tolist() == pytest.approx([(each[0][s] + each[1][s]) / 2 for s in each[0]])
    assert np.ptp([each[0][0], each[1][0]]) > 0.1


def test_several_workloads_of_one_data_set_are_no_several_tasks(
    synthetic: ModuleType, thrice: list[Path], tmp_path: Path
) -> None:
    assert across(read(thrice[1:], "x")) is None
    page = build(thrice[1:], tmp_path, formats=["md"]).read_text()
    assert "There is one data set only, in 2 workloads: nothing can be said across tasks." in page
    assert "on 1 task in 2 workloads" in page


def test_other_data_under_one_name_are_another_data_set(synthetic: ModuleType, plain: Path, tmp_path: Path) -> None:
    def other(record: dict[str, Any], trace: Any, clock: Any) -> None:
        renamed("data")(record, trace, clock)
        if "identity" in record["result"]:
            record["result"]["identity"]["data"] = "e" * 16

    synthetic.write(tmp_path / "other", tasks=synthetic.TASKS[:1], change=other)
    assert [len(group) for group in data_sets(read([plain, tmp_path / "other"], "x").tables)] == [1, 1, 1]


def test_another_precision_is_no_other_data_set(synthetic: ModuleType, plain: Path, tmp_path: Path) -> None:
    def precise(record: dict[str, Any], trace: Any, clock: Any) -> None:
        renamed("dtype=float64", dtype="float64")(record, trace, clock)
        if "identity" in record["result"]:
            record["result"]["identity"]["data"] = "d" * 16

    synthetic.write(tmp_path / "precise", tasks=synthetic.TASKS[:1], change=precise)
    assert [len(group) for group in data_sets(read([plain, tmp_path / "precise"], "x").tables)] == [2, 1]
