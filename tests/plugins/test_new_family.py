"""A learner of a new family is one module and one yaml: in a copy of the sources nothing else is edited."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..forked import run

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("altprop", "algorithms", "conf", "tasks")
MODULE = '''"""The sign of the gradient (Bernstein et al. 2018)."""

from altprop import Batch, Capability, DirectionAlgorithm, Grads, Oracle
from altprop.testing import set_up, sgd, toy
from torch import Tensor


class SignDescent(DirectionAlgorithm):
    """Hand sign(g) to the optimizer in place of the gradient g."""

    requires = frozenset({Capability.GRADIENT})

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        loss, gradient = self.problem.gradient(batch, penalty=False)
        return loss, {name: g.sign() for name, g in gradient.items()}

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        return (
            Oracle("each element is -1, 0 or 1", lambda: _distance(absolute=True), 0.0),
            Oracle("not all of one sign", lambda: _distance(absolute=False), 0.5, differs=True),
        )


def _distance(absolute: bool) -> float:
    problem, batch = toy()
    direction = problem.flatten(set_up(SignDescent(sgd()), problem).direction(batch)[1])
    return float(((direction.abs() if absolute else direction) - 1).abs().max())
'''
YAML = """# The sign of the gradient (Bernstein et al. 2018).
name: sign_descent
_target_: altprop.algorithms.signs.sign_descent.SignDescent
optimizer: ${optimizer}
search: {}
"""


def python(copy: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    return run([sys.executable, "-m", module, *arguments], copy, environment)


@pytest.mark.slow
def test_a_new_family_is_one_module_and_one_yaml(tmp_path: Path) -> None:
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "algorithms" / "signs").mkdir()
    (tmp_path / "algorithms" / "signs" / "sign_descent.py").write_text(MODULE)
    (tmp_path / "conf" / "algorithm" / "sign_descent.yaml").write_text(YAML)

    listed = python(tmp_path, "altprop.cli.listing", "algorithm")
    assert "sign_descent" in listed.stdout, listed.stderr
    checked = python(tmp_path, "altprop.cli.check", "sign_descent")
    assert checked.returncode == 0, checked.stdout
    assert "all rules hold" in checked.stdout
    small = ("task=iris", "budget.currency=steps", "budget.amount=20", "optimizer=sgd")
    ran = python(tmp_path, "altprop.cli.run", "-m", "algorithm=sign_descent,backprop", *small)
    assert ran.returncode == 0, ran.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/record.json")]
    assert {record["label"]: record["status"] for record in records} == {
        "sign_descent+sgd": "completed",
        "backprop+sgd": "completed",
    }
    assert "sign_descent+sgd" in (tmp_path / "runs" / "report" / "report.html").read_text().replace("<wbr>", "")


def test_the_front_door_is_light() -> None:
    code = "import sys, altprop; print(sorted({'torch', 'hydra', 'numpy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there() -> None:
    import altprop
    from altprop.exports import EXPORTS

    assert sorted([*EXPORTS, "__version__"]) == sorted(altprop.__all__)
    for name in altprop.__all__:
        assert getattr(altprop, name) is not None
    with pytest.raises(AttributeError, match="module 'altprop' has no attribute 'Algoritm'"):
        _ = altprop.Algoritm  # type: ignore[attr-defined]
