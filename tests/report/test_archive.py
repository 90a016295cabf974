"""A report that carries its records in one file, and everything that reads them from there."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from pathlib import Path

import pandas as pd
import pytest

from altprop.cli.report import main
from altprop.cli.reproduce import reproduce
from altprop.errors import AltpropError
from altprop.records.archive import pack
from altprop.records.compare import compare
from altprop.records.folders import left_out
from altprop.records.frame import load, load_trace, read_all
from altprop.records.oracle_checks import load_oracle_checks
from altprop.records.record import UnreadableRecordError
from altprop.report.build import build


def test_a_published_report_is_built_again_from_its_own_archive(tour: Path, tmp_path: Path) -> None:
    first = build([tour], tmp_path / "first", publish=True).parent
    markdown = (first / "report.md").read_text()
    shown = set(re.findall(r"\]\((figures/[^)]+)\)", markdown))
    assert {"figures/final-digits.svg", "figures/convergence-digits-flops.svg", "figures/profile.svg"} <= shown
    found = {path.relative_to(first).as_posix() for path in first.rglob("*") if path.is_file()}
    assert found == {"report.html", "report.md", "records.tar.xz"} | shown
    assert 'href="records.tar.xz"' in (first / "report.html").read_text()
    archive = first / "records.tar.xz"
    again = build([archive], tmp_path / "again", publish=True).parent
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [name for name in files if (first / name).read_bytes() != (again / name).read_bytes()] == []


def test_what_is_read_from_an_archive_is_what_was_packed(tour: Path, tmp_path: Path) -> None:
    for name in ("lease.json", "checkpoint.pt", ".record.json.part", "record.unreadable.json"):
        (next(tour.glob("*/record.json")).parent / name).write_text("of the moment")
    archive = pack(tour, tmp_path)
    with tarfile.open(archive) as file:
        names = [Path(name).name for name in file.getnames()]
    assert not {"lease.json", "checkpoint.pt", ".record.json.part", "record.unreadable.json"} & set(names)
    pd.testing.assert_frame_equal(load(archive).drop(columns="folder"), load(tour).drop(columns="folder"))
    pd.testing.assert_frame_equal(load_trace(str(archive)), load_trace(tour))
    mine, theirs = (load_oracle_checks([place])[0] for place in (archive, tour))
    assert [oracle_check.data for oracle_check in mine] == [oracle_check.data for oracle_check in theirs]
    assert compare(archive, tour).reproduced


def test_a_few_runs_of_many(tour: Path, tmp_path: Path) -> None:
    keys = sorted(load(tour)["key"])[:3]
    assert sorted(load(pack(tour, tmp_path, keys))["key"]) == keys


def test_a_published_report_may_have_its_records_packed(
    tour: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = tmp_path / "reports" / "journey"
    published.mkdir(parents=True)
    pack(tour, published)
    assert reproduce("journey", tmp_path / "reports", str(tour), [], compare_only=True) == 0
    assert reproduce(str(published), tmp_path, str(tour), [], compare_only=True) == 0
    capsys.readouterr()
    assert reproduce("trip", tmp_path / "reports", str(tour), [], compare_only=True) == 2
    assert "there is: journey" in capsys.readouterr().err


def test_a_limit_thins_traces_and_nothing_else(tuned: Path, tmp_path: Path) -> None:
    whole = pack(tuned, tmp_path)
    size = whole.stat().st_size
    assert left_out(whole) == []
    (tmp_path / "small").mkdir()
    small = pack(tuned, tmp_path / "small", limit=size * 2 // 3)
    assert small.stat().st_size <= size * 2 // 3
    said = left_out(small)
    assert "Tuning trials have no traces." in said
    pd.testing.assert_frame_equal(load(small).drop(columns="folder"), load(tuned).drop(columns="folder"))
    assert compare(small, tuned).reproduced
    before, after = load_trace(tuned), load_trace(small)
    assert after.attrs["unreadable"] == []
    trials = set(load(tuned).query("role == 'trial'")["key"])
    assert trials
    assert not trials & set(after["key"])
    evaluations = before[(before["kind"] == "evaluation") & ~before["key"].isin(trials)]
    kept = after[after["kind"] == "evaluation"]
    columns = [name for name in kept if name != "cpu_seconds"]
    pd.testing.assert_frame_equal(kept[columns].reset_index(drop=True), evaluations[columns].reset_index(drop=True))
    assert 0 < (after["kind"] == "probe").sum() < (before["kind"] == "probe").sum()
    # What is left out is said by all that is made of it, and stays said.
    (tmp_path / "again").mkdir()
    assert left_out(pack(small, tmp_path / "again", limit=size)) == said
    page = build([small], tmp_path / "page").read_text()
    assert all(sentence in page for sentence in said)


def test_a_packed_trace_that_was_tampered_with_is_told(tuned: Path, tmp_path: Path) -> None:
    small = pack(tuned, tmp_path, limit=pack(tuned, tmp_path).stat().st_size * 2 // 3)
    record = next(record for record in read_all(small)[0] if record.trace())
    path = record.folder / "trace.jsonl"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == record.data["packed_trace_sha256"]
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"probe", b"prove"))
    try:
        with pytest.raises(UnreadableRecordError, match="does not belong"):
            record.trace()
    finally:
        path.write_bytes(whole)


def test_what_does_not_fit_is_told(tour: Path, tmp_path: Path) -> None:
    with pytest.raises(AltpropError, match="more than the 1,000 of a published report"):
        pack(tour, tmp_path, limit=1000)
    assert not list(tmp_path.iterdir())


def test_an_archive_that_took_anothers_place_is_read_anew(tour: Path, tmp_path: Path) -> None:
    keys = sorted(load(tour)["key"])
    assert len(load(pack(tour, tmp_path, keys[:3]))) == 3
    assert len(load(pack(tour, tmp_path, keys[:5]))) == 5


def test_what_is_no_archive_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "records.tar.xz").write_bytes(b"no archive")
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "records.tar.xz"), "--out", str(tmp_path / "report")])
    assert stop.value.code == 2
    assert "records.tar.xz' cannot be read" in capsys.readouterr().err
    with pytest.raises(AltpropError, match="cannot be read"):
        load(tmp_path / "missing.tar.xz")


def test_an_archive_writes_nowhere_else(tmp_path: Path) -> None:
    archive = tmp_path / "records.tar.xz"
    with tarfile.open(archive, "w:xz") as file:
        member = tarfile.TarInfo("../outside")
        member.size = 1
        file.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(AltpropError, match="outside"):
        load(archive)
