"""What a published report weighs, and that it is these files and no others."""

import re
from pathlib import Path

import pytest

from altprop.report.build import PUBLISHED

ROOT = Path(__file__).parents[2]
REPORTS = sorted(path for path in (ROOT / "reports").iterdir() if path.is_dir())


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
        "dropout",
        "first_order",
        "through_time",
        "tour",
        "vanishing_gradients",
    }
