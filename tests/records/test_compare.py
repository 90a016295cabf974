import math

import numpy as np
import pytest

from altprop.errors import AltpropError
from altprop.records.compare import Verdict, compare, compare_means, differing_paths
from altprop.records.store import RunStore

SAME, WITHIN, DIFFERENT = Verdict


@pytest.fixture
def sides(tmp_path, put):
    """Returns a function that fills two stores with one learner's seeds and compares them."""

    def both(published, here, changes=None, label="backprop+adam"):
        stores = RunStore(tmp_path / "published"), RunStore(tmp_path / "here")
        for index, (store, tests) in enumerate(zip(stores, (published, here), strict=True)):
            for seed, test in enumerate(tests):
                extra = (changes or {}) if index else {}
                result = {"test": test, **extra.get("result", {})}
                put(store, f"{label}-{index}-{seed}", seed=seed, label=label, **{**extra, "result": result})
        return compare(stores[0].runs_dir, stores[1].runs_dir)

    return both


def verdicts(comparison):
    return {figure.figure: figure.verdict for figure in comparison.figures}


def test_equal_records_are_reproduced_bit_for_bit(sides):
    comparison = sides([0.9, 0.91, 0.92], [0.9, 0.91, 0.92])
    assert comparison.reproduced
    assert comparison.bitwise_expected
    assert all(run.bitwise for run in comparison.runs)
    assert set(verdicts(comparison)) == {
        "runs that ended well",
        "test accuracy",
        "flops to 50%",
        "flops to 90%",
        "flops",
    }
    assert set(verdicts(comparison).values()) == {SAME}
    table = comparison.table()
    assert "3 of 3 result blocks are equal bit for bit." in table
    assert table.rstrip().endswith("\nReproduced.")


def test_one_bit_is_enough_on_an_equal_fingerprint(sides):
    comparison = sides([0.9, 0.91, 0.92], [0.9, 0.91, math.nextafter(0.92, 1)])
    assert not comparison.reproduced
    assert [run.differing for run in comparison.runs] == [(), (), ("test",)]
    assert verdicts(comparison)["test accuracy"] is WITHIN
    assert "digits backprop+adam seed 2: test" in comparison.table()
    assert comparison.table().rstrip().endswith("NOT reproduced.")


def test_what_later_code_measures_in_addition_is_no_difference(sides):
    later = {"result": {"tests": {"test": {"accuracy": 0.9, "calibration_error": 0.1}}, "new": 1}}
    assert sides([0.9], [0.9], later).reproduced
    assert sides([0.9], [0.9], {"result": {"metric": "error"}}).runs[0].differing == ("metric",)


def test_in_other_company_seeds_need_not_have_the_same_bits(sides):
    comparison = sides([0.9, 0.91, 0.92], [0.9, 0.91, math.nextafter(0.92, 1)], {"measured": {"stacked": 12}})
    assert not comparison.bitwise_expected
    assert comparison.reproduced
    assert "seeds that ran as one 1 / 12" in comparison.table()


def test_on_another_machine_the_seeds_spread_decides(sides):
    elsewhere = {"provenance": {"cpu": "y"}}
    near = sides([0.90, 0.92, 0.94], [0.91, 0.92, 0.92], elsewhere)
    assert not near.bitwise_expected
    assert near.reproduced
    assert near.runs[0].obstacles == ("cpu x / y",)
    assert "equal bits cannot be expected: cpu x / y." in near.table()
    assert near.measured == ()
    far = sides([0.90, 0.92, 0.94], [0.70, 0.72, 0.74], elsewhere, label="other")
    assert not far.reproduced
    assert [figure.verdict for figure in far.figures if figure.label == "other"][1] is DIFFERENT


def test_missing_and_extra_runs_are_named_and_missing_ones_fail(sides):
    comparison = sides([0.9, 0.91, 0.92], [0.9, 0.91])
    assert comparison.missing == ("digits backprop+adam seed 2",)
    assert not comparison.reproduced
    other = sides([0.9], [0.9, 0.91, 0.92, 0.93], label="b")
    assert "digits b seed 3" in other.extra


