"""Where the project lies, how it is declared, and the wheel that is built from it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Folder in the repository -> the name it is imported under.
MAPPED = {"algorithms": "altprop.algorithms", "conf": "altprop.conf", "tasks": "altprop.tasks"}
SOURCE_FILES = ("pyproject.toml", "README.md", "LICENSE")


class Installed(NamedTuple):
    """A virtual environment into which the wheel was installed, and an empty folder to work in."""

    bin: Path
    empty: Path
    environment: dict[str, str]

    def run(self, *command: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run one of its programs from the empty folder."""
        return subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.empty,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def mapped() -> dict[str, str]:
    return MAPPED


@pytest.fixture(scope="session")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def copy_source(target: Path, links: bool) -> Path:
    """Copy what a build reads; `links=False` is a clone made where links cannot be (Windows, some archives)."""
    target.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("altprop", *MAPPED):
        shutil.copytree(ROOT / folder, target / folder, symlinks=True, ignore=ignore)
    for name in SOURCE_FILES:
        shutil.copy2(ROOT / name, target / name)
    for folder in MAPPED:
        link = target / "altprop" / folder
        link.unlink(missing_ok=True)
        if links:
            link.symlink_to(Path("..") / folder, target_is_directory=True)
    return target


def build(source: Path, target: Path) -> Path:
    """Build a wheel with the setuptools of this environment, so that no network is needed."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", target, source],
        stdin=subprocess.DEVNULL,
        check=True,
    )
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a normal clone."""
    folder = tmp_path_factory.mktemp("wheel")
    return build(copy_source(folder / "source", links=True), folder / "dist")


@pytest.fixture(scope="session")
def sdist_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the source distribution of a clone without links."""
    folder = tmp_path_factory.mktemp("sdist")
    source = copy_source(folder / "source", links=False)
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, folder], cwd=source, stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return build(unpacked, folder / "dist")


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own.

    The dependencies are seen through a path line: they need no second copy of torch, and .pth files behind a path line
    do not run, so this project's editable install stays invisible.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    install = ["install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, "-m", "pip", "--python", scripts / "python", *install], check=True)
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = subprocess.run([scripts / "python", "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    paths = sysconfig.get_paths()
    Path(site, "dependencies.pth").write_text(f"{paths['purelib']}\n{paths['platlib']}\n")
    empty = folder / "empty"
    empty.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV_", "HYDRA_"))}
    return Installed(scripts, empty, environment)
