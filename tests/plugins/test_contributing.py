"""CONTRIBUTING's way from an empty file to a row in the report, walked line by line."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow  # each command imports torch

FULL = "## From an empty file to a row in the report"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks() -> dict[str, list[str]]:
    """Return language -> the code of the section."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split(FULL)[1].split("\n## ")[0]
    found: dict[str, list[str]] = {}
    for language, code in BLOCK.findall(section):
        found.setdefault(language, []).append(code)
    return found


def test_a_task_a_model_and_a_noise(bare: Any, tmp_path: Path) -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## A model, a task, a noise")[1].split("\n## ")[0]
    code = [(language, text) for language, text in BLOCK.findall(section)]
    names = re.findall(r"`(\w+)\.py`", section.split("Here is one of each.")[1])
    groups = re.findall(r"`conf/(\w+)/\w+\.yaml`", section.split("The yaml files are")[1])
    sources = [text for language, text in code if language == "python"]
    files = [text for language, text in code if language == "yaml"]
    for name, group, source, text in zip(names, groups, sources, files, strict=True):
        (tmp_path / f"{name}.py").write_text(source)
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(text)
    (commands,) = (text.splitlines() for language, text in code if language == "bash")
    for line in commands:
        done = bare.run(tmp_path, *shlex.split(line))
        assert done.returncode == 0, done.stdout + done.stderr
    (record, *_) = bare.records(tmp_path).values()
    assert record["status"] == "completed"
    assert record["result"]["test"] > 0.9


def said() -> str:
    """Return the section's words on one line."""
    return " ".join((ROOT / "CONTRIBUTING.md").read_text().split(FULL)[1].split("\n## ")[0].split())


def shortened(line: str) -> list[str]:
    """Return a command, which trains for a few steps only: no figure of its runs is looked at."""
    command = shlex.split(line)
    short = ["budget.currency=steps", "budget.amount=20", "budget.grid=2", "budget.block=10"]
    return command + short if command[0] == "altprop" else command


def test_from_an_empty_file_to_a_row(bare: Any, tmp_path: Path) -> None:
    code = blocks()
    rule, checks, runs, named = code["python"][0], *(text.splitlines() for text in code["bash"])
    (tmp_path / "random_slope.py").write_text(rule)

    (check,) = (shlex.split(line) for line in checks)
    evaluated = bare.run(tmp_path, *check)
    assert evaluated.returncode == 1, evaluated.stderr
    (broken,) = [line for line in evaluated.stdout.splitlines() if "BROKEN" in line]
    assert broken.split(": ", 1)[1] in said()
    mended = rule.replace("    gradient_is_exact = True\n", "")
    assert mended.count("\n") == rule.count("\n") - 1
    (tmp_path / "random_slope.py").write_text(mended)
    evaluated = bare.run(tmp_path, *check)
    assert evaluated.returncode == 0, evaluated.stdout
    assert "all rules hold" in evaluated.stdout

    for line in runs:
        done = bare.run(tmp_path, *shortened(line))
        assert done.returncode == 0, done.stderr
    records = bare.records(tmp_path)
    (own,) = [record for record in records.values() if record["axes"]["algorithm"] == "RandomSlope"]
    assert own["status"] == "completed"
    page = (tmp_path / "runs" / "report" / "report.html").read_text()
    assert own["label"].split("(")[0] in page
    assert "backprop+sgd" in page

    (tmp_path / "conf" / "algorithm").mkdir(parents=True)
    (tmp_path / "conf" / "algorithm" / "random_slope.yaml").write_text(code["yaml"][0])
    for line in named:
        done = bare.run(tmp_path, *shortened(line))
        assert done.returncode == 0, done.stderr
    assert "random_slope" in done.stdout
    (row,) = [record for label, record in bare.records(tmp_path).items() if label.startswith("random_slope")]
    assert row["status"] == "completed"


def test_shared_as_a_distribution(blank: Any, tmp_path: Path) -> None:
    code, source = blocks(), tmp_path / "source"
    (source / "random_slope_conf" / "algorithm").mkdir(parents=True)
    (source / "random_slope_conf" / "__init__.py").touch()
    (source / "random_slope_conf" / "algorithm" / "random_slope.yaml").write_text(code["yaml"][0])
    (source / "random_slope.py").write_text(code["python"][0].replace("    gradient_is_exact = True\n", ""))
    (source / "pyproject.toml").write_text(code["toml"][0])
    blank.install(source)
    done = blank.run(tmp_path, "altprop-check", "random_slope")
    assert done.returncode == 0, done.stdout + done.stderr
