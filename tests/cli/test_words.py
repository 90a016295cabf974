"""What commands say: counts, singulars, listings with defaults and search spaces, and the page that opens."""

import json
import webbrowser
from pathlib import Path
from types import SimpleNamespace

import pytest

from altprop import catalogue
from altprop.cli import report
from altprop.cli.listing import _range, main, options
from altprop.cli.run import counted
from altprop.harness.composition import spell


def ended(status: str, *, executed: bool = True) -> SimpleNamespace:
    return SimpleNamespace(status=status, executed=executed)


def test_counts_are_right() -> None:
    assert counted([ended("completed")]) == "1 run, 1 executed"
    many = [ended("completed"), ended("failed"), ended("refused"), ended("completed", executed=False)]
    assert counted(many) == "4 runs, 2 executed, 1 refused"


def test_a_listing_shows_defaults_and_search_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    main(["algorithm"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "scale=1.0 [0.1 to 10, log]  distribution=normal" in lines
    main(["optimizer", "--json"])
    adam = json.loads(capsys.readouterr().out)["optimizer"]["adam"]
    assert adam["defaults"]["betas"] == [0.9, 0.999]
    assert adam["search"] == {"lr": {"low": 1e-4, "high": 0.1, "scale": "log"}}
    assert _range("algorithm", "k2", {"choices": [5, 10]}) == " [5 or 10]"
    assert _range("algorithm", "k2", {"nonsense": 1}) == ""


@pytest.mark.parametrize("group", ["algorithm", "task", "model"])
def test_a_glob_takes_what_needs_nothing_of_its_user(group: str) -> None:
    names = spell(f"{group}=glob(*)").removeprefix(f"{group}=").split(",")
    listed = catalogue.entries(group)
    assert set(names) == {f"'{n}'" if n == "null" else n for n in listed} - {"custom", "table", "arrays", "images"}
    assert all("???" not in options(one).values() for name, one in listed.items() if name in names)


def test_a_penalty_is_set_without_a_plus() -> None:
    assert spell("task.penalty.l2=0.1") == "++task.penalty.l2=0.1"


def test_the_page_opens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened: list[str] = []
    monkeypatch.setattr(report, "report", lambda *given: 0)
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or len(opened) > 1)
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            report.main(["runs", "--out", str(tmp_path), "--open"])
        assert stop.value.code == 0
    assert opened == [(tmp_path / "report.html").as_uri()] * 2
    assert capsys.readouterr().err == "altprop-report: no browser was found; open the file above\n"
