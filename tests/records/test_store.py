import errno
import json
import math
import os
import subprocess
import sys

import pytest

from altprop.errors import AltpropError
from altprop.records import files
from altprop.records.artefacts import read as read_artefact
from altprop.records.store import RunStore, UnreadableRecordError

from .conftest import CLOCK, TRACE

KEY = "a" * 32


def test_what_was_committed_is_read_back(store, put):
    committed = put(store, KEY)
    record = RunStore(store.runs_dir).read(KEY)
    assert record is not None
    assert record.data == committed.data
    assert (record.key, record.label, record.workload, record.seed, record.status) == (
        KEY, "backprop+adam", "digits", 0, "completed",
    )  # fmt: skip
    assert record.trace() == TRACE
    assert record.clock() == CLOCK
    assert sorted(path.name for path in store.path(KEY).iterdir()) == [
        "clock.jsonl", "config.yaml", "record.json", "trace.jsonl",
    ]  # fmt: skip
    assert store.keys() == [KEY]


def test_non_finite_numbers_and_the_sign_of_zero_survive_in_strict_json(store, put):
    put(
        store,
        KEY,
        result={"test": math.nan, "hits": {"90%": {"flops": [-0.0, math.inf]}}, "chance": -math.inf},
        reason="NaN",
    )
    record = store.read(KEY)
    assert math.isnan(record.result["test"])
    low, high = record.result["hits"]["90%"]["flops"]
    assert (math.copysign(1, low), high, record.result["chance"]) == (-1, math.inf, -math.inf)
    assert record.data["reason"] == "NaN"

    def refuse(name):
        raise AssertionError(name)

    raw = json.loads((store.path(KEY) / "record.json").read_text(), parse_constant=refuse)
    assert raw["result"]["test"] == "NaN"


def test_numbers_of_numpy_and_torch_are_plain_numbers_on_disk(store, put):
    import numpy as np
    import torch

    put(store, KEY, result={"test": np.float32(0.5), "parameters": np.int64(7), "chance": torch.tensor(0.25)})
    result = store.read(KEY).result
    assert (result["test"], result["parameters"], result["chance"]) == (0.5, 7, 0.25)
    assert type(result["parameters"]) is int


def test_text_that_is_no_unicode_does_not_stop_a_failure_from_being_recorded(store, put):
    put(store, KEY, status="failed", reason="no file caf\udce9\0<script>")
    assert store.read(KEY).data["reason"] == "no file caf?\0<script>"


def test_a_value_that_no_record_holds_is_named_and_nothing_is_written(store, put):
    with pytest.raises(TypeError, match=r"cannot hold object at result\.hits\.x\[1\]"):
        put(store, KEY, result={"hits": {"x": [1, object()]}})
    assert not store.runs_dir.exists()


def test_a_record_without_a_field_is_refused_before_anything_is_written(store, make):
    record = make()
    del record["provenance"]
    with pytest.raises(AltpropError, match="'provenance' is missing"):
        store.commit(KEY, record, [], [], "")
    with pytest.raises(AltpropError, match="status 'exploded' is none of completed"):
        store.commit(KEY, make(status="exploded"), [], [], "")
    assert not store.runs_dir.exists()


def test_equal_traces_give_equal_bytes_whatever_the_order_of_their_fields(store, put):
    first = put(store, "a", trace=[{"kind": "train", "loss": 0.1, "step": 1}])
    second = put(store, "b", trace=[{"step": 1, "loss": 0.1, "kind": "train"}])
    third = put(store, "c", trace=[{"step": 1, "loss": 0.2, "kind": "train"}])
    assert first.result["trace_sha256"] == second.result["trace_sha256"] != third.result["trace_sha256"]


def test_a_trace_that_belongs_to_another_record_is_not_read(store, put):
    put(store, KEY)
    (store.path(KEY) / "trace.jsonl").write_bytes(b'{"step":1}\n')
    with pytest.raises(UnreadableRecordError, match="does not belong to the record beside it"):
        store.read(KEY).trace()


def test_nothing_there_is_nothing_and_no_folder_appears(store):
    assert store.read(KEY) is None
    assert store.settled(KEY) is None
    assert store.keys() == []
    assert not store.runs_dir.exists()


