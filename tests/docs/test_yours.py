"""docs/yours.md, line by line: what users bring, each in at most three commands."""

import csv
import random
import re
import shlex
from pathlib import Path

import pytest

import altprop
from altprop.cli.check import main as check
from altprop.cli.report import main as report
from altprop.cli.run import run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "yours.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SECTIONS = {part.split("\n")[0]: part for part in PAGE.read_text().split("\n## ")[1:]}
pytestmark = pytest.mark.slow  # it trains


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def commands(section: str) -> list[list[str]]:
    blocks = [code for language, code in BLOCK.findall(SECTIONS[section]) if language == "bash"]
    found = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert 1 <= len(found) <= 3
    return found


def code(section: str) -> str:
    (block,) = [code for language, code in BLOCK.findall(SECTIONS[section]) if language == "python"]
    return block


def write(name: str, header: str, rows: list[list[object]]) -> None:
    with open(name, "w", newline="") as file:
        csv.writer(file).writerows([header.split(), *rows])


def said(section: str) -> str:
    return " ".join(SECTIONS[section].split())


def test_a_table_with_text_and_missing_values(capsys: pytest.CaptureFixture[str]) -> None:
    section, draw = "A table with text and missing values", random.Random(0)
    rows: list[list[object]] = []
    for number in range(300):
        age, city, fare = draw.randint(1, 80), draw.choice(["Rome", "Oslo"]), draw.gauss(30, 5)
        lives = age < 40 or city == "Oslo"
        rows.append(["" if draw.random() < 0.1 else age, city, f"n{number}", fare, "yes" if lives else "no"])
    write("passengers.csv", "age city name fare survived", rows)
    first, second = commands(section)
    assert run(first[1:]) == 2
    told = capsys.readouterr().err.removeprefix("altprop: ").strip()
    assert told in said(section)
    assert not Path("runs").exists()
    assert run(second[1:]) == 0
    frame = altprop.load("runs")
    assert list(frame.status) == ["completed"] * 6
    assert (frame.test > frame.chance).all()
    assert Path("runs/report/report.html").is_file()


def test_classes_of_which_one_is_rare(capsys: pytest.CaptureFixture[str]) -> None:
    section, draw = "Classes of which one is rare", random.Random(0)
    points = [(draw.gauss(0, 1), draw.gauss(0, 1)) for _ in range(500)]
    rare = sorted(points, key=sum)[-30:]
    write("fraud.csv", "x y fraud", [[*point, int(point in rare)] for point in points])
    (line,) = commands(section)
    assert run(line[1:]) == 0
    note = capsys.readouterr().out.split("note: ")[1].splitlines()[0].split(": ", 1)[1]
    assert note in said(section)
    frame = altprop.load("runs")
    assert set(frame.chance) == {0.5}
    assert {"accuracy", "balanced_accuracy", "macro_f1", "log_loss"} <= set(frame.test_metrics[0])


def test_a_model_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.py").write_text(code("A model of your own"))
    examined, trained = commands("A model of your own")
    with pytest.raises(SystemExit) as stop:
        check(examined[1:])
    assert stop.value.code == 0, capsys.readouterr().out
    assert run(trained[1:]) == 0
    labels = set(altprop.load("runs").label)
    assert labels == {f"{name}+adam·model=Net(width={width})" for name in ("backprop", "dfa") for width in (8, 64)}


def test_runs_of_other_tools() -> None:
    section = "Runs of other tools"
    rows: list[list[object]] = [
        [name, "walker", seed, step, "return", rate * step + seed]
        for name, rate in (("ppo", 1), ("sac", 2))
        for seed in range(3)
        for step in range(5)
    ]
    write("my_runs.csv", "learner task seed step metric value", rows)
    table, folder = commands(section)
    assert folder[1] == "tb_logs"  # tests/records has event files
    with pytest.raises(SystemExit) as stop:
        report(table[1:])
    assert stop.value.code == 0
    before = Path("page/report.md").read_text()
    assert "2 learners on 1 task, 6 runs: 6 completed." in before
    exec(compile(code(section), "yours.md", "exec"), {})
    assert Path("page/report.md").read_text() == before


def test_a_grid_and_a_plot() -> None:
    (line,) = commands("A grid of learning rates")
    assert run(line[1:]) == 0
    labels = set(altprop.load("runs").label)
    assert labels == {f"backprop+sgd(lr={rate})·hidden=[{width}]" for rate in ("0.01", "0.1", "1") for width in (8, 32)}
    exec(compile(code("A plot of your own"), "yours.md", "exec"), {})
    assert Path("loss.png").stat().st_size > 10_000
