"""Oracle checks on disk: what is read is what was written, of several the right one, and no other file is taken."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from altprop.errors import AltpropError
from altprop.records import files
from altprop.records.documents import read_document
from altprop.records.frame import load
from altprop.records.oracle_checks import (
    OracleCheck,
    OracleResult,
    compare_oracle_checks,
    file_name,
    load_oracle_checks,
    source_of,
    write_oracle_check,
)
from altprop.records.record import UnreadableRecordError
from altprop.records.store import RunStore

MEASURED = (
    OracleResult("equals backprop", 1e-16, 1e-12, "", 0.1),
    OracleResult("not with random B", 0.5, 0.05, "", 0.2, differs=True),
)


def write(
    folder: Path, *oracles: OracleResult, algorithm: str = "dfa", source: str = "a" * 64, **more: Any
) -> OracleCheck:
    provenance = {"kernel": 1, "fingerprint": more.pop("fingerprint", "f" * 32), "torch": "2.13.0"}
    when = more.pop("finished", "2024-01-01T00:00:00+00:00")
    target = more.pop("target", f"rules.{algorithm}")
    return write_oracle_check(
        folder, algorithm, target, source, "c" * 64, oracles or MEASURED, provenance, when, **more
    )


@pytest.mark.parametrize(
    ("name", "error", "passed"),
    [
        ("equals", 0.0, True),
        ("equals", 0.1, True),
        ("equals", 0.1000001, False),
        ("equals", math.nan, False),
        ("equals", math.inf, False),
        ("equals", None, False),
        ("not equals", 0.1, False),
        ("not equals", 0.1000001, True),
        ("not equals", math.nan, False),
        ("not equals", None, False),
        ("nothing changes", 0.2, False),
    ],
)
def test_a_negative_control_must_differ_and_an_oracle_must_not(name: str, error: float | None, passed: bool) -> None:
    reason = "" if error is not None else "ValueError: x"
    oracle = OracleResult(name, error, None if error is None else 0.1, reason, differs=name == "not equals")
    assert oracle.passed == passed
    assert (oracle.sentence == "") == passed


def test_sentences() -> None:
    assert OracleResult("is it", 0.5, 0.1).sentence == "the oracle 'is it' measures 0.5, above its tolerance 0.1"
    assert OracleResult("not it", 0.05, 0.1, differs=True).sentence == (
        "the negative control 'not it' measures 0.05, which must exceed 0.1"
    )
    assert OracleResult("is it", None, None, "E: x (r.py)").sentence == "the oracle 'is it' raised E: x (r.py)"


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    oracles = (*MEASURED, OracleResult("NaN", math.nan, math.inf), OracleResult("raises", None, None, "E: boom"))
    written = write(tmp_path, *oracles, problem="")
    again = read_document(OracleCheck, written.path)
    assert again.path == tmp_path / "oracle_checks" / f"dfa-{'a' * 16}.json"
    assert [one.name for one in again.oracles] == [one.name for one in oracles]
    assert again.oracles[:2] == oracles[:2]
    assert math.isnan(again.oracles[2].error or 0)
    assert again.oracles[2].tolerance == math.inf
    assert again.oracles[3] == oracles[3]
    assert (again.algorithm, again.target, again.source) == ("dfa", "rules.dfa", "a" * 64)
    assert again.data["kernel"] == 1
    assert again.failing == [oracles[2].sentence, oracles[3].sentence]
    assert not again.settled
    raw = json.loads(again.path.read_text())  # strict JSON: other readers need no NaN
    assert raw["oracles"][2]["error"] == "NaN"
    assert [one["passed"] for one in raw["oracles"]] == [True, True, False, False]
    assert [one["control"] for one in raw["oracles"]] == [False, True, False, False]


def test_an_oracle_that_could_not_be_asked_is_no_success(tmp_path: Path) -> None:
    oracle_check = write_oracle_check(
        tmp_path, "x", "m.X", "b" * 64, "c" * 64, [], {"kernel": 1}, "", problem="TypeError: boom"
    )
    assert oracle_check.failing == ["oracles() raised TypeError: boom"]
    assert not oracle_check.settled


@pytest.mark.parametrize("name", ["../../evil", "a/b\\c", "ü" * 300, "", "x\x00y", "..", "<script>"])
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, algorithm=name).path
    assert path.parent == tmp_path / "oracle_checks"
    assert ".." not in path.name
    assert read_document(OracleCheck, path).algorithm == name
    assert [oracle_check.algorithm for oracle_check in load_oracle_checks(tmp_path)[0]] == [name]
    assert file_name(name, "a" * 64) == path.name


def test_a_crash_leaves_the_old_oracle_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write(tmp_path).path.read_bytes()

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_new", full)
    with pytest.raises(AltpropError, match="is full"):
        write(tmp_path, OracleResult("another", 0.0, 1.0))
    assert [path.read_bytes() for path in (tmp_path / "oracle_checks").iterdir()] == [before]


def test_oracle_checks_are_no_runs(tmp_path: Path) -> None:
    write(tmp_path)
    assert RunStore(tmp_path).keys() == []
    frame = load(tmp_path)
    assert len(frame) == 0
    assert frame.attrs["unreadable"] == []


def test_folders_are_merged_and_the_last_measurement_wins(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    write(a, OracleResult("one", 1.0, 2.0), finished="2024-01-02")
    write(b, OracleResult("one", 1.5, 2.0), finished="2024-01-01")
    write(b, algorithm="som", fingerprint="0" * 32)
    write(a, algorithm="som", fingerprint="1" * 32)
    write(b, algorithm="dfa", source="c" * 64)
    for folders in ([a, b], [b, a], [b, a, b]):
        oracle_checks, unreadable = load_oracle_checks(folders)
        assert unreadable == []
        assert [
            (oracle_check.algorithm, oracle_check.source[0], oracle_check.fingerprint[0])
            for oracle_check in oracle_checks
        ] == [
            ("dfa", "a", "f"),
            ("dfa", "c", "f"),
            ("som", "a", "0"),
            ("som", "a", "1"),
        ]
        assert oracle_checks[0].oracles[0].error == 1.0
        assert oracle_checks[0].finished == "2024-01-02"


def test_the_oracle_checks_of_one_runs_folder_are_those_beside_it(tmp_path: Path) -> None:
    write(tmp_path)
    run = tmp_path / ("0" * 32)
    run.mkdir()
    (run / "record.json").write_text("{}")
    assert len(load_oracle_checks(run)[0]) == 1
    assert load_oracle_checks(tmp_path / "nowhere") == ([], [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema is 2"),
        ({"oracles": None}, "field 'oracles' is not list"),
        ({"oracles": [{"error": 1.0}]}, "has no name"),
        ({"oracles": [{"name": "x", "error": "much", "tolerance": 1.0}]}, "holds no figures"),
        ({"oracles": [{"name": "x", "error": True, "tolerance": 1.0}]}, "holds no figures"),
        ({"provenance": 3}, "field 'provenance' is not dict"),
    ],
)
def test_what_is_no_oracle_check_is_said_and_passed_over(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = write(tmp_path).path
    good = write(tmp_path, algorithm="som")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UnreadableRecordError, match=words):
        read_document(OracleCheck, path)
    oracle_checks, unreadable = load_oracle_checks([tmp_path, tmp_path])
    assert [oracle_check.path for oracle_check in oracle_checks] == [good.path]
    assert len(unreadable) == 1
    assert words in unreadable[0]


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff"])
def test_a_torn_file_is_said(tmp_path: Path, content: bytes) -> None:
    write(tmp_path).path.write_bytes(content)
    assert len(load_oracle_checks(tmp_path)[1]) == 1


def test_a_rerun_is_compared_by_verdict(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    write(there, *MEASURED, OracleResult("renamed", 0.0, 1.0), OracleResult("never held", 2.0, 1.0))
    write(there, algorithm="som")
    write(here, *MEASURED, finished="2023", source="0" * 64)
    write(here, MEASURED[0], OracleResult("not with random B", 0.01, 0.05, differs=True), source="b" * 64)
    found = compare_oracle_checks(there, here)
    assert found.held == 1
    assert found.broken == ("dfa: the negative control 'not with random B' measures 0.01, which must exceed 0.05",)
    assert found.missing == ("dfa: renamed", "som: equals backprop", "som: not with random B")
    assert found.table().splitlines()[0] == "1 of 5 published oracle checks hold here as well."
    assert compare_oracle_checks(here, here).broken == ()
    assert compare_oracle_checks(tmp_path / "none", here).table() == ""


def test_the_source_of_an_algorithm_is_its_modules() -> None:
    dfa = source_of("altprop.algorithms.feedback.dfa.DirectFeedbackAlignment")
    assert len(dfa) == 64
    assert dfa == source_of("altprop.algorithms.feedback.dfa.AnotherName")
    assert dfa != source_of("altprop.algorithms.control.null.Null")
    with pytest.raises(AltpropError, match="there is no module"):
        source_of("altprop.algorithms.feedback.nothing.Rule")