@pytest.mark.parametrize(
    ("status", "final"), [("completed", True), ("refused", True), ("failed", False), ("interrupted", False)]
)
def test_only_final_records_settle_a_run(store, put, status, final):
    put(store, KEY, status=status)
    assert (store.settled(KEY) is not None) == final


def test_a_final_record_is_not_replaced_by_one_that_is_not(store, put):
    put(store, KEY, status="failed", reason="first")
    put(store, KEY, status="timed_out", reason="second")
    assert store.read(KEY).data["reason"] == "second"
    put(store, KEY, status="completed", reason="third")
    kept = put(store, KEY, status="interrupted", reason="fourth")
    assert kept.data["reason"] == store.read(KEY).data["reason"] == "third"


def test_a_checkpoint_stays_only_for_a_run_that_resumes(store, put):
    with store.claim(KEY):
        (store.path(KEY) / "checkpoint.pt").write_bytes(b"x")
        put(store, KEY, status="interrupted")
        assert (store.path(KEY) / "checkpoint.pt").exists()
        put(store, KEY, status="completed")
        assert not (store.path(KEY) / "checkpoint.pt").exists()


def test_artefacts_are_plain_files_and_an_earlier_attempt_leaves_none(store, put):
    import numpy as np

    put(store, KEY, status="failed", artefacts={"old": "x"})
    values = {
        "front": {"size": [1, 2], "error": [0.1, math.inf]},
        "map": np.arange(6.0).reshape(2, 3),
        "tree": "a\nb",
        "raw.bin": b"\0\1",
        "sizes": {"x": 1, "y": [math.nan]},
    }
    found = put(store, KEY, artefacts=values).artefacts()
    assert sorted(path.name for path in found.values()) == ["front.csv", "map.npy", "raw.bin", "sizes.json", "tree.txt"]
    assert read_artefact(found["front"])["error"].tolist() == [0.1, math.inf]
    assert np.array_equal(read_artefact(found["map"]), values["map"])
    assert read_artefact(found["tree"]) == "a\nb"
    assert read_artefact(found["raw"]) == b"\0\1"
    assert math.isnan(read_artefact(found["sizes"])["y"][0])


def test_an_array_of_objects_is_refused_rather_than_pickled(store, put):
    import numpy as np

    with pytest.raises(ValueError, match="allow_pickle"):
        put(store, KEY, artefacts={"map": np.array([object()])})
    assert not store.runs_dir.exists()


HOSTILE = [
    "../x",
    "..",
    ".",
    "",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a\0b",
    "a\nb",
    ".hidden",
    "a..b",
    "x" * 129,
    "C:x",
    "~",
    "é",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_could_leave_the_folder_is_refused_everywhere(store, put, name):
    for action in (store.path, store.read, store.claim, lambda key: put(store, key)):
        with pytest.raises(AltpropError, match="is not allowed") as caught:
            action(name)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200
    if name:  # An artefact without a name has the same outcome; its message is the same.
        with pytest.raises(ValueError, match=r"artefact name .* is not allowed"):
            put(store, KEY, artefacts={name: "x"})
    assert not store.runs_dir.exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "cannot be read"),
        (b'{"schema": 1, "key"', "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[]", "holds no JSON object"),
        (b'{"schema": 2}', "its schema is 2"),
        (b'{"schema": 1, "key": "other"}', "is not the name of its folder"),
    ],
)
def test_an_unreadable_record_is_told_then_put_aside_by_who_claims_the_run(store, put, content, why):
    path = store.path(KEY) / "record.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(UnreadableRecordError, match=why):
        store.read(KEY)
    assert store.settled(KEY) is None
    with store.claim(KEY):
        assert store.read(KEY) is None
        put(store, KEY)
    assert store.read(KEY).status.final
    assert (path.parent / "record.unreadable-1.json").read_bytes() == content
    assert why in (path.parent / "record.unreadable-1.txt").read_text()


def test_a_sound_record_is_not_put_aside(store, put):
    put(store, KEY, status="failed")
    with store.claim(KEY):
        assert store.read(KEY).status == "failed"


