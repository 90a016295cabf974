"""The wheel, installed in an environment of its own and used from an empty folder."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

pytestmark = pytest.mark.slow


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_only_altprop_is_installed(wheel: Path) -> None:
    assert {name.split("/")[0] for name in names(wheel)} == {"altprop", "altprop-0.1.0.dist-info"}


def test_every_source_file_is_in_the_wheel(wheel: Path, mapped: dict[str, str]) -> None:
    content = names(wheel)
    for folder, package in {"altprop": "altprop", **mapped}.items():
        prefix = package.replace(".", "/")
        for path in (ROOT / folder).rglob("*"):
            inside = path.relative_to(ROOT / folder)
            linked = folder == "altprop" and inside.parts[0] in mapped
            if path.suffix in (".py", ".yaml", ".html", ".css", ".js", ".typed") and not linked:
                assert f"{prefix}/{inside.as_posix()}" in content


def test_the_licence_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("altprop-0.1.0.dist-info/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        metadata = archive.read("altprop-0.1.0.dist-info/METADATA").decode()
    assert "\nLicense-Expression: MIT\n" in metadata
    assert "\nRequires-Python: <3.14,>=3.11\n" in metadata


def test_a_clone_without_links_builds_the_same_wheel(wheel: Path, sdist_wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(sdist_wheel) as theirs:
        assert set(ours.namelist()) == set(theirs.namelist())
        for name in ours.namelist():
            if not name.endswith("RECORD"):
                assert ours.read(name) == theirs.read(name), name


def test_the_wheel_is_what_is_imported(installed: Any) -> None:
    done = installed.run(
        "python", "-c", "import altprop, altprop.tasks; print(altprop.__file__, altprop.tasks.__file__)"
    )
    assert done.returncode == 0, done.stderr
    assert all(str(installed.bin.parent) in file for file in done.stdout.split())


def test_every_config_composes(installed: Any) -> None:
    shutil.copy2(HERE / "compose_everything.py", installed.bin.parent)
    done = installed.run("python", installed.bin.parent / "compose_everything.py", timeout=400)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert {name: error for name, error in outcome.items() if error is not None} == {}
    expected = {
        f"{path.parent.relative_to(ROOT / 'conf').as_posix().removeprefix('.')}/{path.stem}"
        for path in (ROOT / "conf").rglob("*.yaml")
    }
    assert set(outcome) == expected
    assert {name.split("/")[0] for name in outcome} >= {"algorithm", "optimizer", "dropout", "task", "model", "budget"}


def test_every_target_is_importable(installed: Any) -> None:
    """A class that a config names is in the wheel too."""
    targets = {
        line.split(":", 1)[1].split("#")[0].strip().strip("\"'")
        for path in (ROOT / "conf").rglob("*.yaml")
        for line in path.read_text().splitlines()
        if line.strip().startswith("_target_:")
    }
    ours = sorted(target for target in targets if target.startswith("altprop."))
    assert ours
    code = "import sys; from hydra.utils import get_object; [get_object(name) for name in sys.argv[1:]]"
    done = installed.run("python", "-c", code, *ours)
    assert done.returncode == 0, done.stderr


def test_every_console_script_answers(installed: Any, pyproject: dict[str, Any]) -> None:
    for script in pyproject["project"]["scripts"]:
        done = installed.run(script, "--help")
        assert done.returncode == 0, (script, done.stderr)
        assert script in done.stdout
    assert list(installed.empty.iterdir()) == []


def test_the_default_run_leaves_a_record_and_a_report(installed: Any) -> None:
    """`altprop` with no arguments trains backprop and adam on digits, and says where the report lies."""
    done = installed.run("altprop", timeout=300)
    assert done.returncode == 0, done.stderr
    records = list((installed.empty / "runs").glob("*/record.json"))
    assert len(records) >= 1
    for record in records:
        content = json.loads(record.read_text())
        assert content["status"] == "completed"
        assert content["axes"]["algorithm"] == "backprop"
        assert content["result"]["test"] > 0.85
    assert ".html" in done.stdout
