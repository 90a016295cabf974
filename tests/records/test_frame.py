import math

import pandas as pd
import pytest

from altprop.errors import AltpropError
from altprop.records.frame import RUN_COLUMNS, TRACE_COLUMNS, load, load_trace
from altprop.records.store import RunStore

PROMISED = [
    "key",
    "label",
    "algorithm",
    "optimizer",
    "dropout",
    "task",
    "model",
    "seed",
    "status",
    "reason",
    "metric",
    "test",
    "validation",
    "steps",
    "samples",
    "forwards",
    "backwards",
    "hvps",
    "evaluations",
    "flops",
    "saved_bytes",
    "live_bytes",
    "cpu_seconds",
    "wall_seconds",
]
PROMISED_OF_TRACES = [
    "key",
    "label",
    "workload",
    "seed",
    "kind",
    "split",
    "step",
    "fraction",
    "flops",
    "cpu_seconds",
    "layer",
    "name",
    "value",
]


def test_the_promised_columns_come_first_and_in_order(store, put):
    put(store, "a")
    assert list(load(store.runs_dir).columns)[: len(PROMISED)] == PROMISED
    assert list(load_trace(store.runs_dir).columns)[: len(PROMISED_OF_TRACES)] == PROMISED_OF_TRACES


def test_a_run_is_a_row_with_the_values_of_its_record(store, put):
    put(store, "a")
    frame = load(store.runs_dir)
    row = frame.iloc[0]
    assert len(frame) == 1
    assert (row.key, row.label, row.algorithm, row.optimizer, row.dropout, row.task, row.model) == (
        "a", "backprop+adam", "backprop", "adam", "none", "digits", "mlp",
    )  # fmt: skip
    assert (row.seed, row.status, row.metric, row.test, row.validation) == (0, "completed", "accuracy", 0.94, 0.93)
    assert (row.steps, row.samples, row.forwards, row.backwards, row.hvps, row.flops) == (100, 6400, 100, 100, 0, 2e7)
    assert (row.saved_bytes, row.live_bytes, row.cpu_seconds, row.wall_seconds) == (4096, 9000, 1.5, 1.6)
    assert (row.workload, row.cell, row.test_best, row.reference, row.control) == (
        "digits",
        "c" * 16,
        0.95,
        True,
        False,
    )
    assert (row.budget_currency, row.budget_amount, row.chance, row.fingerprint) == ("flops", 2e7, 0.1, "f")
    assert row.hits == {"50%": {"step": [0, 10], "flops": [0.0, 1e6]}, "90%": None}
    assert row.folder == str(store.path("a"))
    assert pd.isna(row.evaluations)


def test_types_do_not_depend_on_what_is_missing(tmp_path, put, make):
    full, partial = RunStore(tmp_path / "full"), RunStore(tmp_path / "partial")
    put(full, "a")
    record = {**make(status="refused"), "result": {"status": "refused", "metric": "accuracy"}, "measured": {}}
    partial.commit("a", record, [], [], "")
    empty = tmp_path / "empty"
    empty.mkdir()
    types = load(full.runs_dir).dtypes
    assert types.equals(load(partial.runs_dir).dtypes)
    assert types.equals(load(empty).dtypes)
    assert (types["seed"], types["steps"], types["test"], types["reference"]) == (
        "Int64",
        "Int64",
        "float64",
        "boolean",
    )
    row = load(partial.runs_dir).iloc[0]
    assert math.isnan(row.test)
    assert row.steps is pd.NA
    trace_types = load_trace(full.runs_dir).dtypes
    assert trace_types.equals(load_trace(partial.runs_dir).dtypes)
    assert trace_types.equals(load_trace(empty).dtypes)


def test_no_records_still_have_columns(tmp_path):
    assert list(load(tmp_path).columns) == list(RUN_COLUMNS)
    assert list(load_trace(tmp_path).columns) == list(TRACE_COLUMNS)
    assert len(load(tmp_path)) == len(load_trace(tmp_path)) == 0
    assert load(tmp_path).attrs["unreadable"] == []


