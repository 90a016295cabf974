"""Tunings: trials, choice, fresh seeds."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import altprop
from altprop.errors import AltpropError
from altprop.harness import tuning
from altprop.harness.tuning import choose
from altprop.records.status import RunStatus
from altprop.records.store import RunStore

LABEL = "backprop+adam·hidden=[8]"
QUIET = "algorithm=backprop"


def records(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in folder.glob("*/record.json")]
    return sorted(found, key=lambda r: (r["role"], r.get("trial", {}).get("index", 0), r["seed"]))


@pytest.fixture
def tuned(run: Callable[..., Any], tmp_path: Path) -> list[dict[str, Any]]:
    run(QUIET, "+tune=4", "seeds=2")
    return records(tmp_path / "runs")


def test_a_study_runs_defaults_trials_and_the_choice_on_fresh_seeds(tuned: list[dict[str, Any]]) -> None:
    roles = {role: [(r["label"], r["seed"]) for r in tuned if r["role"] == role] for role in ("run", "trial", "tuned")}
    assert roles["run"] == [(LABEL, 0), (LABEL, 1)]
    assert roles["trial"] == [(LABEL, tuning.TRIAL_SEED)] * 4
    assert roles["tuned"] == [(f"{LABEL}·tuned", 0), (f"{LABEL}·tuned", 1)]
    assert all(r["status"] == "completed" for r in tuned)


def test_the_choice_has_the_best_validation_and_says_what_it_cost(tuned: list[dict[str, Any]]) -> None:
    trials = [r for r in tuned if r["role"] == "trial"]
    chosen = next(r for r in tuned if r["role"] == "tuned")
    values = [r["result"]["validation"] for r in trials]
    about = chosen["tuned"]
    assert len(set(values)) > 1
    assert about["index"] == values.index(max(values))
    assert about["validation"] == max(values)
    assert about["values"] == trials[about["index"]]["trial"]["values"]
    assert chosen["config"]["algorithm"]["optimizer"]["lr"] == about["values"]["optimizer.lr"]
    assert about["defaults"] == {"optimizer.lr": 0.001}
    assert about["flops"] == sum(r["result"]["ledger"]["flops"] for r in trials)
    assert (about["trials"], about["learner"]) == (4, LABEL)


def test_trials_never_see_the_test_set(tuned: list[dict[str, Any]]) -> None:
    for record in tuned:
        assert (record["result"]["test"] is None) == (record["role"] == "trial")
        assert (record["result"]["tests"] == {}) == (record["role"] == "trial")


def test_the_chosen_values_set_by_hand_give_the_same_result(
    run: Callable[..., Any], tuned: list[dict[str, Any]], tmp_path: Path
) -> None:
    chosen = next(r for r in tuned if r["role"] == "tuned" and r["seed"] == 1)
    words = next(word for word in chosen["rerun"].split() if word.startswith("optimizer.lr="))
    run(QUIET, words, "seeds=[1]", runs="by_hand")
    (by_hand,) = records(tmp_path / "by_hand")
    assert by_hand["result"] == chosen["result"]
    assert "tune" not in chosen["rerun"]


def test_a_second_time_nothing_runs_and_a_larger_study_keeps_the_trials(
    run: Callable[..., Any], tuned: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/record.json")}
    run(QUIET, "+tune=4", "seeds=2")
    run(QUIET, "+tune=6", "seeds=2")
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/record.json")}
    assert before.items() <= after.items()
    assert len([r for r in records(tmp_path / "runs") if r["role"] == "trial"]) == 6


def test_options_set_by_hand_are_not_searched(run: Callable[..., Any], tmp_path: Path) -> None:
    frame = run(QUIET, "optimizer.lr=0.02", "+tune=3")
    assert list(frame["role"]) == ["run"]
    assert list(frame["label"]) == ["backprop+adam(lr=0.02)·hidden=[8]"]


def test_a_learner_without_options_runs_with_its_defaults(run: Callable[..., Any]) -> None:
    assert list(run("algorithm=null", "+tune=3")["role"]) == ["run"]


def test_a_learner_that_cannot_run_is_refused_once(run: Callable[..., Any]) -> None:
    frame = run("algorithm=bptt", "+tune=3")
    assert list(frame["status"]) == ["refused"]


def test_failed_trials_are_never_chosen(run: Callable[..., Any], tmp_path: Path) -> None:
    run("algorithm=manual_backprop", "+tune=6", "+algorithm.search.lr={low:0.1,high:1e30,scale:log}")
    found = records(tmp_path / "runs")
    trials = [r for r in found if r["role"] == "trial"]
    assert {"non_finite", "completed"} <= {r["status"] for r in trials}
    chosen = next(r for r in found if r["role"] == "tuned")
    assert trials[chosen["tuned"]["index"]]["status"] == "completed"
    assert chosen["status"] == "completed"


def test_where_every_trial_fails_nothing_is_chosen(run: Callable[..., Any], tmp_path: Path) -> None:
    frame = run("algorithm=manual_backprop", "+tune=2", "algorithm.search.lr={low:1e30,high:1e32,scale:log}")
    assert sorted(set(frame["role"])) == ["run", "trial"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("+tune=0",), "tune must be a whole number of at least 1"),
        (("+tune=2", "task.validation=none"), "chooses on validation data"),
        (("+tune=2", "seeds=[10000]"), "seed 10000 is a seed of trials"),
        (("+tune=2", "tune_seeds=3", "seeds=[10002]"), "seed 10002 is a seed of trials"),
        (("+tune=2", "tune_seeds=0"), "tune_seeds must be a whole number of at least 1"),
        (
            ("+tune=2", "+optimizer.search.momentm={low:0,high:1}"),
            "optimizer.momentm: there is no such option",
        ),
        (("+tune=2", "optimizer.search.lr={low:1,high:1}"), "low must be a number below high"),
    ],
)
def test_a_mistake_says_what_to_do(run: Callable[..., Any], overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(AltpropError, match=words):
        run(QUIET, *overrides)


def test_trials_that_another_worker_has_are_waited_for(
    run: Callable[..., Any], tuned: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = next(r for r in tuned if r["role"] == "trial")
    store = RunStore(tmp_path / "runs")
    (store.path(trial["key"]) / "record.json").rename(tmp_path / "kept")
    lease = store.claim(trial["key"])
    assert lease is not None
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        (tmp_path / "kept").rename(store.path(trial["key"]) / "record.json")  # the other worker commits
        lease.release()

    monkeypatch.setattr(tuning.time, "sleep", wait)
    frame = run(QUIET, "+tune=4", "seeds=2")
    assert len(waits) == 1
    assert len(frame) == 8


def test_the_python_door_and_the_columns(run: Callable[..., Any], tuned: list[dict[str, Any]], tmp_path: Path) -> None:
    frame = altprop.load(tmp_path / "runs")
    assert sorted(frame[frame["role"] == "trial"]["trial"]) == [0, 1, 2, 3]
    assert frame[frame["role"] != "trial"]["trial"].isna().all()


def test_several_seeds_a_trial_are_judged_by_their_mean(
    run: Callable[..., Any], tuned: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The first seed's trials are those of a tuning with one; the choice says how many seeds it was made on."""
    frame = run(QUIET, "+tune=4", "tune_seeds=3", "seeds=2")
    found = records(tmp_path / "runs")
    trials = [r for r in found if r["role"] == "trial"]
    assert [(r["trial"]["index"], r["seed"]) for r in trials] == [(i, 10_000 + k) for i in range(4) for k in range(3)]
    assert {r["key"] for r in tuned if r["role"] == "trial"} <= {r["key"] for r in trials}
    means = [sum(r["result"]["validation"] for r in trials[3 * i : 3 * i + 3]) / 3 for i in range(4)]
    about = next(r for r in found if r["role"] == "tuned" and "seeds" in r["tuned"])["tuned"]
    assert (about["trials"], about["seeds"], about["index"]) == (4, 3, means.index(max(means)))
    assert about["validation"] == pytest.approx(max(means), rel=1e-15)
    assert about["flops"] == sum(r["result"]["ledger"]["flops"] for r in trials)
    assert len(frame) == 2 + 12 + 2
    assert "tune" not in next(r["rerun"] for r in found if r["role"] == "tuned")


