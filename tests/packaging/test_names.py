"""algorithms/, tasks/ and conf/ have one name each, inside altprop."""

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAPPED = {"algorithms": "altprop.algorithms", "conf": "altprop.conf", "tasks": "altprop.tasks"}


@pytest.mark.parametrize("wrong", MAPPED)
def test_a_mapped_package_refuses_another_name(wrong: str) -> None:
    spec = importlib.util.spec_from_file_location(wrong, ROOT / wrong / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=rf"this package is called {MAPPED[wrong]}, not {wrong}: "):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("folder", MAPPED)
def test_a_mapped_package_is_imported_by_its_own_name(folder: str) -> None:
    module = importlib.import_module(MAPPED[folder])
    assert module.__file__ is not None
    assert os.path.samefile(module.__file__, ROOT / folder / "__init__.py")


def test_python_started_in_the_repository_cannot_import_algorithms_by_accident() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import algorithms.backprop"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "this package is called altprop.algorithms, not algorithms" in done.stderr


@pytest.mark.parametrize("folder", MAPPED)
def test_the_link_inside_altprop_is_relative(folder: str) -> None:
    link = ROOT / "altprop" / folder
    if not link.is_symlink():
        pytest.skip("this clone has no links (git config core.symlinks=false)")
    assert Path(os.readlink(link)) == Path("..") / folder


def test_a_new_file_is_importable_without_installing_again(tmp_path: Path) -> None:
    """What an editable install promises; the file is in the tree only while this test runs."""
    name = f"_probe_{os.getpid()}"
    for folder, package in MAPPED.items():
        path = ROOT / folder / f"{name}.py"
        path.write_text("answer = 42\n")
        try:
            code = f"from {package}.{name} import answer; print(answer)"
            done = subprocess.run(
                [sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
            )
        finally:
            path.unlink()
        assert done.stdout == "42\n", done.stderr