@pytest.mark.parametrize("read", [load, load_trace])
def test_a_missing_folder_is_named(tmp_path, read):
    with pytest.raises(AltpropError, match=r"there is no folder of records '.*nowhere'"):
        read([tmp_path, tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        ("completed", "diverged", "second"),
        ("completed", "failed", "first"),
        ("failed", "completed", "second"),
        ("failed", "interrupted", "first"),
    ],
)
def test_of_two_records_of_one_key_the_later_wins_only_if_final(tmp_path, put, first, second, winner):
    one, two = RunStore(tmp_path / "one"), RunStore(tmp_path / "two")
    put(one, "a", status=first, reason="first")
    put(two, "a", status=second, reason="second")
    put(two, "b", seed=1)
    frame = load([one.runs_dir, str(two.runs_dir)])
    assert frame.reason.tolist()[0] == winner
    assert frame.key.tolist() == ["a", "b"]
    assert load_trace([one.runs_dir, two.runs_dir]).key.unique().tolist() == ["a", "b"]


def test_rows_are_ordered_by_workload_label_and_seed_as_a_number(store, put):
    for key, changes in {
        "a": {"seed": 10}, "b": {"seed": 9}, "c": {"label": "a"}, "d": {"workload": "aaa", "label": "z"},
    }.items():  # fmt: skip
        put(store, key, **changes)
    assert load(store.runs_dir).key.tolist() == ["d", "c", "b", "a"]


def test_an_unreadable_record_is_passed_over_with_a_warning(store, put):
    put(store, "a")
    put(store, "b")
    (store.path("b") / "record.json").write_text("{")
    frame = load(store.runs_dir)
    assert frame.key.tolist() == ["a"]
    (warning,) = frame.attrs["unreadable"]
    assert "b/record.json cannot be read" in warning
    (store.path("a") / "trace.jsonl").write_text("{}")
    trace = load_trace(store.runs_dir)
    assert len(trace) == 0
    assert len(trace.attrs["unreadable"]) == 2


def test_numbers_that_are_none_do_not_break_the_frame(store, put):
    put(store, "a", result={"test": "broken", "own_model": 3, "parameters": math.inf}, measured={"live_bytes": 10.6})
    row = load(store.runs_dir).iloc[0]
    assert math.isnan(row.test)
    assert row.own_model is pd.NA
    assert row.parameters is pd.NA
    assert row.live_bytes == 11


def test_one_runs_folder_is_a_source_too(store, put, monkeypatch):
    put(store, "a")
    put(store, "b")
    assert load(store.path("b")).key.tolist() == ["b"]
    monkeypatch.chdir(store.path("a"))
    assert load(".").key.tolist() == ["a"]


def test_what_lies_beside_the_runs_is_ignored(store, put):
    put(store, "a")
    (store.runs_dir / "notes.txt").write_text("x")
    (store.runs_dir / "report").mkdir()
    store.claim("running")
    assert load(store.runs_dir).key.tolist() == store.keys() == ["a"]


def test_traces_in_long_form(store, put):
    put(store, "a")
    frame = load_trace(store.runs_dir)
    rows = frame.astype(object).where(frame.notna(), None)
    found = {
        (row.kind, row.split, row.step, row.layer, row["name"]): (row.value, row.text) for _, row in rows.iterrows()
    }
    assert found == {
        ("evaluation", "validation", 0, None, "accuracy"): (0.1, None),
        ("evaluation", "validation", 0, None, "loss"): (math.inf, None),
        ("train", None, 50, None, "norm"): (2.0, None),
        ("train", None, 50, None, "norm_mean"): (3.0, None),
        ("train", None, 50, None, "loss"): (0.7, None),
        ("probe", None, 50, None, "alignment"): (0.9, None),
        ("probe", None, 50, None, "alignment_low"): (None, None),
        ("probe", None, 50, None, "gradient_verdict"): (None, "healthy"),
        ("probe", None, 50, "blocks.0", "dead_fraction"): (0.25, None),
        ("probe", None, 75, None, "note"): (None, "no update"),
        ("evaluation", "test", 100, None, "accuracy"): (0.94, None),
    }
    assert len(frame) == len(found)
    last = frame.iloc[-1]
    assert (last.flops, last.samples, last.grid, last.fraction, last.seed) == (2e7, 6400, 1.0, 1.0, 0)


