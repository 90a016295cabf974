"""Runs of other tools: a long table, a data frame, TensorBoard's event files; read without torch, as the same page."""

import struct
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import altprop
from altprop.errors import AltpropError
from altprop.records.event_files import read_events
from altprop.records.foreign import _of_tag


def long_form(**columns: object) -> pd.DataFrame:
    """Two learners, two tasks, three seeds of unequal length."""
    rows = [
        {"learner": name, "task": task, "seed": seed, "step": 10 * k, "metric": "return", "value": rate * k + seed}
        for name, rate in (("ppo", 2.0), ("sac", 3.0))
        for task in ("hopper", "walker")
        for seed in range(3)
        for k in range(4 + seed)
    ]
    return pd.DataFrame(rows).assign(**columns)


def test_a_table_is_read_as_records(tmp_path: Path) -> None:
    frame = long_form()
    frame["seconds"] = frame["step"] / 10
    frame.to_csv(tmp_path / "mine.csv", index=False)
    frame.to_json(tmp_path / "mine.jsonl", orient="records", lines=True)
    runs = altprop.load(tmp_path / "mine.csv")
    assert len(runs) == 12
    assert set(runs.label) == {"ppo", "sac"}
    assert set(runs.workload) == {"hopper", "walker"}
    (one,) = runs[(runs.label == "sac") & (runs.workload == "walker") & (runs.seed == 2)].to_dict("records")
    assert (one["validation"], one["steps"], one["cpu_seconds"], one["higher_is_better"]) == (17.0, 50, 5.0, True)
    assert one["flops"] != one["flops"]
    pd.testing.assert_frame_equal(
        altprop.load(tmp_path / "mine.jsonl")[["label", "seed", "validation", "steps"]],
        runs[["label", "seed", "validation", "steps"]],
    )
    trace = altprop.load_trace(tmp_path / "mine.csv")
    assert len(trace[trace.name == "return"]) == len(frame)
    # What is changed is read again.
    frame.assign(value=frame.value + 1).to_csv(tmp_path / "mine.csv", index=False)
    assert altprop.load(tmp_path / "mine.csv").validation.max() == 18.0


def test_gaps_of_a_table_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("learner,task,split,seed,step,metric,value\na,,,0,1,accuracy,0.5\na,,,0,2,accuracy,\n")
    (run,) = altprop.load(path).to_dict("records")
    assert (run["workload"], run["steps"]) == ("mine", 2)
    assert set(altprop.load_trace(path).split) == {"validation"}
    path.write_text("learner,seed,step,metric,value\n,0,1,accuracy,0.5\n")
    with pytest.raises(AltpropError, match="row 1 has no learner"):
        altprop.load(path)


def test_splits_costs_and_further_metrics(tmp_path: Path) -> None:
    rows = [("train", 1, "loss", 2.0), ("val", 1, "accuracy", 0.5), ("test", 2, "accuracy", 0.6), ("val", 2, "loss", 1)]
    frame = pd.DataFrame(rows, columns=["split", "step", "metric", "value"]).assign(learner="a", seed=0, flops=7.0)
    frame.to_csv(tmp_path / "mine.csv", index=False)
    (run,) = altprop.load(tmp_path / "mine.csv").to_dict("records")
    assert (run["workload"], run["metric"], run["test"], run["flops"]) == ("mine", "accuracy", 0.6, 7.0)
    trace = altprop.load_trace(tmp_path / "mine.csv")
    assert set(zip(trace.split, trace.name, strict=True)) == {
        ("train", "loss"), ("validation", "accuracy"), ("test", "accuracy"), ("validation", "loss"),
    }  # fmt: skip


def test_a_frame_becomes_the_page(tmp_path: Path) -> None:
    page = altprop.report(long_form(), out=tmp_path / "page", title="Mine", reference="ppo")
    assert page == tmp_path / "page" / "report.html"
    text = (tmp_path / "page" / "report.md").read_text()
    assert text.startswith("# Mine\n")
    assert "2 learners on 2 tasks, 12 runs: 12 completed." in text
    assert "On walker sac has the highest median validation return" in text
    assert (tmp_path / "page" / "figures" / "convergence-walker-steps.svg").is_file()


