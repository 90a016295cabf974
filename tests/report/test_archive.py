"""A report that carries its records in one file, and everything that reads them from there."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pandas as pd
import pytest

from altprop.cli.report import main
from altprop.cli.reproduce import reproduce
from altprop.errors import AltpropError
from altprop.records.archive import pack
from altprop.records.compare import compare
from altprop.records.frame import load, load_trace
from altprop.records.oracle_checks import load_oracle_checks
from altprop.report.build import build


def test_a_packed_report_is_built_again_from_its_own_archive(tour: Path, tmp_path: Path) -> None:
    first = build([tour], tmp_path / "first", packed=True).parent
    assert not list(first.glob("*.csv.gz"))
    assert 'href="records.tar.xz"' in (first / "report.html").read_text()
    archive = first / "records.tar.xz"
    again = build([archive], tmp_path / "again", packed=True).parent
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
