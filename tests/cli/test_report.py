"""altprop-report: where the page lies, exit codes, one-line errors, and no heavy import before the arguments."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from altprop.cli.report import main


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A few synthetic records."""
    place = Path(__file__).parents[1] / "report" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("altprop_tests_cli_synthetic", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    written: Path = module.write(tmp_path / "runs", module.LEARNERS[:2], module.TASKS[:1], 2)
    return written


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0)


def test_defaults(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(runs.parent)
    assert run() == 0
    assert capsys.readouterr().out == f"report: {Path('report') / 'report.html'}\n"
    assert (runs.parent / "report" / "report.md").is_file()
    page = (runs.parent / "report" / "report.md").read_text()
    assert "backprop+adam (reference)" in page
    assert run("--reference", "backprop+sgd") == 0
    page = (runs.parent / "report" / "report.md").read_text()
    assert "backprop+sgd (reference)" in page
    assert "backprop+adam (reference)" not in page


def test_options(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "place"
    assert run(str(runs), str(runs), "--out", str(out), "--title", "A <title>", "--format", "md") == 0
    assert capsys.readouterr().out == f"report: {out / 'report.md'}\n"
    assert not (out / "report.html").exists()
    assert (out / "report.md").read_text().startswith("# A &lt;title&gt;\n")


def test_two_folders_give_the_page_of_one(runs: Path, tmp_path: Path) -> None:
    """As after a sweep on two machines: each has its runs, and some are in both."""
    keys = sorted(path.parent.name for path in runs.glob("*/record.json"))
    assert len(keys) == 4
    for name, mine in (("a", keys[:3]), ("b", keys[2:])):
        for key in mine:
            shutil.copytree(runs / key, tmp_path / name / key)
    pages = []
    for folders in ([runs], [tmp_path / "a", tmp_path / "b"], [tmp_path / "b", tmp_path / "a"]):
        out = tmp_path / f"page-{len(pages)}"
        assert run(*map(str, folders), "--out", str(out)) == 0
        pages.append([(out / name).read_bytes() for name in ("report.html", "report.md")])
    assert pages[0] == pages[1] == pages[2]
    assert run(str(tmp_path / "a"), "--out", str(tmp_path / "part")) == 0
    assert (tmp_path / "part" / "report.md").read_bytes() != pages[0][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no folder of records 'nowhere'"),
        (["empty"], "there are no records in 'empty'"),
        (["runs", "--format", "pdf"], "unknown report format pdf: choose from html, md"),
        (["runs", "--format", ","], "unknown report format none: choose from html, md"),
        (["runs", "--reference", "backprop"], "no learner of the report is called backprop; did you mean backprop+"),
        (["runs", "--out", "taken"], "the report cannot be written to 'taken'"),
    ],
)
def test_mistakes_cost_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(runs.parent)
    Path("empty").mkdir()
    Path("taken").write_text("a file")
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"altprop-report: {message}")
    assert error.count("\n") == 1


def test_help_imports_nothing_heavy() -> None:
    source = (
        "import sys\n"
        "from altprop.cli.report import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('numpy', 'pandas', 'matplotlib', 'torch', 'hydra', 'jinja2') if n in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "default: runs" in done.stdout
