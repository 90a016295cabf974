"""What a task wants drawn stands in its records, and the report draws it from them without the task's code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kinds
import pytest
from drawn_tasks import DrawsWhatIsNotMeasured

import altprop
from altprop import AltpropError, Panel
from altprop.report.build import build

GAME = ["task=planted", "model._target_=games.TwoNumbers", "~model.hidden", "~model.initialisation", "dtype=float64"]
DESCENT = ["algorithm=custom", "algorithm._target_=games.Descent", "optimizer=sgd"]
SHORT = ["budget.currency=steps", "budget.amount=60", "budget.grid=12", "budget.block=5", "report=false"]


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of two learners of a game, two seeds each."""
    folder = tmp_path_factory.mktemp("game")
    planted = kinds.plant(folder, "drawn_tasks.DrawnGame")
    for more in (["optimizer.lr=0.05"], ["optimizer.lr=0.1", "+algorithm.alternating=true"]):
        altprop.run([*SHORT, *GAME, *DESCENT, *more, "seeds=2", f"runs_dir={folder / 'runs'}"], config_dir=planted)
    return folder / "runs"


@pytest.fixture(scope="module")
def game_report(game: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report, built by a process that cannot find the task: its folder is not on the path."""
    out = tmp_path_factory.mktemp("report")
    code = f"import sys; from altprop.report.build import build; build([{str(game)!r}], {str(out)!r})"
    code += "; print(sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "drawn_tasks" not in done.stdout
    assert "torch" not in done.stdout
    return out


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/record.json"))]


def test_the_record_keeps_what_is_to_be_drawn(game: Path) -> None:
    for record in records(game):
        assert record["result"]["panels"] == [
            {"kind": "trajectory", "metrics": ["x", "y"], "caption": "The equilibrium is (0, 0)."},
            {"kind": "curves", "metrics": ["x", "y"], "caption": ""},
        ]


def test_a_game_has_its_trajectory_and_its_curves(game_report: Path) -> None:
    page = (game_report / "report.html").read_text()
    assert "<h4>Trajectory: x, y</h4>" in page
    assert "The equilibrium is (0, 0). One line a run" in page
    assert page.count('aria-label="y over x along every run') == 2
    assert "<h4>x, y</h4>" in page
    for name in "xy":
        assert len(re.findall(f'aria-label="validation {name}, planted[^"]*, over the share of the budget"', page)) == 1
    names = [path.stem for path in (game_report / "figures").glob("*.svg")]
    assert sum(name.startswith(("validation_x-planted", "validation_y-planted")) for name in names) == 2
    assert sum(name.startswith("trajectory-planted") for name in names) == 2
    text = (game_report / "report.md").read_text()
    assert text.count("](figures/trajectory-planted") == 2


def test_a_stream_has_its_matrix(run: Callable[..., Any], tmp_path: Path) -> None:
    words = ("task=iris", "task.batch_size=10", "budget.amount=120", "optimizer.lr=0.05", "seeds=3")
    run("task._target_=drawn_tasks.DrawnStream", *words)
    out = build([tmp_path / "runs"], tmp_path / "out")
    page = out.read_text()
    assert "accuracy after each context" in page
    figure = page[page.index('aria-label="accuracy on each set after each context') :]
    texts = re.findall("<text[^>]*>([^<]*)</text>", figure[: figure.index("</svg>")])
    matrices = [record["result"]["matrix"] for record in records(tmp_path / "runs")]
    medians = [
        sorted(matrix[context][name] for matrix in matrices)[1]
        for context in ("early", "late")
        for name in ("test", "early", "late")
    ]
    assert texts[1:4] == ["test", "early", "late"]
    numbers = [text for text in texts[4:] if text not in ("early", "late")]
    assert [float(text) for text in numbers] == pytest.approx(medians, abs=0.006)


@pytest.mark.parametrize(
    ("panels", "said"),
    [
        ([{"kind": "hologram", "metrics": []}], "does not know that kind"),
        ([{"kind": "{0.__class__}", "metrics": 3}], "{0.__class__}"),
        ([{"kind": "curves", "metrics": ["never"]}], "no run recorded it"),
        ([{"kind": "trajectory", "metrics": ["x"]}], "no run recorded it"),
        ([{"kind": "matrix"}], "no run recorded it"),
        ("text", ""),
        ([3, None], ""),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(game: Path, tmp_path: Path, panels: Any, said: str) -> None:
    for path in sorted(game.glob("*/record.json"))[:2]:
        record = json.loads(path.read_text())
        record["result"]["panels"] = panels
        folder = tmp_path / "runs" / path.parent.name
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(record))
        (folder / "trace.jsonl").write_bytes((path.parent / "trace.jsonl").read_bytes())
    page = build([tmp_path / "runs"], tmp_path / "out").read_text()
    assert said in page
    assert "Trajectory" not in page or panels[0]["kind"] == "trajectory"


@pytest.mark.parametrize(
    ("kind", "metrics"), [("curves", ()), ("trajectory", ("x",)), ("matrix", ("x",)), ("hologram", ("x",))]
)
def test_a_panel_that_nothing_can_draw_is_refused(kind: str, metrics: tuple[str, ...]) -> None:
    with pytest.raises(AltpropError, match="a panel is curves of metrics"):
        Panel(kind, metrics)


def test_a_panel_of_what_is_not_measured_is_refused() -> None:
    with pytest.raises(AltpropError, match="wants speed drawn and does not name it in `metrics`"):
        DrawsWhatIsNotMeasured()


def test_other_tasks_declare_nothing(run: Callable[..., Any], tmp_path: Path) -> None:
    run("task=iris")
    (record,) = records(tmp_path / "runs")
    assert "panels" not in record["result"]
