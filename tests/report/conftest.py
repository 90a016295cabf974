"""Builders and a browser for the tests of the report."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from altprop.records.oracle_checks import OracleCheck, OracleResult, write_oracle_check


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
def verification() -> Callable[..., OracleCheck]:
    """The writer of synthetic oracle checks."""
    return verify


@pytest.fixture(scope="session")
def browser() -> ModuleType:
    """The driver of a headless browser."""
    return _beside("browser")


@pytest.fixture(scope="session")
def tour(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of nine learners on three tasks with three seeds, refusals and a divergence among them."""
    runs: Path = synthetic.write(tmp_path_factory.mktemp("tour") / "runs")
    for algorithm in ("backprop", "dfa", "newton_cg"):
        verify(runs, algorithm)
    verify(runs, "som", ("batch at radius 0 equals a Lloyd iteration", 0.3, 1e-12))
    return runs


@pytest.fixture(scope="session")
def tour_report(tour: Path) -> Path:
    """The folder of the report on `tour`."""
    from altprop.report.build import build

    return build([tour], tour.parent / "report", "The tour").parent


@pytest.fixture(scope="session")
def tuned(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three learners and the controls on two tasks: at their defaults, 8 trials and tuned, 4 seeds."""
    learners = [*synthetic.SEARCHED, *synthetic.LEARNERS[-2:]]
    folder: Path = synthetic.tune(tmp_path_factory.mktemp("tuned") / "runs", learners, synthetic.TASKS[::2], 8, 4)
    return folder


def verify(folder: Path, algorithm: str, *oracles: tuple[str, float | None, float | None], **more: Any) -> OracleCheck:
    """Write an oracle check with the given (oracle, error, tolerance), two that hold by default."""
    given = oracles or (("its limit is backprop", 2.4e-16, 1e-15), ("not elsewhere", 0.42, 0.01))
    measured = [
        OracleResult(*one, more.get("reason", "") if one[1] is None else "", 0.1, one[0].startswith("not "))
        for one in given
    ]
    provenance = {"kernel": 1, "fingerprint": more.get("fingerprint", "f" * 32)}
    when, problem = more.get("finished", "2024-01-01T00:00:00+00:00"), more.get("problem", "")
    source = more.get("source", "a" * 64)
    return write_oracle_check(
        folder, algorithm, more.get("target", ""), source, source, measured, provenance, when, problem
    )


HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="session")
def hostile_runs(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records whose names, errors and reasons try to become markup, or are far too long."""
    odd = "`md` | [l](javascript:alert(1)) $x_1^2$ \u202eevil\n# head \x07"
    learners = [
        synthetic.Learner("backprop", "adam", reference=True, label=HOSTILE, brings=(HOSTILE, odd, "d" * 200)),
        synthetic.Learner("x", label="a" * 300, statuses={"*": "failed"}),
        synthetic.Learner("y", label=odd, statuses={"*": "refused"}),
        synthetic.Learner("null", control=True, label="<b>null</b>'\"&amp;"),
    ]
    tasks = [
        synthetic.Task("t<i>x</i>" + HOSTILE, metric="<u>acc", baselines={HOSTILE: 0.5}),
        synthetic.Task("w" * 200, contexts=(HOSTILE, *(odd + str(n) for n in range(20))), caption=HOSTILE),
    ]
    error = HOSTILE + "\n```\n# heading\n</pre><script>alert(2)</script>"
    runs: Path = synthetic.write(tmp_path_factory.mktemp("hostile") / "runs", learners, tasks, 2, error)
    verify(runs, "backprop", (HOSTILE, 0.0, 1.0), ("not " + odd, math.nan, 1.0), (error, None, None), reason=error)
    verify(runs, "null", ("z" * 400, math.inf, 1e300), problem=error, fingerprint=HOSTILE)
    return runs
