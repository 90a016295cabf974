"""Section 6 and what it shares with the verdict: tuned beside default, best of k, flips, and who may be first."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from altprop.report.across import across, stratum
from altprop.report.build import build
from altprop.report.canvas import text_width
from altprop.report.draw import WIDE
from altprop.report.model import Report, Table
from altprop.report.panel import LABEL
from altprop.report.reading import read
from altprop.report.results import rows
from altprop.report.robustness import beside, caveats, searched, spreads, steps_of_k
from altprop.report.robustness_figures import _legend
from altprop.report.statistics import interquartile_mean
from altprop.report.target import outcome, time_to_target
from altprop.report.times import TargetTimes, ranking_flips, target_times
from altprop.report.verdict import conclude

Tune = Callable[..., Path]


@pytest.fixture(scope="module")
def report(tuned: Path) -> Report:
    return read([tuned], "x")


def table(report: Report, workload: str) -> Table:
    return next(one for one in report.tables if one.workload == workload)


def trials_of(folder: Path, workload: str, label: str) -> list[dict[str, Any]]:
    """The trials as they stand on the disk, in their order."""
    found = [json.loads(path.read_text()) for path in folder.glob("*/record.json")]
    mine = [one for one in found if (one.get("role"), one["workload"], one["label"]) == ("trial", workload, label)]
    return sorted(mine, key=lambda one: one["trial"]["index"])


def test_trials_are_rows_of_no_table(report: Report) -> None:
    assert all(run.seed < 10_000 for one in report.tables for runs in one.runs.values() for run in runs)
    # dfa is refused on adding.
    assert [[trial.index for trial in tuning.trials] for tuning in report.tunings] == [list(range(8))] * 5


def test_a_newer_trial_supersedes_the_older_one(synthetic: ModuleType, tmp_path: Path) -> None:
    """Trial 3 was run again with other code: one of the two counts, and the older one is listed as left out."""
    learner, task = synthetic.SEARCHED[0], synthetic.TASKS[0]
    synthetic.tune(tmp_path, [learner], [task], 4, 2)
    again = synthetic.trial(task, learner, 3)
    older = again["record"]["key"]
    again["record"] |= {"key": "f" * 32}
    again["record"]["measured"]["finished"] = "2030-01-01T00:00:00Z"
    synthetic.store(tmp_path, again)
    made = read([tmp_path], "x")
    (tuning,) = made.tunings
    assert [trial.index for trial in tuning.trials] == [0, 1, 2, 3]
    assert tuning.trials[3].run.record.key == "f" * 32
    assert [record.key for record in made.superseded] == [older]


@pytest.mark.parametrize("workload", ["digits", "adding"])
def test_tuned_beside_default_is_what_the_records_say(report: Report, tuned: Path, workload: str) -> None:
    one = table(report, workload)
    found = {row.learner.name: row for row in beside(report, one)}
    assert set(found) == {f"{name}·tuned" for name in ("backprop+adam", "backprop+sgd", "dfa+adam")} - (
        {"dfa+adam·tuned"} if workload == "adding" else set()
    )
    for name, row in found.items():
        plain = name.removesuffix("·tuned")
        tried = trials_of(tuned, workload, plain)
        before, after = ([run.value("test") for run in one.tried(who)] for who in (plain, name))
        assert row.default is not None
        assert row.default.name == plain
        assert row.before == pytest.approx(np.median(before))
        assert row.after == pytest.approx(np.median(after))
        assert row.difference is not None
        assert row.difference.estimate == pytest.approx(np.mean(np.subtract(after, before)))  # in the metric's unit
        assert row.seeds == 4
        assert row.failed == sum(run["status"] != "completed" for run in tried)
        spent = sum(run["result"]["ledger"]["flops"] for run in tried)
        assert row.tuned.flops == spent
        assert row.multiple == pytest.approx(spent / np.median([run.spent("flops") for run in one.tried(name)]))
        assert row.flags == ()
    assert found["backprop+adam·tuned"].fair is None  # it is the tuned reference
    fair = found["backprop+sgd·tuned"].fair
    assert fair is not None
    assert fair.family == len(found) - 1


def test_best_of_k_is_over_the_trials_validation(report: Report, tuned: Path) -> None:
    """The curve that the page draws, against all subsets of the trials on the disk."""
    for workload, sign in (("digits", 1), ("adding", -1)):
        found = searched(report, table(report, workload))
        assert found
        for one in found:
            tried = trials_of(tuned, workload, one.learner.name)
            scores = [sign * r["result"]["validation"] if r["status"] == "completed" else -math.inf for r in tried]
            assert one.curves.failed == sum(map(math.isinf, scores))
            for k in range(1, 9):
                best = [max(subset) for subset in itertools.combinations(scores, k)]
                expected = -math.inf if -math.inf in best else float(np.mean(best))
                assert one.curves.expected[k - 1] == pytest.approx(expected)
        assert steps_of_k(found) == [1, 2, 4, 8]


def test_spread_counts_failures_and_ranks_them_worst(synthetic: ModuleType, tmp_path: Path) -> None:
    weak = synthetic.Learner("weak", statuses={"*": {0: "diverged", 1: "failed"}})
    for task in (synthetic.TASKS[0], synthetic.TASKS[2]):
        runs = synthetic.write(tmp_path / task.name, [synthetic.LEARNERS[0], weak], [task], 6)
        made = read([runs], "x")
        found = {one.learner.name: one for one in spreads(made, made.tables[0])}
        spread, whole = found["weak"], found["backprop+adam"]
        values = sorted(run.value("test") or 0.0 for run in made.tables[0].tried("weak") if run.ended)
        assert (spread.n, spread.failed, spread.rate.estimate) == (6, 2, 2 / 6)
        assert spread.worst == -math.inf
        assert spread.best == (max if task.higher else min)(values)
        assert spread.quartiles is not None
        assert spread.quartiles[0] == -math.inf
        assert math.isfinite(spread.quartiles[1])
        mine = sorted(run.value("test") or 0.0 for run in made.tables[0].tried("backprop+adam"))
        assert whole.median == pytest.approx(np.median(mine))
        assert sorted(whole.quartiles or ()) == pytest.approx(np.quantile(mine, [0.25, 0.75]))


def retuned(synthetic: ModuleType, folder: Path, change: Callable[[dict[str, Any]], None], **more: Any) -> Any:
    """The row of tuned backprop+adam on digits where the records were changed before they were written."""
    synthetic.tune(folder, synthetic.SEARCHED[:1], synthetic.TASKS[:1], change=lambda d, *_: change(d), **more)
    made = read([folder], "x")
    return beside(made, made.tables[0])[0]


@pytest.mark.parametrize(
    ("below", "above", "edge"),
    [(1e2, 1.1, "upper"), (1e2, 10.0, None), (1.1, 1e2, "lower"), (1e3, 1e2, None), (1e2, 1.0, "upper")],
)
def test_a_choice_at_the_edge_is_flagged(
    below: float, above: float, edge: str | None, synthetic: ModuleType, tmp_path: Path
) -> None:
    """Within 5 % of a logarithmic range; on a linear scale 1 / 1001 of it would be an edge, and 1 / 1.1 none."""
    chosen = retuned(synthetic, tmp_path / "first", lambda data: None).tuned.values["optimizer.lr"]

    def change(data: dict[str, Any]) -> None:
        for block in (data.get("trial"), data.get("tuned")):
            if block:
                space = {**block["space"]["optimizer.lr"], "low": chosen / below, "high": chosen * above}
                block["space"] = {"optimizer.lr": space}

    expected = () if edge is None else (f"optimizer.lr at the {edge} edge of its space",)
    assert retuned(synthetic, tmp_path / "second", change).flags == expected


def test_a_choice_that_is_not_the_best_is_flagged(synthetic: ModuleType, tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        if "tuned" in data:
            data["tuned"]["index"] = (data["tuned"]["index"] + 1) % 16

    assert "the chosen trial is not the best on validation" in retuned(synthetic, tmp_path, change).flags


def test_a_seed_that_a_trial_saw_is_flagged(synthetic: ModuleType, tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        if data.get("role") == "trial":
            data["seed"] = 1

    assert "seed 1 was also a trial's: not fresh" in retuned(synthetic, tmp_path, change).flags


def test_missing_trials_are_flagged(synthetic: ModuleType, tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        if "tuned" in data:
            data["tuned"]["trials"] = 32

    row = retuned(synthetic, tmp_path, change)
    assert "16 of 32 trials among the records" in row.flags
    assert row.failed is None


def test_seeds_of_one_trial_are_one_trial_of_their_mean(synthetic: ModuleType, tmp_path: Path) -> None:
    learner, task = synthetic.SEARCHED[0], synthetic.TASKS[0]

    def three(data: dict[str, Any], *_: Any) -> None:
        if "tuned" in data:
            data["tuned"]["seeds"] = 3

    synthetic.tune(tmp_path, [learner], [task], 4, 2, three)
    for index in range(4):
        for seed in (10_100, 10_200):
            again = synthetic.trial(task, learner, index, seed)
            if (index, seed) == (2, 10_200):
                again["record"]["status"] = "diverged"
            synthetic.store(tmp_path, again)
    made = read([tmp_path], "x")
    (tuning,), (one,) = made.tunings, made.tables
    assert [(trial.index, [run.seed for run in trial.runs]) for trial in tuning.trials] == [
        (index, [10_000, 10_100, 10_200]) for index in range(4)
    ]
    expected = []
    for trial in tuning.trials:
        ended = all(run.status == "completed" for run in trial.runs)
        expected.append(np.mean([run.value("validation") for run in trial.runs]) if ended else -math.inf)
    (found,), (row,) = searched(made, one), beside(made, one)
    assert found.curves.expected[-1] == pytest.approx(max(expected))
    assert row.failed == sum(map(math.isinf, expected)) >= 1
    assert "Tuned with 4 trials of 3 seeds each" in " ".join(caveats(made, one))
    page = build([tmp_path], tmp_path / "out").read_text()
    assert "4 × 3 seeds" in page

    for path in tmp_path.glob("*/record.json"):
        data = json.loads(path.read_text())
        data.get("tuned", {})["seeds"] = 4
        path.write_text(json.dumps(data))
    made = read([tmp_path], "x")
    assert "0 of 4 trials among the records" in beside(made, made.tables[0])[0].flags


def test_caveats_say_who_was_tuned(report: Report, synthetic: ModuleType, tmp_path: Path) -> None:
    said = " ".join(caveats(report, table(report, "digits")))
    assert "Tuned with 8 trials each: an equal number for 3 tuned learners." in said
    assert "Default beside tuned: each tuned learner stands right behind itself at its defaults." in said
    assert "Differences and tests above are against the reference at its defaults" in said

    def unequal(data: dict[str, Any], *_: Any) -> None:
        if data.get("label") == "backprop+sgd·tuned":
            data["tuned"]["trials"] = 4

    made = read([synthetic.tune(tmp_path, synthetic.SEARCHED[:2], synthetic.TASKS[:1], 8, 2, unequal)], "x")
    assert "unequal numbers of trials: backprop+adam·tuned 8, backprop+sgd·tuned 4" in " ".join(
        caveats(made, made.tables[0])
    )


def test_who_fails_three_seeds_in_ten_is_never_first_on_time_to_target() -> None:
    """2,000 random tables: a planted learner hits early or fails, however the others, which always hit, are slow.

    It breaks off in any way that is a failure, at any time; n is 3 to 30 and 30 % of them, rounded up, fail.
    """
    rng = np.random.default_rng(0)
    broken = ("diverged", "non_finite", "failed", "out_of_memory")
    naive = 0
    for _ in range(2000):
        n = int(rng.integers(3, 31))
        horizon = 10 ** rng.uniform(0, 12)
        failing = rng.permutation(n) < math.ceil(0.3 * n)
        quick = rng.uniform(0, 0.05, n) * horizon
        planted = [
            outcome(str(rng.choice(broken)), None, float(rng.uniform(0, horizon)))
            if fails
            else outcome("completed", (0.0, float(time)), horizon)
            for fails, time in zip(failing, quick, strict=True)
        ]
        learners = {"planted": planted}
        for index in range(int(rng.integers(1, 5))):
            times = rng.uniform(0.5, 1.0, n) * horizon
            learners[f"reliable {index}"] = [outcome("completed", (0.0, float(t)), horizon) for t in times]
        made = {name: time_to_target([o for o in runs if o is not None], horizon) for name, runs in learners.items()}
        places = TargetTimes("90%", 0.9, horizon, made).places
        assert places["planted"] == len(learners)
        naive += made["planted"].mean < min(one.mean for name, one in made.items() if name != "planted")
    assert naive > 500  # by speed alone it would often be first: the order that was tested is not the only one


def test_the_planted_learner_on_the_page(synthetic: ModuleType, tmp_path: Path) -> None:
    """From records to places, in every currency: 3 of 10 seeds diverge, the others are six times as fast."""
    planted = synthetic.Learner("planted", speed=30, statuses={"*": dict.fromkeys((1, 4, 8), "diverged")})
    slow = synthetic.Learner("backprop", "adam", 1.0, 5, reference=True)

    def stop(data: dict[str, Any], *_: Any) -> None:
        if data["status"] == "diverged":  # The synthetic runs diverge late: these do before their first hit.
            data["result"]["hits"] = dict.fromkeys(data["result"]["hits"])

    made = read([synthetic.write(tmp_path, [planted, slow], synthetic.TASKS[:1], 10, change=stop)], "x")
    for currency in ("flops", "steps", "forward_equivalents", "cpu_seconds"):
        found = next(row for row in target_times(made.tables[0], currency) if row.target == "90%")
        assert found.learners["planted"].hits == 7
        assert found.learners["planted"].n == 10
        assert found.learners["planted"].median < found.learners["backprop+adam"].median
        assert found.places == {"backprop+adam": 1, "planted": 2}


def cheap_and_dear(synthetic: ModuleType, folder: Path) -> Report:
    quick = synthetic.Learner("many_cheap_steps", speed=9, step_flops=1e5)
    slow = synthetic.Learner("few_dear_steps", speed=5, step_flops=1e8, reference=True)
    return read([synthetic.write(folder, [quick, slow], synthetic.TASKS[:1])], "x")


def test_a_flip_reaches_the_verdict_and_the_page(synthetic: ModuleType, tmp_path: Path) -> None:
    made = cheap_and_dear(synthetic, tmp_path / "runs")
    one = made.tables[0]
    sentence = (
        "The ranking by time to the 90 % target flips between currencies: many_cheap_steps is ahead of few_dear_steps "
        "in FLOPs and behind in steps."
    )
    assert sentence in conclude(made, one, rows(made, one), []).caveats
    page = build([tmp_path / "runs"], tmp_path / "out").read_text(encoding="utf-8")
    assert sentence in page


def test_no_flip_is_said_where_all_currencies_agree(synthetic: ModuleType, tmp_path: Path) -> None:
    runs = synthetic.write(tmp_path, [synthetic.LEARNERS[0], synthetic.Learner("slow", speed=5)], synthetic.TASKS[:1])
    made = read([runs], "x")
    assert ranking_flips(made.tables[0], "90%") == []
    assert not any("flips" in one for one in conclude(made, made.tables[0], rows(made, made.tables[0]), []).caveats)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ({"flops": "ab", "steps": "ab"}, []),
        ({"flops": "ab", "steps": "ba"}, [("a", "b", "flops", "steps")]),
        ({"flops": "=", "steps": "ba", "forward_equivalents": "ab"}, [("b", "a", "steps", "forward_equivalents")]),
        ({"flops": "=", "steps": "ba"}, []),
        ({"flops": "a", "steps": "ba", "forward_equivalents": "ab"}, [("b", "a", "steps", "forward_equivalents")]),
        ({"flops": "ab", "cpu_seconds": "ba"}, []),  # seconds that no timing pass vouches for
    ],
)
def test_flips_between_any_two_currencies(
    places: dict[str, str], expected: list[Any], report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tie in one currency hides no flip between two others; a place that is missing in one is no error."""

    class Fixed:
        target = "90%"

        def __init__(self, order: str) -> None:
            self.places = {"a": 1, "b": 1} if order == "=" else {name: i for i, name in enumerate(order, start=1)}

    monkeypatch.setattr("altprop.report.times.currencies", lambda table: list(places))
    monkeypatch.setattr("altprop.report.times.target_times", lambda table, currency: [Fixed(places[currency])])
    assert ranking_flips(table(report, "digits"), "90%") == expected


