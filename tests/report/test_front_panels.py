"""Fronts that runs left behind reach the page, and other tables of that name do not."""

from pathlib import Path

from altprop.cli.run import run
from altprop.report.build import build
from altprop.report.front_panels import front_panels
from altprop.report.reading import read


def test_fronts_of_all_seeds_are_drawn_and_other_tables_are_not(tmp_path: Path) -> None:
    command = ["algorithm=nsga2", "algorithm.population=8", "task=xor", "seeds=2", f"runs_dir={tmp_path / 'runs'}"]
    assert run([*command, "budget.currency=steps", "budget.amount=4", "report=false", "probes=off"]) == 0
    first, second = sorted((tmp_path / "runs").rglob("front.csv"))
    first.write_text("loss,weights\n0.9,0\n0.5,4\n0.25,9\n")
    second.write_text("loss,weights\ninf,0\n0.75,2\n")
    page = build([tmp_path / "runs"], tmp_path / "page", formats=["md"]).read_text()
    assert page.count("#### Loss against size") == 1
    (figure,) = (tmp_path / "page" / "figures").glob("front-weights-xor*")
    drawn = figure.read_text()
    for said in (">loss by weights, xor", ">size: weights<", ">nsga2(population=8)<"):
        assert said in drawn
    report = read([tmp_path / "runs"], "x")
    (panel,) = front_panels(report, report.tables[0])
    assert len(panel.figures) == 1
    # A step goes right before it goes down: at 4 weights the loss that 0 weights had, and then its own.
    lines = [paths for paths in panel.figures[0].canvas._paths if paths[5] == 0.55]
    assert [len(line[0]) for line in lines] == [5]  # that of one point is a mark alone
    corners = lines[0][0]
    assert corners[0, 1] == corners[1, 1] != corners[2, 1]
    assert corners[1, 0] == corners[2, 0]
    for text in ("size,error\n1,2\n", "loss\n1\n", "loss,formula\n0.5,x\n", "loss,weights\n"):
        for path in (first, second):
            path.write_text(text)
        assert front_panels(report, report.tables[0]) == []
