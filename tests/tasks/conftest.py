"""Every task that ships, found through conf/task and never listed by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from altprop.data import TaskData
from altprop.errors import AltpropError
from altprop.resolve import build, resolve_class
from altprop.task import Task

CONF = Path(__file__).resolve().parents[2] / "conf"


class Shipped:
    """The tasks of conf/task, as their yaml describes them."""

    conf = CONF
    # Those of the user's own data have none of their own: tests/tasks/test_own_data.py has them.
    names = tuple(sorted(path.stem for path in (CONF / "task").glob("*.yaml") if "???" not in path.read_text()))

    def configuration(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = yaml.safe_load((CONF / "task" / f"{name}.yaml").read_text())
        return content

    def kind(self, name: str) -> type[Task]:
        return resolve_class(self.configuration(name)["_target_"], Task)

    def make(self, name: str, **options: Any) -> Task:
        config = {key: value for key, value in self.configuration(name).items() if key != "defaults"}
        return build({**config, **options}, Task, "task")

    def data(self, task: Task) -> TaskData:
        """Its data; a task whose data are not on this machine skips the test, with the reason."""
        try:
            return task.data()
        except AltpropError as error:
            pytest.skip(f"the data are not here: {error}")

    def best_outputs(self, task: Task, targets: torch.Tensor) -> torch.Tensor:
        """Outputs (N, C) that fit the targets without error, or the minimum of a point task."""
        if hasattr(task, "function"):
            if task.loss.name == "classical":  # Beale's
                return torch.tensor([[3.0, 0.5]]).to(targets)
            return torch.full((1, task.spec.outputs), 1.0 if task.loss.name == "rosenbrock" else 0.0).to(targets)
        if targets.dtype == torch.int64:
            # Bits of a class that is told by 1 are not 0.
            told = 1.0 if task.higher_is_better else 1e3
            return told * torch.nn.functional.one_hot(targets, task.spec.outputs).double()
        return 100 * (2 * targets - 1) if task.loss.name == "binary_cross_entropy" else targets


@pytest.fixture(scope="session")
def shipped() -> Shipped:
    return Shipped()


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test downloads anything."""
    monkeypatch.setenv("ALTPROP_OFFLINE", "1")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `name` runs for each task."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", Shipped.names)
