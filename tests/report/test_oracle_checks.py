"""Section 7: every learner with its oracle check, what fails in the verdict, and checks of other code named as such."""

from __future__ import annotations

import csv
import html
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from altprop.records.oracle_checks import OracleCheck, OracleResult
from altprop.report.build import assemble, build
from altprop.report.oracle_checks import _line, doubts, summary, verified
from altprop.report.reading import read

Verify = Callable[..., OracleCheck]
RULE = "rules.Rule"


def text_of(page: Path) -> str:
    """The text of section 7 of a page, tags left out."""
    section = re.search(r'<section id="oracle_checks">(.*?)</section>', page.read_text(), re.S)
    assert section is not None
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", section[1].replace("<wbr>", ""))).split())


@pytest.fixture
def runs(synthetic: ModuleType, tmp_path: Path) -> Path:
    """Two learners of one algorithm, one of another and a refused one; the runs say which code made them."""

    def change(record: dict[str, Any], trace: list[Any], clock: list[Any]) -> None:
        record["config"]["algorithm"]["_target_"] = f"rules.{record['axes']['algorithm']}"
        record["provenance"]["sources"] = {"algorithm": "a" * 64}

    learners = [*synthetic.LEARNERS[:2], synthetic.Learner("dfa"), synthetic.Learner("bptt", statuses={"*": "refused"})]
    folder: Path = synthetic.write(tmp_path / "runs", learners, synthetic.TASKS[:1], 2, change=change)
    return folder


@pytest.mark.parametrize(
    ("oracle", "expected"),
    [
        (OracleResult("is", 2.4e-16, 1e-15), ("2.4 × 10⁻¹⁶", "10⁻¹⁵", "holds")),
        (OracleResult("is", 0.0, 0.0), ("0", "0", "holds")),
        (OracleResult("is", 0.3, 1e-12), ("0.3", "10⁻¹²", "fails: 0.3 > 10⁻¹²")),
        (
            OracleResult("is", 1.0000001e-15, 1e-15),
            ("1.0000001 × 10⁻¹⁵", "10⁻¹⁵", "fails: 1.0000001 × 10⁻¹⁵ > 10⁻¹⁵"),
        ),
        (OracleResult("not so", 0.384, 0.01, differs=True), ("0.38", "0.01", "must differ: 0.38 > 0.01")),
        (OracleResult("not so", 0.01, 0.01, differs=True), ("0.01", "0.01", "must differ and does not: 0.01 ≤ 0.01")),
        (OracleResult("is", math.inf, 1.0), ("∞", "1", "fails: ∞ > 1")),
        (OracleResult("is", math.nan, 1.0), ("NaN", "1", "fails: not a number")),
        (OracleResult("not so", math.nan, 1.0, differs=True), ("NaN", "1", "fails: not a number")),
        (OracleResult("is", None, None, "E: boom (r.py, line 3)"), ("–", "–", "raised E: boom (r.py, line 3)")),
    ],
    ids=lambda value: value.name if isinstance(value, OracleResult) else "",
)
def test_a_line(oracle: OracleResult, expected: tuple[str, str, str]) -> None:
    line = _line(oracle)
    assert (line.error, line.tolerance, line.verdict) == expected


def test_without_any_proof_the_page_says_so(runs: Path, tmp_path: Path) -> None:
    page = build([runs], tmp_path / "out")
    text = "The records hold no oracle check: nothing here shows that a learner is what it says."
    assert text in text_of(page)
    assert text in (tmp_path / "out" / "report.md").read_text()
    assert "<table>" not in page.read_text().split('<section id="oracle_checks">')[1].split("</section>")[0]
    assert (tmp_path / "out" / "oracle_checks.csv").read_text().count("\n") == 1