def test_ranks_without_one_task_are_the_enumeration(synthetic: ModuleType, tmp_path: Path) -> None:
    """Best and worst rank of every learner over all tasks and over all but one, computed again from the shares."""
    strengths = {"a": (1.0, 0.2, 0.6), "b": (0.5, 0.9, 0.5), "c": (0.7, 0.6, 0.1)}
    folder = tmp_path / "runs"
    for place, task in enumerate(synthetic.TASKS):
        learners = [
            synthetic.Learner(name, share=share[place], reference=name == "a") for name, share in strengths.items()
        ]
        synthetic.write(folder, learners, [task], 4)
    made = read([folder], "x")
    found = across(made)
    assert found is not None

    def ranking(tables: list[Table]) -> list[str]:
        pooled = {n: float(interquartile_mean(np.concatenate([stratum([t], n) for t in tables]))) for n in strengths}
        return sorted(pooled, key=lambda name: -pooled[name])

    left = [ranking([t for t in made.tables if t is not out]) for out in made.tables]
    assert len({tuple(order) for order in left}) > 1  # the order hangs on a task: the fixture can tell
    for row in found.pooled:
        name = row.learner.name
        assert row.rank == ranking(made.tables).index(name) + 1
        places = [order.index(name) + 1 for order in left]
        assert row.ranks == (min(places), max(places))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_keys_of_a_sensitivity_plot_stand_apart_and_inside(count: int, synthetic: ModuleType, tmp_path: Path) -> None:
    """Above the panel, none beyond the figure, none over another, every name whole that fits."""
    learners = [
        replace(synthetic.SEARCHED[0], label=f"learner_with_a_name_{'x' * i}", reference=i == 0) for i in range(count)
    ]
    made = read([synthetic.tune(tmp_path, learners, synthetic.TASKS[:1], 4, 2)], "x")
    chosen = [one.learner for one in searched(made, made.tables[0])]
    placed = _legend(chosen, 46.0)
    assert [(learner, text) for learner, _, _, text in placed] == [(one, one.name) for one in chosen]
    ends: dict[int, float] = {}
    for _, row, left, text in placed:
        assert left >= ends.get(row, 46.0)
        ends[row] = left + 24 + text_width(text, LABEL, bold=True)
        assert ends[row] <= WIDE
    assert sorted(ends) == list(range(len(ends)))


