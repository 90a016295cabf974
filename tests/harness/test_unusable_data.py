"""Data of the user's that turn out to be unusable when they are loaded: a mistake with its sentence, and no record."""

from pathlib import Path

import numpy as np
import pytest

from altprop.cli.run import run
from altprop.conformance.case import find_target, make
from altprop.errors import Refused


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_is_a_mistake_and_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("bad.npz", x=np.full((30, 2), np.nan), y=np.arange(30) % 2)
    assert run(["task=arrays", "task.path=bad.npz"]) == 2
    assert capsys.readouterr().err == (
        "altprop: bad.npz holds values that are not finite; fill them or leave their rows out\n"
    )
    Path("t.csv").write_text("g,x,y\n" + "".join(f"{i % 2},{i},{i % 3}\n" for i in range(30)))
    assert run(["task=table", "task.path=t.csv", "task.target=y", "task.group=g"]) == 2
    assert "task.group names 2 groups" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_model_of_its_own_pays_no_penalty() -> None:
    with pytest.raises(Refused, match=r"som trains a model of its own, which no penalty reaches"):
        make(find_target("som"), "task=iris", "++task.penalty.l2=0.1")