def test_every_figure_is_on_the_page(runs: Path, tmp_path: Path, verification: Verify) -> None:
    oracle_check = verification(runs, "backprop", target="rules.backprop")
    page = build([runs], tmp_path / "out")
    text = text_of(page)
    assert (
        "2 of 2 oracle checks of 1 algorithm hold: 1 of 1 oracle within its tolerance, 1 of 1 negative control" in text
    )
    assert "Without any oracle check: dfa." in text  # and nothing of bptt, which never ran
    assert "bptt" not in text
    assert "its limit is backprop 2.4 × 10⁻¹⁶ 10⁻¹⁵ holds" in text
    assert "not elsewhere negative control 0.42 0.01 must differ: 0.42 > 0.01" in text
    assert f"oracle_checks/{oracle_check.path.name}" in text
    assert "backprop+adam" in text
    assert "backprop+sgd" in text
    markdown = (tmp_path / "out" / "report.md").read_text().split("## 7 Is each learner what it says?")[1]
    assert "| its limit is backprop | 2.4 × 10⁻¹⁶ | 10⁻¹⁵ | holds |" in markdown
    assert "| not elsewhere (negative control) | 0.42 | 0.01 | must differ: 0.42 &gt; 0.01 |" in markdown
    with (tmp_path / "out" / "oracle_checks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["oracle"], float(row["error"]), float(row["tolerance"]), row["passed"]) for row in rows] == [
        ("its limit is backprop", 2.4e-16, 1e-15, "True"),
        ("not elsewhere", 0.42, 0.01, "True"),
    ]
    numbers = json.loads(re.search(r'id="numbers">(.*?)</script>', page.read_text())[1])  # type: ignore[index]
    assert [one["algorithm"] for one in numbers["oracle_checks"]] == ["backprop", "dfa"]
    assert numbers["oracle_checks"][0]["oracles"][1]["error"] == 0.42
    assert numbers["oracle_checks"][1]["source"] is None
    assert numbers["workloads"][0]["caveats"] == [c for c in numbers["workloads"][0]["caveats"] if "section 7" not in c]


def test_what_fails_stands_in_the_verdict_of_its_tasks_alone(
    synthetic: ModuleType, tmp_path: Path, verification: Verify
) -> None:
    learners = [synthetic.LEARNERS[0], synthetic.Learner("dfa", statuses={"adding": "refused"})]
    tasks = [synthetic.TASKS[0], synthetic.TASKS[2]]
    folder = synthetic.write(tmp_path / "runs", learners, tasks, 2)
    verification(folder, "dfa", ("is backprop", 0.3, 1e-12), ("not else", 0.001, 0.01), ("fine", 0.0, 0.0))
    report = read([folder], "x")
    found = verified(report)
    sentence = "dfa fails 2 of its 3 oracle checks: “is backprop”, “not else”"
    assert f"{sentence}." in summary(found)
    assert summary(found)[0].startswith(
        "1 of 3 oracle checks of 1 algorithm hold: 1 of 2 oracles within their tolerance, 0"
    )
    caveats = {one["workload"]: one["caveats"] for one in assemble(report).numbers["workloads"]}
    expected = f"{sentence}; it may not be what its name says (section 7)."
    assert expected in caveats["digits"]
    assert expected not in caveats["adding"]
    page = build([folder], tmp_path / "out")
    assert page.read_text().count("<details open>") == 1  # what fails lies open
    assert "it may not be what its name says" in (tmp_path / "out" / "report.md").read_text().split("## 1 ")[0]


def test_oracles_that_could_not_be_asked(runs: Path, tmp_path: Path, verification: Verify) -> None:
    folder = runs
    path = verification(folder, "dfa", ("x", 0.0, 0.0), target="rules.dfa", problem="TypeError: boom").path
    path.write_text(json.dumps({**json.loads(path.read_text()), "oracles": []}))
    report = read([folder], "x")
    found = verified(report)
    assert "dfa cannot say what its oracles are: TypeError: boom." in summary(found)
    assert doubts(found, report.tables[0]) == [
        "dfa cannot say what its oracles are: TypeError: boom; it may not be what its name says (section 7)."
    ]
    assert "could not be asked: TypeError: boom" in text_of(build([folder], tmp_path / "out"))


@pytest.mark.parametrize(
    ("sources", "note"),
    [
        ("a", ""),
        ("b", "The oracle check is of other code (bbbbbbbbbbbb) than all runs (aaaaaaaaaaaa)."),
        ("ab", ""),
        ("ba", ""),
    ],
)
def test_the_proof_of_the_code_that_ran_is_the_one(runs: Path, sources: str, note: str, verification: Verify) -> None:
    for place, source in enumerate(sources):
        verification(runs, "dfa", source=source * 64, target="rules.dfa", finished=f"2024-01-0{place + 1}")
    one = next(one for one in verified(read([runs], "x")) if one.algorithm == "dfa")
    assert one.oracle_check is not None
    assert one.oracle_check.source[0] == ("a" if "a" in sources else "b")
    assert one.note == note
    assert (f"dfa: {note}" in summary([one])) == bool(note)


