"""Environments of their own, into which altprop's wheel and somebody else's distributions are installed; no network."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .. import forked

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
TRAIN = ("altprop", "altprop-check")
"""Scripts that import torch, and start faster as forks."""


class Environment(NamedTuple):
    """A virtual environment."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / ("Scripts" if os.name == "nt" else "bin")

    def install(self, what: Path, *options: str) -> None:
        """Install a wheel or a source folder, with the setuptools of this environment."""
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(self.bin / "python")]
        command = [*pip, "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", *options, str(what)]
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True)

    def run(self, folder: Path, *command: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run one of its console scripts in a folder."""
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV_", "HYDRA_"))}
        environment = {**outside, "OMP_NUM_THREADS": "1"}
        called = [self.bin / "python", *python, self.bin / command[0], *command[1:]]
        if command[0] in TRAIN:
            return forked.run(called, folder, environment)
        return subprocess.run(
            called,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def records(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Return label -> record of what ran in a folder."""
        found = [json.loads(path.read_text()) for path in (folder / "runs").glob("*/record.json")]
        return {record["label"]: record for record in found}


def _made(folder: Path, wheel: Path) -> Environment:
    """Make an environment that sees the dependencies through a path line; .pth files behind one do not run."""
    environment = Environment(folder)
    venv.create(folder, with_pip=False)
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = subprocess.run([environment.bin / "python", "-c", code], capture_output=True, text=True, check=True).stdout
    paths = sysconfig.get_paths()
    Path(site.strip(), "dependencies.pth").write_text(f"{paths['purelib']}\n{paths['platlib']}\n")
    environment.install(wheel)
    return environment


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """altprop's wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("altprop", "algorithms", "tasks", "conf"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source / name)
    command = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run([sys.executable, "-m", "pip", *command], stdin=subprocess.DEVNULL, check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """altprop alone."""
    return _made(tmp_path_factory.mktemp("bare") / "venv", wheel)


@pytest.fixture
def blank(wheel: Path, tmp_path: Path) -> Environment:
    """altprop alone, for one test to install into."""
    return _made(tmp_path / "venv", wheel)


@pytest.fixture(scope="session", params=["installed", "editable"])
def example(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """altprop and a distribution of somebody else, copied into the environment or linked to its sources."""
    folder = tmp_path_factory.mktemp("example")
    source = shutil.copytree(HERE / "example", folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    environment = _made(folder / "venv", wheel)
    environment.install(source, *(["--editable"] if request.param == "editable" else []))
    return environment


def distribution(folder: Path, name: str, value: str, files: dict[str, str]) -> Path:
    """Write a distribution with one entry point and these files."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "{name}"\nversion = "1"\n'
        f'[project.entry-points."altprop.plugins"]\n{name} = "{value}"\n'
        '[tool.setuptools.packages.find]\nwhere = ["."]\n[tool.setuptools.package-data]\n"*" = ["*/*.yaml"]\n'
    )
    return folder


@pytest.fixture(scope="session")
def broken(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """altprop with distributions that are broken in four ways."""
    folder = tmp_path_factory.mktemp("broken")
    environment = _made(folder / "venv", wheel)
    yaml = "# A rule.\nname: {0}\n_target_: {1}\n"
    environment.install(distribution(folder / "a", "nowhere", "nowhere.conf", {"other.py": ""}))
    package = {"untidy/__init__.py": "", "untidy/conf/__init__.py": ""}
    untidy = {**package, "untidy/conf/algorithm/untidy.yaml": "name: [unclosed\n"}
    environment.install(distribution(folder / "b", "untidy", "untidy.conf", untidy))
    raising = {
        "raising/__init__.py": "raise RuntimeError('boom at import')\n",
        "raising/rule.py": "from altprop import Algorithm\n\n\nclass Rule(Algorithm):\n    pass\n",
        "raising/conf/__init__.py": "",
        "raising/conf/algorithm/raising.yaml": yaml.format("raising", "raising.rule.Rule"),
    }
    environment.install(distribution(folder / "c", "raising", "raising.conf", raising))
    greedy = {
        "greedy/__init__.py": "from altprop import Algorithm, Capability\n\n\n"
        "class Rule(Algorithm):\n    requires = frozenset({Capability.TELEPATHY})\n",
        "greedy/conf/__init__.py": "",
        "greedy/conf/algorithm/greedy.yaml": yaml.format("greedy", "greedy.Rule"),
    }
    environment.install(distribution(folder / "d", "greedy", "greedy.conf", greedy))
    return environment