def _fail_from(monkeypatch, name, count, code):
    """Lets the `count`-th call of os.<name> and all later ones fail with the error `code`."""
    real, calls = getattr(os, name), []

    def fail(*arguments, **options):
        calls.append(1)
        if len(calls) > count:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(store, put, monkeypatch, name, count):
    put(store, KEY, status="failed", reason="before")
    with monkeypatch.context() as patched:
        _fail_from(patched, name, count, errno.ENOSPC)
        with pytest.raises(AltpropError, match=r"the disk that holds .*runs is full") as caught:
            put(store, KEY)
    assert "\n" not in str(caught.value)
    assert store.read(KEY).data["reason"] == "before"
    assert not list(store.path(KEY).glob("*.tmp")), "a temporary file stayed on the full disk"
    put(store, KEY)
    assert store.read(KEY).status == "completed"


def test_a_disk_that_is_really_full(tmp_path, put):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        store = RunStore(small / "runs")
        put(store, "first", trace=[])
        with pytest.raises(AltpropError, match="is full: free some space"):
            put(store, "second", trace=[{"kind": "train", "text": "x" * 100_000}])
        assert store.keys() == ["first"]
        leases = []
        with pytest.raises(AltpropError, match="is full"):
            leases.extend(store.claim(f"claim-{index}") for index in range(100))
        for lease in leases:
            lease.release()
        assert store.read("first").trace() == []
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_says_so(store, put, monkeypatch, code):
    _fail_from(monkeypatch, "open", 0, code)
    for action in (store.claim, lambda key: put(store, key)):
        with pytest.raises(AltpropError, match=r"runs cannot be written: .*; change its rights") as caught:
            action(KEY)
        assert "\n" not in str(caught.value)


def test_a_real_user_without_rights_is_told(tmp_path):
    code = (
        "import os, sys; from altprop.records.store import RunStore; from altprop.errors import AltpropError\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: RunStore(sys.argv[1] + '/runs').claim('a')\n"
        "except AltpropError as error: print(error)\n"
    )
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    tmp_path.chmod(0o555)
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    tmp_path.chmod(0o755)
    if "PermissionError" in done.stderr and "altprop" not in done.stderr.splitlines()[-1]:
        pytest.skip("the other user cannot read the Python installation")
    assert "cannot be written: Permission denied" in done.stdout, done.stderr


def test_a_file_where_the_folder_should_be_is_named(tmp_path, put):
    (tmp_path / "runs").write_text("x")
    with pytest.raises(AltpropError, match="runs cannot hold records: a file of that name is in the way"):
        put(RunStore(tmp_path / "runs"), KEY)


def test_any_other_trouble_with_the_disk_is_one_line_too(store, put, monkeypatch):
    _fail_from(monkeypatch, "fsync", 0, errno.EIO)
    with pytest.raises(AltpropError, match="runs cannot be used: Input/output error"):
        put(store, KEY)


def test_a_write_in_pieces_is_finished(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:3]))
    files.write_new(tmp_path / "x", b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_record_json_comes_last_and_everything_is_on_the_disk_before_it(store, put, monkeypatch):
    put(store, "other")  # So that the folder of records exists.
    events, names = [], {}
    real_open, real_fsync, real_replace = os.open, os.fsync, os.replace

    def opened(path, *arguments, **options):
        handle = real_open(path, *arguments, **options)
        names[handle] = os.fspath(path)
        return handle

    def synced(handle):
        events.append(("sync", os.path.basename(names[handle]).strip(".").split(".")[0]))
        real_fsync(handle)

    def replaced(source, target):
        events.append(("name", os.path.basename(target).split(".")[0]))
        real_replace(source, target)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    put(store, KEY)
    at = events.index(("name", "record"))
    for name in ("config", "trace", "clock"):
        assert events.index(("sync", name)) < events.index(("name", name)) < at
    assert events.index(("sync", "record")) < at
    assert ("sync", KEY) in events[events.index(("name", "clock")) : at], "names of the other files before the mark"
    assert events[at + 1 :] == [("sync", KEY)], "the folder is synced after the rename"
    assert ("sync", "runs") in events[:at], "the run's folder itself is on the disk"


def test_reading_needs_neither_torch_nor_pandas():
    code = (
        "import sys, altprop.records.store, altprop.records.frame, altprop.records.compare, altprop.records.provenance;"
    )
    code += "print({'torch', 'pandas', 'numpy', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