def test_runs_of_several_states_of_the_code(synthetic: ModuleType, tmp_path: Path, verification: Verify) -> None:
    def change(record: dict[str, Any], trace: list[Any], clock: list[Any]) -> None:
        source = {0: "a", 1: "b", 2: "b"}.get(record["seed"])
        record["provenance"]["sources"] = {"algorithm": source and source * 64}

    folder = synthetic.write(tmp_path / "runs", synthetic.LEARNERS[:1], synthetic.TASKS[:1], 4, change=change)
    verification(folder, "backprop", source="a" * 64, finished="2025")
    verification(folder, "backprop", source="b" * 64)
    (one,) = verified(read([folder], "x"))
    assert one.oracle_check is not None
    assert one.oracle_check.source == "b" * 64
    assert one.note == "The oracle check is of other code (bbbbbbbbbbbb) than 1 of 3 runs (aaaaaaaaaaaa)."
    assert summary([one])[-1] == (
        "1 run does not say which state of the code made it: whether the oracle checks are of that code is unknown."
    )


def test_a_proof_of_another_class_of_that_name_is_none(runs: Path, verification: Verify) -> None:
    verification(runs, "dfa", target="elsewhere.dfa")
    assert all(one.oracle_check is None for one in verified(read([runs], "x")))


def test_two_classes_of_one_name_are_told_apart(synthetic: ModuleType, tmp_path: Path, verification: Verify) -> None:
    def change(record: dict[str, Any], trace: list[Any], clock: list[Any]) -> None:
        record["config"]["algorithm"]["_target_"] = "b.Rule" if record["label"] == "mine" else "a.Rule"

    learners = [synthetic.LEARNERS[0], synthetic.Learner("backprop", label="mine")]
    folder = synthetic.write(tmp_path / "runs", learners, synthetic.TASKS[:1], 2, change=change)
    verification(folder, "backprop", *((f"{place}", 1.0, 0.0) for place in range(5)), target="b.Rule", source="b" * 64)
    one, other = verified(read([folder], "x"))
    assert (one.name, [learner.name for learner in one.learners], one.oracle_check) == (
        "backprop (a.Rule)",
        ["backprop+adam"],
        None,
    )
    assert other.name == "backprop (b.Rule)"
    assert "backprop (b.Rule) fails 5 of its 5 oracle checks: “0”, “1”, “2” and 2 more." in summary([one, other])
    assert "Without any oracle check: backprop (a.Rule)." in summary([one, other])


def test_folders_are_merged_with_their_proofs(runs: Path, tmp_path: Path, verification: Verify) -> None:
    other = tmp_path / "other"
    other.mkdir()
    verification(other, "dfa", target="rules.dfa")
    verification(runs, "backprop", target="rules.backprop")
    found = verified(read([runs, other], "x"))
    assert [one.algorithm for one in found if one.oracle_check is not None] == ["backprop", "dfa"]


def test_the_same_records_give_the_same_bytes(runs: Path, tmp_path: Path, verification: Verify) -> None:
    """Wherever they lie, however long the oracles took, in whatever order the files are found."""
    verification(runs, "dfa", target="rules.dfa")
    moved = tmp_path / "moved"
    shutil.copytree(runs, moved)
    path = next((moved / "oracle_checks").iterdir())
    slow = json.loads(path.read_text())
    slow["oracles"][0]["seconds"] = 99.5
    path.write_text(json.dumps(slow))
    build([runs], tmp_path / "a", "x")
    build([moved], tmp_path / "b", "x")
    for name in ("report.html", "report.md", "oracle_checks.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_an_unreadable_proof_is_listed_and_the_page_is_built(runs: Path, tmp_path: Path, verification: Verify) -> None:
    verification(runs, "dfa", target="rules.dfa").path.write_text("{")
    page = build([runs], tmp_path / "out").read_text()
    assert "cannot be read" in page.split('<section id="failures">')[1]


def test_hostile_names_stay_text(hostile_runs: Path, tmp_path: Path) -> None:
    page = build([hostile_runs], tmp_path / "out")
    raw = page.read_text()
    section = raw.split('<section id="oracle_checks">')[1].split("</section>")[0]
    assert "<img" not in raw
    assert "<script>alert" not in raw
    assert "&lt;img src=x" in section
    assert "\u202e" not in raw
    markdown = (tmp_path / "out" / "report.md").read_text().split("## 7 ")[1].split("## 8 ")[0]
    assert "<img" not in markdown
    assert not re.search(r"^# ", markdown, re.M)