SOURCE = """
import os, pathlib, sys
turned, folder, out = sys.argv[1] == "turned", sys.argv[2], sys.argv[3]
for module, name in ((os, "listdir"), (pathlib.Path, "iterdir"), (pathlib.Path, "glob"), (pathlib.Path, "rglob")):
    def given(*args, _real=getattr(module, name), **more):
        found = sorted(_real(*args, **more), reverse=turned)
        return found if _real is os.listdir else iter(found)
    setattr(module, name, given)
scan = os.scandir
class Scan:
    def __init__(self, *args):
        with scan(*args) as found:
            self.found = iter(sorted(found, key=lambda entry: entry.name, reverse=turned))
    def __iter__(self): return self.found
    def __next__(self): return next(self.found)
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def close(self): pass
os.scandir = Scan
from altprop.report.build import build
build([folder], out, "Tuned")
"""


def test_two_processes_write_the_same_bytes(tuned: Path, tmp_path: Path) -> None:
    """Trials, tuned and default runs; other hashes of strings, and every listing of the disk in the opposite order."""
    made = []
    for seed, order in (("0", "straight"), ("12345", "turned")):
        out = tmp_path / order
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        subprocess.run([sys.executable, "-c", SOURCE, order, str(tuned), str(out)], check=True, env=environment)
        made.append({path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()})
    assert list(made[0]) == list(made[1])
    assert [name for name in made[0] if made[0][name] != made[1][name]] == []
    assert Path("report.html") in made[0]
