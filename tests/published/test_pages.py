"""Of every published report: its page is what its records give, what it weighs, and what it leaves out is told."""

import json
import re
import shlex
import tarfile
from pathlib import Path

import pytest

from altprop.records.folders import LEFT_OUT
from altprop.report.build import PUBLISHED, build

ROOT = Path(__file__).parents[2]
NAMED = ("--out", "--title", "--reference")
REPORTS = sorted(path for path in (ROOT / "reports").iterdir() if path.is_dir())


def options() -> dict[str, dict[str, str]]:
    """Return report -> option -> value, of the commands that publish."""
    text = (ROOT / "reports" / "README.md").read_text().replace("\\\n", " ")
    found = {}
    for line in re.findall(r"^altprop-report reports/.* --publish .*$", text, re.M):
        words = shlex.split(line)
        given = {words[i].removeprefix("--"): words[i + 1] for i in range(2, len(words)) if words[i] in NAMED}
        found[Path(given["out"]).name] = given
    return found


@pytest.mark.slow
@pytest.mark.parametrize("report", REPORTS, ids=lambda path: path.name)
def test_the_page_is_what_its_records_give(report: Path, tmp_path: Path) -> None:
    given = options()[report.name]
    build([report / "records.tar.xz"], tmp_path, given["title"], publish=True, reference=given.get("reference"))
    ours, theirs = (
        {p.relative_to(at): p.read_bytes() for p in at.rglob("*") if p.is_file()} for at in (tmp_path, report)
    )
    assert ours.keys() == theirs.keys()
    assert [str(name) for name in ours if ours[name] != theirs[name]] == []


@pytest.mark.parametrize("report", REPORTS, ids=lambda path: path.name)
def test_what_the_archive_leaves_out_is_told_on_the_page(report: Path) -> None:
    page = (report / "report.md").read_text()
    with tarfile.open(report / "records.tar.xz") as archive:  # `left_out` would make a folder of each run
        said = archive.extractfile(LEFT_OUT) if LEFT_OUT in archive.getnames() else None
        sentences = [] if said is None else json.loads(said.read())
    assert all(sentence in page for sentence in sentences)


@pytest.mark.parametrize("report", REPORTS, ids=lambda path: path.name)
def test_a_published_report_is_small_and_holds_nothing_else(report: Path) -> None:
    sizes = {path.relative_to(report).as_posix(): path.stat().st_size for path in report.rglob("*") if path.is_file()}
    shown = set(re.findall(r"\]\((figures/[^)]+)\)", (report / "report.md").read_text()))
    assert set(sizes) == {"report.md", "report.html", "records.tar.xz"} | shown
    assert PUBLISHED == 3_000_000
    assert sizes["report.html"] <= PUBLISHED
    assert sizes["records.tar.xz"] <= PUBLISHED
    assert sum(sizes.values()) <= 6_000_000


def test_there_are_reports() -> None:
    assert {report.name for report in REPORTS} >= {
        "alternatives",
        "conv_alternatives",
        "credit_horizon",
        "dropout",
        "evolution",
        "first_order",
        "second_order",
        "through_time",
        "tour",
        "vanishing_gradients",
    }
