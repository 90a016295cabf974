"""Builders and a browser for the tests of the report."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _beside(name: str) -> ModuleType:
    """A module of this folder, which is no package."""
    full = f"altprop_tests_report_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The builder of synthetic records."""
    return _beside("synthetic")


@pytest.fixture(scope="session")
def browser() -> ModuleType:
    """The driver of a headless browser."""
    return _beside("browser")


@pytest.fixture(scope="session")
def tour(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of nine learners on three tasks with three seeds, refusals and a divergence among them."""
    return synthetic.write(tmp_path_factory.mktemp("tour") / "runs")


@pytest.fixture(scope="session")
def tour_report(tour: Path) -> Path:
    """The folder of the report on `tour`."""
    from altprop.report.build import build

    return build([tour], tour.parent / "report", "The tour").parent


HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="session")
def hostile_runs(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records whose names, errors and reasons try to become markup, or are far too long."""
    odd = "`md` | [l](javascript:alert(1)) $x_1^2$ \u202eevil\n# head \x07"
    learners = [
        synthetic.Learner("backprop", "adam", reference=True, label=HOSTILE),
        synthetic.Learner("x", label="a" * 300, statuses={"*": "failed"}),
        synthetic.Learner("y", label=odd, statuses={"*": "refused"}),
        synthetic.Learner("null", control=True, label="<b>null</b>'\"&amp;"),
    ]
    tasks = [
        synthetic.Task("t<i>x</i>" + HOSTILE, metric="<u>acc", baselines={HOSTILE: 0.5}),
        synthetic.Task("w" * 200),
    ]
    error = HOSTILE + "\n```\n# heading\n</pre><script>alert(2)</script>"
    return synthetic.write(tmp_path_factory.mktemp("hostile") / "runs", learners, tasks, 2, error)