def test_no_torch_is_needed(tmp_path: Path) -> None:
    long_form().to_csv(tmp_path / "mine.csv", index=False)
    code = (
        "import sys; sys.modules['torch'] = None; from altprop.cli.report import report; "
        "sys.exit(report(['mine.csv'], 'page', None, ['md']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"report: {Path('page') / 'report.md'}\n"


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (long_form().drop(columns="seed"), "needs the columns learner, seed, metric, value, .*; seed is missing"),
        (long_form()[:0], "has no rows"),
        (long_form(value="high"), "value of row 1 must be a number; got 'high'"),
        (long_form(seed=0.5), "seed of row 1 must be a whole number; got 0.5"),
        (long_form(step=1), "return of ppo on hopper, seed 0, is there twice at step 1"),
        (long_form(metric="zap"), "is more of zap better\\? Add a column higher_is_better"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, frame: pd.DataFrame, words: str) -> None:
    with pytest.raises(AltpropError, match=words):
        altprop.report(frame, out=tmp_path)


def test_what_is_no_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(AltpropError, match="there is no file"):
        altprop.load(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(AltpropError, match="cannot be read as a table"):
        altprop.load(tmp_path / "empty.csv")
    (tmp_path / "torn.jsonl").write_text('{"learner": ')
    with pytest.raises(AltpropError, match="cannot be read as a table"):
        altprop.load(tmp_path / "torn.jsonl")


def test_which_way_a_metric_counts_can_be_said(tmp_path: Path) -> None:
    for better in (True, False):
        long_form(metric="zap", higher_is_better=better).to_csv(tmp_path / "mine.csv", index=False)
        assert set(altprop.load(tmp_path / "mine.csv").higher_is_better) == {better}


@pytest.mark.parametrize(
    ("tag", "split", "metric"),
    [("val/acc", "validation", "acc"), ("loss_train", "train", "loss"), ("test", "validation", "test")],
)
def test_a_tag_names_split_and_metric(tag: str, split: str, metric: str) -> None:
    assert _of_tag(tag) == (split, metric)


def events(*scalars: tuple[float, int, str, float]) -> bytes:
    """Return an event file as its format is specified: length, checksum (not looked at), protocol buffer, checksum."""

    def field(number: int, kind: int, content: bytes) -> bytes:
        length = bytes([len(content)]) if kind == 2 else b""
        return bytes([number << 3 | kind]) + length + content

    def varint(value: int) -> bytes:
        low, value = value & 127, value >> 7
        return bytes([low | 128]) + varint(value) if value else bytes([low])

    data = b""
    for time, step, tag, value in scalars:
        scalar = field(1, 2, tag.encode()) + field(2, 5, struct.pack("<f", value))
        record = field(1, 1, struct.pack("<d", time)) + field(2, 0, varint(step)) + field(5, 2, field(1, 2, scalar))
        data += struct.pack("<Q", len(record)) + bytes(4) + record + bytes(4)
    return data


def test_event_files_become_runs(tmp_path: Path) -> None:
    for name in ("hopper/ppo/seed_1", "hopper/sac/seed_1"):
        (tmp_path / name).mkdir(parents=True)
        scalars = [(100.0 + k, 1000 * k, "eval/return", float(k)) for k in range(4)]
        (tmp_path / name / "events.out.tfevents.1.host").write_bytes(events(*scalars) + b"\x99torn")
    runs = altprop.load(tmp_path)
    assert sorted(runs.label) == ["ppo", "sac"]
    assert set(runs.workload) == {"hopper"}
    assert set(runs.seed) == {1}
    assert set(runs.validation) == {3.0}
    assert set(runs.steps) == {3000}
    assert set(runs.cpu_seconds) == {3.0}
    (tmp_path / name / "events.out.tfevents.1.host").write_bytes(
        struct.pack("<Q", 3) + bytes(4) + b"\xff\xff\xff" + bytes(4)
    )
    with pytest.raises(AltpropError, match="is no event file that can be read"):
        altprop.load(tmp_path)


def test_what_tensorboard_writes_is_read(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    for new in (False, True):
        with SummaryWriter(tmp_path / str(new)) as writer:
            writer.add_scalar("loss", 0.25, 300, walltime=5.0, new_style=new)
        (path,) = (tmp_path / str(new)).iterdir()
        (event,) = read_events(path)
        assert (event.tag, event.value, event.step, event.time) == ("loss", 0.25, 300, 5.0)
