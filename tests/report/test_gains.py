"""Gains over the number of training examples or hidden layers: paired, by hand, where they cross 0, how they fall."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from altprop.report.across import across
from altprop.report.across_section import across_section
from altprop.report.blocks import Points, figures_of, markdown
from altprop.report.gains import LAYERS, gains, series
from altprop.report.gains_section import over_quantities
from altprop.report.model import Report
from altprop.report.reading import read

SIZES = (100, 400, 1600)
DEPTHS = (2, 4, 8)


@pytest.fixture
def of(synthetic: ModuleType, tmp_path: Path) -> Callable[..., Report]:
    """Write a reference and a learner that is better by given gains at each size, spread over seeds."""

    def make(*means: float, spread: float = 0.01, sizes: tuple[int, ...] = SIZES) -> Report:
        one = synthetic.TASKS[0]
        tasks = [replace(one, name=f"digits[examples={place}]") for place in range(len(sizes))]

        def change(record: dict[str, Any], trace: Any, clock: Any) -> None:
            place, seed = tasks_by_name[record["workload"]], record["seed"]
            gain = 0.0 if record["reference"] else means[place] + spread * (seed - 5.5) / 5.5
            record["result"]["test"] = 0.5 + gain + 0.02 * seed
            record["result"]["sizes"]["train"] = sizes[place]
            record["result"]["identity"]["data"] = "same"
            record["axes"]["task"] = "digits"

        tasks_by_name = {task.name: place for place, task in enumerate(tasks)}
        return read([synthetic.write(tmp_path, synthetic.LEARNERS[:2], tasks, seeds=12, change=change)], "x")

    return make


def by_size(report: Report) -> dict[int, Any]:
    return dict(zip(SIZES, report.tables, strict=True))


def test_a_crossing_is_read_off_over_the_logarithm(of: Callable[..., Report]) -> None:
    """From .02 at 400 to -.02 at 1,600 it is 800; the spread of the mean decides its interval."""
    report = of(0.03, 0.02, -0.02)
    (gain,) = gains(report, by_size(report))
    assert gain.values == list(SIZES)
    assert gain.means.tolist() == pytest.approx([0.03, 0.02, -0.02])
    assert gain.falls
    at = gain.crossing
    assert at is not None
    assert at.estimate == pytest.approx(800)
    # Delta method: sd of log n = log(4) / .04 * sd of a mean / sqrt(2), and both ends are as noisy.
    error = math.log(4) / 0.04 * float(np.std(gain.differences[0])) / math.sqrt(12) / math.sqrt(2)
    assert math.log(at.high / at.low) == pytest.approx(2 * 1.96 * error, rel=0.1)
    (said,) = [block for block in over_quantities(report) if isinstance(block, Points)]
    assert said.sentences[0].startswith("backprop+sgd stops paying at 800 training examples (95 %: 7")


def test_one_may_begin_to_pay(of: Callable[..., Report]) -> None:
    (said,) = [block for block in over_quantities(of(-0.03, 0.02, 0.02)) if isinstance(block, Points)]
    assert "begins to pay at" in said.sentences[0]


@pytest.mark.parametrize("means", [(0.03, 0.02, 0.01), (0.03, 0.001, -0.001)])
def test_without_a_crossing_between_the_sizes_none_is_told(of: Callable[..., Report], means: Any) -> None:
    """No change of sign, or an interval that reaches beyond the sizes."""
    report = of(*means, spread=0.02)
    (gain,) = gains(report, by_size(report))
    assert gain.crossing is None
    blocks = over_quantities(report)
    assert not any(isinstance(block, Points) for block in blocks)
    assert len(list(figures_of(blocks, main=True))) == 1
    assert "crosses 0 at" in markdown(blocks)


def test_it_stands_in_the_section_and_takes_three_sizes(of: Callable[..., Report]) -> None:
    report = of(0.03, 0.02, -0.02)
    text = markdown(across_section(report, across(report), []))
    assert "Over the number of training examples: digits" in text
    assert over_quantities(replace(report, tables=report.tables[:2])) == []


def test_workloads_of_one_size_are_no_axis(of: Callable[..., Report]) -> None:
    assert over_quantities(of(0.03, 0.02, -0.02, sizes=(100, 100, 1600))) == []


@pytest.fixture
def deep(synthetic: ModuleType, tmp_path: Path) -> Callable[..., Report]:
    """Write a reference and a learner whose gain at 2, 4 and 8 hidden layers is given, spread over seeds."""

    def make(*means: float, spread: float = 0.01, failing: int = -1) -> Report:
        one = synthetic.TASKS[0]
        tasks = [replace(one, name=f"digits[hidden={depth}]") for depth in DEPTHS]

        def change(record: dict[str, Any], trace: Any, clock: Any) -> None:
            place, seed = [task.name for task in tasks].index(record["workload"]), record["seed"]
            gain = 0.0 if record["reference"] else means[place] + spread * (-1) ** seed * place
            record["result"]["test"] = 0.5 + gain + 0.02 * seed
            record["result"]["identity"]["data"] = "same"
            record["config"]["model"] = {"hidden": [32] * DEPTHS[place]}
            if seed == failing and place == 2 and not record["reference"]:
                record["status"] = "diverged"
            record["axes"]["task"] = "digits"

        return read([synthetic.write(tmp_path, synthetic.LEARNERS[:2], tasks, seeds=12, change=change)], "x")

    return make


def test_depth_is_an_axis_and_falling_behind_is_told(deep: Callable[..., Report]) -> None:
    """Zero, -.02 and -.04 at 2, 4 and 8 layers are -.02 a doubling, for each seed with its own slope."""
    report = deep(0.0, -0.02, -0.04)
    (by_depth,) = series(report.tables, LAYERS)
    (gain,) = gains(report, by_depth)
    assert gain.values == list(DEPTHS)
    assert gain.slopes.mean() == pytest.approx(-0.02)
    assert sorted({round(slope, 9) for slope in gain.slopes}) == [-0.03, -0.01]
    blocks = over_quantities(report)
    (said,) = [block for block in blocks if isinstance(block, Points)]
    assert said.sentences == [
        "Falls further behind, or loses its lead, as layers are added: backprop+sgd (−0.0200 a doubling)."
    ]
    assert "Over the number of hidden layers: digits" in markdown(blocks)


@pytest.mark.parametrize(("means", "words"), [((-0.04, -0.02, 0.0), "Gains on"), ((0.0, 0.0, 0.0), "Neither is shown")])
def test_a_gain_and_no_trend_are_told_apart(deep: Callable[..., Report], means: Any, words: str) -> None:
    (said,) = [block for block in over_quantities(deep(*means)) if isinstance(block, Points)]
    assert len(said.sentences) == 1
    assert said.sentences[0].startswith(words)


def test_a_failed_seed_leaves_no_slope(deep: Callable[..., Report]) -> None:
    """And no interval at that depth: the others are the luckier ones."""
    blocks = over_quantities(deep(0.0, -0.02, -0.04, failing=3))
    assert not [block for block in blocks if isinstance(block, Points)]
    (row,) = re.findall(r"^\| backprop\+sgd .*$", markdown(blocks), re.M)
    assert "1 failed" in row
    assert row.rstrip("| ").endswith("–")