def test_a_target_hit_by_none_here_is_different_and_a_diverged_run_never_hit(sides):
    comparison = sides([0.9] * 3, [0.9] * 3, {"result": {"hits": {"50%": None, "90%": None}}})
    assert verdicts(comparison)["flops to 50%"] is DIFFERENT
    assert verdicts(comparison)["flops to 90%"] is SAME
    diverged = sides([0.9] * 3, [0.9] * 3, {"status": "diverged"}, label="b")
    assert [run.differing for run in diverged.runs if run.label == "b"] == [("status",)] * 3
    changed = {figure.figure for figure in diverged.figures if figure.label == "b" and figure.verdict is DIFFERENT}
    assert changed == {"runs that ended well", "flops to 50%"}


def test_measured_numbers_have_their_own_spread_and_decide_nothing(sides):
    comparison = sides([0.9] * 3, [0.9] * 3, {"measured": {"cpu_seconds": 1.8, "live_bytes": 90_000}})
    assert {figure.figure: figure.verdict for figure in comparison.measured} == {
        "cpu seconds": WITHIN,
        "live bytes": DIFFERENT,
        "saved bytes": SAME,
    }
    assert comparison.reproduced
    assert "Measured, for information (spread at least 25%):" in comparison.table()


def test_cells_that_share_a_label_are_told_apart_by_configuration(tmp_path, put):
    published, here = RunStore(tmp_path / "published"), RunStore(tmp_path / "here")
    for store in (published, here):
        for index, lr in enumerate((0.1, 0.2)):
            task = {"path": str(store.runs_dir), "irrelevant": ["path"]}
            put(store, f"run-{index}-{store.runs_dir.name}", config={"algorithm": {"lr": lr}, "task": task},
                cell=str(index), result={"test": lr})  # fmt: skip
    comparison = compare(published.runs_dir, here.runs_dir)
    assert comparison.reproduced
    assert len(comparison.runs) == 2
    put(published, "third", config={"algorithm": {"lr": 0.3}})
    assert compare(published.runs_dir, here.runs_dir).missing == ("digits backprop+adam seed 0",)


def test_a_rerun_of_one_net_is_compared_with_that_net(tmp_path, put):
    """Among nets of several depths a workload is named with its depth, alone it is not."""
    published, here = RunStore(tmp_path / "published"), RunStore(tmp_path / "here")
    sources = {"sources": {"data": "a" * 64}}
    for depth, stores in ((2, (published,)), (4, (published, here))):
        for store in stores:
            config = {"task": {"name": "digits", "hidden": [32] * depth}}
            put(store, f"{depth}-{store.runs_dir.name}", config=config, result={"test": depth / 8}, provenance=sources)
    comparison = compare(published.runs_dir, here.runs_dir)
    assert [(run.workload, run.bitwise) for run in comparison.runs] == [("digits[hidden=4x32]", True)]
    assert comparison.missing == ("digits[hidden=2x32] backprop+adam seed 0",)
    assert not comparison.extra


def test_what_is_left_over_on_both_sides_is_no_pair(tmp_path, put):
    published, here = RunStore(tmp_path / "published"), RunStore(tmp_path / "here")
    for store, rates in ((published, (0.1, 0.2)), (here, (0.1, 0.3))):
        for rate in rates:
            put(store, f"{rate}-{store.runs_dir.name}", config={"algorithm": {"lr": rate}}, result={"test": rate})
    comparison = compare(published.runs_dir, here.runs_dir)
    assert [len(part) for part in (comparison.runs, comparison.missing, comparison.extra)] == [1, 1, 1]