def test_seconds_are_interpolated_between_the_measured_points(store, put):
    steps = [0, 5, 10, 25, 40, 50]
    trace = [{"kind": "train", "step": step, "fraction": 0.0, "loss": 1.0} for step in steps]
    put(store, "a", trace=trace, clock=[{"step": 10, "cpu_seconds": 1.0}, {"step": 40, "cpu_seconds": 7.0}])
    assert load_trace(store.runs_dir).cpu_seconds.tolist()[:-1] == [0.0, 0.5, 1.0, 4.0, 7.0]
    assert math.isnan(load_trace(store.runs_dir).cpu_seconds.tolist()[-1])
    put(store, "a", trace=trace[:2], clock=[])
    assert load_trace(store.runs_dir).cpu_seconds.tolist()[0] == 0.0


def test_a_workload_on_several_data_sets_is_as_many_workloads(store, put):
    for index, (data, seed) in enumerate([("a" * 64, 0), ("a" * 64, 1), ("b" * 64, 0), ("unavailable", 0), ("", 0)]):
        put(store, f"run-{index}", seed=seed, workload="csv", provenance={"sources": {"data": data}})
        put(store, f"one-{index}", seed=seed, workload="iris", provenance={"sources": {"data": data and "c" * 64}})
    put(store, "old", workload="csv")
    frame = load(store.runs_dir)
    found = dict(zip(frame["key"], frame["workload"], strict=True))
    assert [found[f"run-{index}"] for index in range(5)] == [
        "csv (data aaaaaaaa)",
        "csv (data aaaaaaaa)",
        "csv (data bbbbbbbb)",
        "csv",
        "csv",
    ]
    assert {found[f"one-{index}"] for index in range(5)} == {"iris"}
    assert found["old"] == "csv"


def test_data_sets_of_one_workload_are_told_apart_by_the_options_of_its_task(store, put):
    for data, length in (("a", 50), ("b", 100)):
        task = {"name": "adding", "length": length, "samples": 9, "path": data, "irrelevant": ["path"]}
        put(store, data, workload="adding", config={"task": task}, provenance={"sources": {"data": data * 64}})
    assert sorted(load(store.runs_dir)["workload"]) == ["adding[length=100]", "adding[length=50]"]


def test_workloads_of_other_rows_are_told_apart_by_how_many_were_kept(store, put):
    for name, kept, smoothing in (("a", 100, 0.0), ("b", None, 0.1), ("c", 100, 0.1)):
        task = {"name": "digits", "examples": kept, "smoothing": smoothing}
        put(store, name, workload="digits", config={"task": task}, provenance={"sources": {"data": "d" * 64}})
    found = load(store.runs_dir).set_index("key")["workload"].to_dict()
    assert sorted(found.values()) == ["digits[examples=100]", "digits[examples=100]", "digits[examples=all]"]


def test_workloads_of_other_nets_of_the_task_are_told_apart_by_their_widths(store, put):
    for name, kept, hidden in (("a", None, [32, 32]), ("b", None, [32] * 8), ("c", 100, [32, 16])):
        task = {"name": "digits", "examples": kept, "hidden": hidden}
        put(store, name, workload="digits", config={"task": task}, provenance={"sources": {"data": "d" * 64}})
    found = load(store.runs_dir).set_index("key")["workload"].to_dict()
    assert sorted(found.values()) == [
        "digits[examples=100, hidden=[32, 16]]",
        "digits[examples=all, hidden=2x32]",
        "digits[examples=all, hidden=8x32]",
    ]
