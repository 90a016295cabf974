"""The page in a real browser: nothing in the console, nothing from the network, every figure in sight, no name acts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from altprop.report.build import build

pytestmark = pytest.mark.browser

WIDTHS = [pytest.param(1280, id="desktop"), pytest.param(390, id="phone")]
SCHEMES = [pytest.param(False, id="light"), pytest.param(True, id="dark")]

# Every figure that is not inside a hidden view or a closed <details>, and what is wrong with it.
FIGURES = """
const wide = document.documentElement.clientWidth, wrong = [];
let seen = 0;
for (const figure of document.querySelectorAll('figure')) {
  if (!figure.checkVisibility()) continue;
  seen += 1;
  const svg = figure.querySelector('svg.altprop-figure'), box = svg.getBoundingClientRect();
  const name = svg.getAttribute('aria-label');
  if (box.width < 100 || box.height < 20) wrong.push(['no box', name, box.width, box.height]);
  if (box.left < 0 || box.right > wide + 0.5) wrong.push(['outside the page', name, box.left, box.right]);
  if (!svg.querySelector('path') || !name) wrong.push(['empty', name]);
  for (const text of svg.querySelectorAll('text')) {
    const part = text.getBoundingClientRect();
    const beside = part.left < box.left - 1.5 || part.right > box.right + 1.5;
    if (beside || part.top < box.top - 2 || part.bottom > box.bottom + 2)
      wrong.push(['label cut', name, text.textContent]);
  }
}
return {seen, wrong};
"""

COLOURS = """
const parse = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
const body = getComputedStyle(document.body);
const text = document.querySelector('svg.altprop-figure text');
return {page: parse(body.backgroundColor), ink: parse(body.color), label: parse(getComputedStyle(text).fill)};
"""


@pytest.fixture(scope="module")
def chrome(browser: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all tests."""
    reason = browser.missing()
    if reason:
        pytest.skip(reason)
    with browser.session(tmp_path_factory.mktemp("profile")) as session:
        yield session


@pytest.fixture(scope="module")
def hostile(hostile_runs: Path) -> Path:
    """The report on hostile records."""
    return build([hostile_runs], hostile_runs.parent / "report", "</title><script>alert(3)</script>").parent


def opened(chrome: Any, folder: Path, width: int = 1280, dark: bool = False) -> list[str]:
    """Open a report and return the addresses that were asked for."""
    chrome.log("browser")
    chrome.requests()
    chrome.view(width, dark=dark)
    chrome.open(folder / "report.html")
    return list(chrome.requests())


@pytest.mark.parametrize("dark", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_page_is_whole(chrome: Any, tour_report: Path, width: int, dark: bool) -> None:
    asked = opened(chrome, tour_report, width, dark)
    assert asked == [(tour_report / "report.html").resolve().as_uri(), "data:,"][: len(asked)]
    assert chrome.log("browser") == []
    found = chrome.script(FIGURES)
    assert found["seen"] > 80
    assert found["wrong"] == []
    assert chrome.script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize("dark", SCHEMES)
def test_colours_follow_the_scheme(chrome: Any, tour_report: Path, dark: bool) -> None:
    opened(chrome, tour_report, dark=dark)
    colours = chrome.script(COLOURS)
    brightness = {name: sum(parts) / 3 for name, parts in colours.items()}
    assert (brightness["page"] < 60) == dark
    assert (brightness["ink"] > 200) == dark
    assert abs(brightness["label"] - brightness["page"]) > 70


def test_x_switch(chrome: Any, tour_report: Path) -> None:
    """Each choice shows its own figures and tables, and hides the others; without any script."""
    opened(chrome, tour_report)
    shown = "return [...document.querySelectorAll('.view')].filter(v => v.checkVisibility()).map(v => v.className)"
    assert set(chrome.script(shown)) == {"view view-flops"}
    for currency in ("steps", "cpu_seconds", "forward_equivalents", "flops"):
        chrome.script("document.querySelector(`label[for=x-${arguments[0]}]`).click()", currency)
        assert set(chrome.script(shown)) == {f"view view-{currency}"}
        assert len(chrome.script(shown)) == 3
        found = chrome.script(FIGURES)
        assert found["wrong"] == []
    assert chrome.log("browser") == []


def test_x_switch_by_keyboard(chrome: Any, tour_report: Path) -> None:
    opened(chrome, tour_report)
    chrome.script("document.getElementById('x-flops').focus()")
    for kind in ("keyDown", "keyUp"):
        chrome.devtools(
            "Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39
        )
    assert chrome.script("return document.querySelector('input[name=x]:checked').id") == "x-steps"


def test_every_page_of_a_run_opens(chrome: Any, tour_report: Path) -> None:
    opened(chrome, tour_report, 390)
    chrome.script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert chrome.script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert chrome.script(FIGURES)["wrong"] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_hostile_names_are_inert(chrome: Any, hostile: Path, width: int) -> None:
    asked = opened(chrome, hostile, width)
    assert all(address.endswith("/report.html") or address == "data:," for address in asked)
    assert chrome.log("browser") == []
    assert chrome.script("return document.querySelectorAll('img, iframe, object, script:not([type])').length") == 0
    assert chrome.script("return document.title") == "</title><script>alert(3)</script>"
    assert chrome.script("return JSON.parse(document.getElementById('numbers').textContent).title") == (
        "</title><script>alert(3)</script>"
    )
    chrome.script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert chrome.script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert chrome.script(FIGURES)["wrong"] == []


def test_a_crowd_stays_readable(chrome: Any, synthetic: ModuleType, tmp_path: Path) -> None:
    crowd = [synthetic.LEARNERS[0], *(synthetic.Learner(f"rule_{i:02d}", share=i / 20, align=0.1) for i in range(19))]
    runs = synthetic.write(tmp_path / "runs", crowd, synthetic.TASKS[:2], 2)
    opened(chrome, build([runs], tmp_path / "out").parent)
    assert chrome.log("browser") == []
    assert chrome.script(FIGURES)["wrong"] == []


def test_a_figure_file_stands_alone(chrome: Any, tour_report: Path) -> None:
    for dark in (False, True):
        chrome.log("browser")
        chrome.view(600, dark=dark)
        chrome.open(tour_report / "figures" / "convergence-digits-flops.svg")
        assert chrome.log("browser") == []
        ground = chrome.script("return getComputedStyle(document.documentElement).backgroundColor")
        assert (ground == "rgb(21, 23, 27)") == dark
        stroke = "return getComputedStyle(document.querySelector('path[style*=stroke]')).stroke"
        assert chrome.script(stroke).startswith("rgb(")
