"""The answer above everything: its sentence, its matrix, its cost, and what was compared."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from altprop.report.across import across
from altprop.report.answer import ALIKE, BEST, _alone, _cost, answer, cost_of_target, ranking, resolution
from altprop.report.blocks import Cell, Grid, Text
from altprop.report.compared import compared
from altprop.report.failures import matrix
from altprop.report.format import count
from altprop.report.model import Report
from altprop.report.reading import read
from altprop.report.results import rows
from altprop.report.statistics import median_interval
from altprop.report.times import target_times


def told(report: Report) -> tuple[str, str, Grid, list]:
    """The sentence, the caveat, the matrix and the ranking of a report."""
    results = {table.workload: rows(report, table) for table in report.tables}
    pooled = across(report)
    blocks = answer(report, results, pooled, matrix(report), [])
    sentence, caveat, grid = blocks[:3]
    assert isinstance(sentence, Text)
    assert isinstance(caveat, Text)
    assert isinstance(grid, Grid)
    return sentence.text, caveat.text, grid, ranking(report, results, pooled)


def row_of(grid: Grid, name: str) -> list[Cell]:
    return next(
        [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
        for row in [*grid.rows, *grid.foot]
        if any(isinstance(cell, Cell) and cell.learner and cell.learner.name == name for cell in row)
    )


def named(grid: Grid) -> list[str]:
    return [next(cell.learner.name for cell in row if isinstance(cell, Cell) and cell.learner) for row in grid.rows]


def test_the_tour_has_one_answer(tour: Path) -> None:
    report = read([tour], "x")
    sentence, caveat, grid, order = told(report)
    assert sentence.startswith("Over 3 tasks ")
    assert caveat.count("3 seeds a learner") == 1
    assert named(grid) == [one.learner.name for one in order if not one.learner.control]
    assert [one.rank for one in order if one.rank] == list(range(1, len(grid.rows) + 1))
    assert {cell.learner.name for row in grid.foot for cell in row if cell.learner} == {"null", "random_direction"}
    refused = row_of(grid, "som")[-3:]
    assert refused[0].text == "⊘"
    assert refused[0].notes
    failed = row_of(grid, "newton_cg")[-1]
    assert failed.small.endswith("1 of 3 ✕")
    assert failed.why == "1 of 3 diverged"


def strong(synthetic: ModuleType, tmp_path: Path, shares: dict[str, float], seeds: int = 12) -> Report:
    learners = [synthetic.LEARNERS[0], *(synthetic.Learner(name, share=share) for name, share in shares.items())]
    return read([synthetic.write(tmp_path, learners, synthetic.TASKS[:1], seeds)], "x")


def test_best_and_those_not_shown_to_differ_are_marked(synthetic: ModuleType, tmp_path: Path) -> None:
    report = strong(synthetic, tmp_path, {"close": 1.0, "far": 0.4})
    sentence, caveat, grid, _ = told(report)
    marks = {name: row_of(grid, name)[-1].text[:2] for name in ("backprop+adam", "close", "far")}
    assert sorted([marks["backprop+adam"], marks["close"]]) == sorted([ALIKE, BEST])
    assert marks["far"] not in (ALIKE, BEST)
    assert "On digits" in sentence
    assert "No learner was tuned" in caveat


def test_few_seeds_mark_the_best_alone(synthetic: ModuleType, tmp_path: Path) -> None:
    grid = told(strong(synthetic, tmp_path, {"close": 1.0}, 3))[2]
    assert sum(cell.text.startswith(ALIKE) for row in grid.rows for cell in row if isinstance(cell, Cell)) == 0
    assert sum(cell.text.startswith(BEST) for row in grid.rows for cell in row if isinstance(cell, Cell)) == 1


def test_the_same_results_are_one_rule_counted_once(synthetic: ModuleType, tmp_path: Path) -> None:
    kept: dict[tuple, dict] = {}

    def change(record: dict, trace: list, clock: list) -> None:
        place = (record["workload"], record["seed"])
        if record["label"] == "backprop+adam":
            kept[place] = record["result"]
        elif record["label"] == "copy":
            record["result"] = kept[place]

    learners = [synthetic.LEARNERS[0], synthetic.Learner("copy"), synthetic.Learner("other", share=0.5)]
    report = read([synthetic.write(tmp_path, learners, synthetic.TASKS[:1], 12, change=change)], "x")
    assert report.twins == {"copy": "backprop+adam"}
    found = {row.learner.name: row for row in rows(report, report.tables[0])}
    assert found["copy"].comparison is None
    assert found["other"].comparison.family == 1
    grid = told(report)[2]
    assert named(grid) == ["backprop+adam", "copy", "other"]
    assert [row_of(grid, name)[0].text for name in named(grid)] == ["1", "=", "2"]
    assert any("same rule here" in block.text for block in compared(report, matrix(report)) if isinstance(block, Text))


def test_controls_are_of_no_family(synthetic: ModuleType, tmp_path: Path) -> None:
    learners = [*synthetic.LEARNERS[:2], synthetic.Learner("null", share=0.0, control=True)]
    report = read([synthetic.write(tmp_path, learners, synthetic.TASKS[:1], 12)], "x")
    found = {row.learner.name: row.comparison for row in rows(report, report.tables[0])}
    assert found["null"] is None
    assert found["backprop+sgd"].family == 1


def test_cost_is_of_the_same_quality(tour: Path) -> None:
    report = read([tour], "x")
    found = cost_of_target(report, report.learners)
    assert found is not None
    reference = row_of(found[1], "backprop+adam")
    assert {cell.text for cell in reference[1:]} == {"1.00"}
    assert row_of(found[1], "null")[2].text == "never"
    assert row_of(found[1], "null")[2].sort == math.inf


def test_a_reference_that_begins_beyond_the_target_measures_nobody(tour: Path) -> None:
    times = target_times(read([tour], "x").tables[0], "flops")[0].learners
    mine, at_once = times["backprop+sgd"], replace(times["backprop+adam"], mean=0.0, median=0.0)
    assert _cost(mine, at_once).text == count(mine.median)
    assert _cost(at_once, at_once).text == "0"
    assert _alone(mine, at_once)
    assert not _alone(mine, times["backprop+adam"])


def test_nobody_is_measured_beyond_the_end_of_the_shortest_run(tour: Path) -> None:
    times = target_times(read([tour], "x").tables[0], "flops")[0].learners
    mine, base = (replace(times[name], mean=7.0, horizon=7.0) for name in ("backprop+sgd", "backprop+adam"))
    assert _cost(mine, base).text == count(mine.median)
    assert _cost(replace(mine, median=math.inf), base).text == "–"
    assert _cost(replace(mine, mean=3.5, median=3.0), replace(base, median=6.0)).text == "0.50"
    assert _cost(replace(mine, mean=3.5, median=3.0), replace(base, median=7.5)).text == "0.50*"


def test_settings_of_every_learner_stand_there(synthetic: ModuleType, tmp_path: Path) -> None:
    def change(record: dict, trace: list, clock: list) -> None:
        record["config"]["algorithm"] = {"name": "x", "optimizer": {"lr": 0.01, "betas": [0.9, 0.99]}, "population": 20}

    report = read([synthetic.write(tmp_path, synthetic.LEARNERS[:1], synthetic.TASKS[:1], 2, change=change)], "x")
    grid = next(block for block in compared(report, matrix(report)) if getattr(block, "label", "").startswith("Sett"))
    row = row_of(grid, "backprop+adam")
    assert [cell.text for cell in row[1:3]] == ["0.01", "20"]
    assert "betas 0.9, 0.99" in row[4].text
    assert row[-1].text == "2"


@pytest.mark.parametrize(("n", "places"), [(5, None), (6, (1, 6)), (12, (3, 10)), (20, (6, 15))])
def test_the_interval_of_a_median_is_exact(n: int, places: tuple[int, int] | None) -> None:
    """(x_(k), x_(n+1-k)) as tables of the binomial give them (Conover 1999, A3)."""
    found = median_interval(np.arange(1.0, n + 1))
    assert (found.low, found.high) == (places or (None, None))
    assert found.estimate == (n + 1) / 2


def test_a_failure_is_the_lower_end() -> None:
    found = median_interval([-math.inf, *np.arange(5.0)])
    assert (found.low, found.high) == (-math.inf, 4.0)


def test_the_resolution_is_told_where_examples_are_counted(synthetic: ModuleType, tmp_path: Path) -> None:
    def change(record: dict, trace: list, clock: list) -> None:
        record["result"] |= {"test": 0.75, "sizes": {"test": 4}}

    report = read([synthetic.write(tmp_path / "a", synthetic.LEARNERS[:1], synthetic.TASKS[:1], 2, change=change)], "x")
    assert resolution(report.tables[0]) == 0.25
    plain = read([synthetic.write(tmp_path / "b", synthetic.LEARNERS[:1], synthetic.TASKS[:1], 2)], "x")
    assert resolution(plain.tables[0]) is None
