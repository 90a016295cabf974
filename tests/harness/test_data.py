"""A run's key names the data that the task loaded, not the place they came from."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import altprop
from altprop.harness import data
from altprop.harness.settings import Settings
from altprop.records import data_digests
from altprop.records.store import RunStore


def task(name: str) -> list[str]:
    options = {"name": name.lower(), "batch_size": 8}
    return [f"task._target_=planted_tasks.{name}", *(f"task.{key}={value}" for key, value in options.items())]


CSV = [*task("Csv"), "task.baselines={}", "task.targets={}"]


def write(path: Path, seed: int, flip: bool = False) -> Path:
    """Write forty rows of two numbers and a class, the classes turned round if asked."""
    rows = np.random.default_rng(seed).normal(size=(40, 2))
    labels = (rows.sum(1) > 0) ^ flip
    path.write_text("".join(f"{a:.17g},{b:.17g},{int(c)}\n" for (a, b), c in zip(rows, labels, strict=True)))
    return path


@pytest.fixture
def csv(run: Callable[..., Any]) -> Callable[..., Any]:
    """Run the task on a file and return its rows."""

    def go(path: Path, *overrides: str) -> Any:
        return run(*CSV, f"+task.path={path}", *overrides)

    return go


@pytest.mark.parametrize("irrelevant", ["[]", "[path]"])
def test_two_files_are_two_data_sets_and_a_missing_one_fails(
    csv: Callable[..., Any], tmp_path: Path, irrelevant: str
) -> None:
    declared = f"+task.irrelevant={irrelevant}"
    first = csv(write(tmp_path / "a.csv", 0), declared)
    other = csv(write(tmp_path / "b.csv", 1), declared)
    missing = csv(tmp_path / "missing.csv", declared)
    copy = csv(write(tmp_path / "copy.csv", 0), declared)
    assert len({first["key"][0], other["key"][0], missing["key"][0]}) == 3
    assert list(missing["status"]) == ["failed"]
    assert missing["reason"][0] == f"task.path={tmp_path / 'missing.csv'} cannot be read"
    assert (copy["key"][0] == first["key"][0]) == (irrelevant == "[path]")


@pytest.mark.parametrize("isolate", ["false", "true"])
def test_labels_changed_inside_the_file_are_another_cell(csv: Callable[..., Any], tmp_path: Path, isolate: str) -> None:
    path = tmp_path / "a.csv"
    options = (f"isolate={isolate}", "seeds=2")
    before = csv(write(path, 0), *options)
    after = csv(write(path, 0, flip=True), *options, "seeds=3")
    assert len(before) == 2
    assert len(after) == 3
    assert set(before["key"]).isdisjoint(after["key"])
    assert set(before["status"]) | set(after["status"]) == {"completed"}
    back = csv(write(path, 0), *options)
    assert list(back["key"]) == list(before["key"])


def test_the_record_tells_the_digest_and_it_is_the_harness_s_own(csv: Callable[..., Any], tmp_path: Path) -> None:
    digests = []
    for name, flip in (("a.csv", False), ("b.csv", True)):
        rows = csv(write(tmp_path / name, 0, flip))
        record = RunStore(tmp_path / "runs").read(rows["key"][0])
        assert record is not None
        digests.append(record.data["provenance"]["sources"]["data"])
    assert len(set(digests)) == 2  # The author's own hash is the same words for both.
    assert all(len(digest) == 64 for digest in digests)


def test_a_task_that_draws_anew_each_time_is_told(run: Callable[..., Any]) -> None:
    rows = run(*task("Restless"))
    assert list(rows["status"]) == ["failed"]
    assert "did not load the same data twice" in rows["reason"][0]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [("Exits", [], "sys.exit('no data')"), ("Exits", ["isolate=true"], "sys.exit"), ("Dies", ["timeout=60"], "code 3")],
)
def test_a_task_that_cannot_load_ends_its_runs_with_its_own_reason(
    run: Callable[..., Any], name: str, options: list[str], words: str
) -> None:
    rows = run(*task(name), *options)
    assert list(rows["status"]) == ["failed"]
    assert words in rows["reason"][0]


def settings(tmp_path: Path) -> Settings:
    budget = {"currency": "steps", "amount": 1, "grid": 1, "block": 1, "divergence": 10}
    return Settings.read({"budget": budget, "runs_dir": str(tmp_path / "runs")})


def test_a_digest_is_kept_and_believed_while_the_file_is_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.csv", 0)
    task = {"_target_": "planted_tasks.Csv", "path": str(path)}
    loads = []
    load = data._loaded
    monkeypatch.setattr(data, "_loaded", lambda *given: loads.append(given) or load(*given))
    first = data.data_digest(task, settings(tmp_path))
    assert data.data_digest(task, settings(tmp_path)) == first
    assert len(loads) == 2, "a file younger than the process may have changed under it, so nothing was kept"
    monkeypatch.setattr(data_digests, "_STARTED", time.time_ns())
    assert data.data_digest(task, settings(tmp_path)) == first
    assert data.data_digest(task, settings(tmp_path)) == first
    assert len(loads) == 3
    times = path.stat()
    write(path, 0, flip=True)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # As large and, it says, as old as before.
    assert data.data_digest(task, settings(tmp_path)) != first
    path.unlink()
    assert data.data_digest(task, settings(tmp_path)) == data.UNAVAILABLE
    assert len(loads) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"path": "b.csv"},
        {"_target_": "rules.Other"},
        {"test_seed": 1},
    ],
)
def test_another_task_has_another_name(change: dict[str, Any]) -> None:
    task = {"_target_": "planted_tasks.Csv", "path": "a.csv"}
    assert data_digests.name_of(task, "s") != data_digests.name_of({**task, **change}, "s")


def test_code_versions_and_folder_are_in_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = {"path": "a.csv"}
    names = {data_digests.name_of(task, "s"), data_digests.name_of(task, "t")}
    with monkeypatch.context() as patch:
        patch.setattr(data_digests, "_installed", lambda: ["numpy-99.dist-info"])
        names.add(data_digests.name_of(task, "s"))
    monkeypatch.chdir(tmp_path)
    names.add(data_digests.name_of(task, "s"))
    assert len(names) == 4
    assert any(entry.startswith("torch-") for entry in data_digests._installed())


def test_a_task_that_names_no_files_is_loaded_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.csv", 0)
    monkeypatch.setattr(data_digests, "_STARTED", time.time_ns())
    data.data_digest({"_target_": "planted_tasks.Csv", "path": str(path), "declared": False}, settings(tmp_path))
    assert not (tmp_path / "runs" / data_digests.FOLDER).exists()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"sha256": "x"}', b'{"sha256": "x", "files": {"/none": [1, 2, 3]}}'])
def test_a_torn_digest_is_no_digest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / data_digests.FOLDER).mkdir()
    (tmp_path / data_digests.FOLDER / "n.json").write_bytes(content)
    assert data_digests.known_digest(tmp_path, "n") is None
    data_digests.keep_digest(tmp_path, "n", "d" * 64, [])
    assert data_digests.known_digest(tmp_path, "n") == "d" * 64


def test_a_folder_that_cannot_be_written_keeps_nothing_and_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    data_digests.keep_digest(tmp_path / "file", "n", "d" * 64, [])
    assert data_digests.known_digest(tmp_path / "file", "n") is None


def test_the_second_time_a_file_on_disk_is_not_loaded_and_torch_not_imported(tmp_path: Path) -> None:
    """Across processes, as a user meets it."""
    path = write(tmp_path / "a.csv", 0)
    command = [
        *CSV,
        f"+task.path={path}",
        f"runs_dir={tmp_path / 'runs'}",
        "report=false",
        "budget.currency=steps",
        "budget.amount=2",
        "budget.grid=1",
    ]
    code = (
        "import sys, altprop.cli.run as r; sys.argv[1:] = " + repr(command) + "\n"
        "try:\n r.main()\nexcept SystemExit as end:\n print(end.code)\n"
        "print('torch' in sys.modules)"
    )
    path_ = os.pathsep.join([str(Path(__file__).parent), str(Path(altprop.__file__).parent.parent)])
    told = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path_}, capture_output=True, text=True
        )
        told.append((done.stdout.split()[-1], "from records" in done.stderr))
        if len(told) == 2:
            write(path, 1)
    assert told == [("True", False), ("False", True), ("True", False)], done.stderr