def test_refused_cells_compare_by_their_status(tmp_path, make):
    stores = RunStore(tmp_path / "published"), RunStore(tmp_path / "here")
    for store in stores:
        record = {**make(status="refused"), "result": {"status": "refused", "metric": "accuracy"}, "measured": {}}
        store.commit("a", record, [], [], "")
    comparison = compare(*(store.runs_dir for store in stores))
    assert comparison.reproduced
    assert verdicts(comparison) == {"runs that ended well": SAME}


def test_nothing_in_common_is_not_a_reproduction(tmp_path, put):
    put(RunStore(tmp_path / "published"), "a")
    (tmp_path / "here").mkdir()
    assert not compare(tmp_path / "published", tmp_path / "here").reproduced
    assert not compare(tmp_path / "here", tmp_path / "here").reproduced
    with pytest.raises(AltpropError, match="no folder"):
        compare(tmp_path / "published", tmp_path / "nowhere")


def test_records_that_cannot_be_read_are_listed(sides, tmp_path):
    sides([0.9], [0.9])
    broken = tmp_path / "here" / "broken"
    broken.mkdir()
    (broken / "record.json").write_text("{")
    comparison = compare(tmp_path / "published", tmp_path / "here")
    assert "Unreadable:" in comparison.table()
    assert "broken/record.json cannot be read" in comparison.unreadable[0]


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        (math.nan, math.nan, []),
        (0.0, -0.0, [""]),
        (1, 1.0, [""]),
        (1, True, [""]),
        ([1, 2], [1], [""]),
        ({"a": {"b": [1, {"c": 2}]}}, {"a": {"b": [1, {"c": 3}]}}, ["a.b[1].c"]),
        ({"a": None}, {}, ["a"]),
        ({}, {"a": None}, ["a"]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
    ],
)
def test_paths_that_differ_in_bits(old, new, paths):
    assert differing_paths(old, new) == paths


@pytest.mark.parametrize(
    ("published", "here", "verdict"),
    [
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0 + 1e-9], WITHIN),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.01], DIFFERENT),
        ([1.0], [1.0], SAME),
        ([1.0], [1.1], DIFFERENT),
        ([1.0], [None], DIFFERENT),
        ([1.0] * 11, [1.0] * 9 + [None] * 2, WITHIN),
        ([1.0] * 11, [1.0] * 8 + [None] * 3, DIFFERENT),
        ([None, None], [None, None], SAME),
        ([None, 1.0, 2.0], [1.5, 1.0, 2.0], WITHIN),
        ([None, None, 2.0], [1.5, 1.0, 2.0], DIFFERENT),
        ([math.inf, 1.0, 2.0], [None, 1.0, 2.0], SAME),
        ([math.nan, 1.0], [math.nan, 1.0], SAME),
        ([None, None, 1.0], [None, None, None], WITHIN),
    ],
)
def test_verdicts_on_small_cases(published, here, verdict):
    assert compare_means(published, here)[1] is verdict


def test_spread_is_the_prediction_interval_of_the_textbook():
    # t(.975, 2) = 4.302653, s = 2, sqrt(1/3 + 1/3) = 0.816497: 4.302653 * 2 * 0.816497 = 7.026202, and 1e-6 * 5.
    assert compare_means([3.0, 5.0, 7.0], [0.0, 0.0, 0.0])[0] == pytest.approx(7.026202 + 5e-6, abs=2e-6)


def test_fresh_draws_of_the_same_learner_are_called_different_in_five_of_a_hundred():
    random = np.random.default_rng(0)
    draws = random.normal(0.9, 0.02, (4000, 2, 4))
    alarms = np.mean([compare_means(old.tolist(), new.tolist())[1] is DIFFERENT for old, new in draws])
    # 4000 draws of .05 have a standard error of .0034: four of them on either side.
    assert abs(alarms - 0.05) < 0.014
    shifted = np.mean([compare_means(old.tolist(), (new + 0.1).tolist())[1] is DIFFERENT for old, new in draws[:400]])
    assert shifted > 0.9