def test_a_quick_look_is_a_tenth_of_a_study(run: Callable[..., Any], tmp_path: Path) -> None:
    frame = run("budget.currency=steps", "budget.amount=100", "+tune=4", "tune_seeds=3", "seeds=12", "quick=true")
    assert frame["role"].value_counts().to_dict() == {"run": 3, "trial": 2, "tuned": 3}
    assert set(frame["budget_amount"]) == {10.0}
    assert set(frame["workload"]) == {"digits[10 steps, quick]"}
    assert all("quick=true" in record["rerun"] for record in records(tmp_path / "runs") if record["role"] == "run")


def test_a_trial_fails_with_one_of_its_seeds_and_the_mean_decides() -> None:
    def seeds(*values: float) -> Any:
        return [
            SimpleNamespace(
                status=RunStatus.DIVERGED if value > 1 else RunStatus.COMPLETED,
                result={"validation": value, "higher_is_better": True},
                data={},
            )
            for value in values
        ]

    assert choose([seeds(0.99, 2), seeds(0.9, 0.2), seeds(0.6, 0.7), seeds(0.5, 0.5)]) == 2
    assert choose([seeds(2, 2), seeds(0.1, 2)]) is None


@pytest.mark.parametrize(("higher", "best"), [(True, 1), (False, 2)])
def test_the_best_trial_is_the_lowest_where_lower_is_better(higher: bool, best: int) -> None:
    records: Any = [
        [SimpleNamespace(status=RunStatus.COMPLETED, result={"validation": value, "higher_is_better": higher}, data={})]
        for value in (0.5, 0.9, 0.1, 0.9)
    ]
    assert choose(records) == best
