"""Each logger, of the package itself: every run has one of its own, whole, with its configuration."""

import importlib.util
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from altprop.errors import AltpropError
from altprop.harness.loggers import open_logger

SEEDS = "seeds=2"  # the second is what a logger that was not ended swallows


@pytest.fixture(autouse=True)
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_MODE", "offline")  # put back afterwards: the logger sets it
    for name in ("MLFLOW_TRACKING_URI", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def evaluations(runs: Path, key: str, split: str = "validation") -> list[tuple[int, float]]:
    """Return step and accuracy as the record's trace has them."""
    rows = map(json.loads, (runs / key / "trace.jsonl").read_text().splitlines())
    return [(r["step"], r["metrics"]["accuracy"]) for r in rows if r["kind"] == "evaluation" and r["split"] == split]


def test_csv(run: Callable[..., Any], tmp_path: Path) -> None:
    for row in run("logger=csv", SEEDS).itertuples():
        logs = tmp_path / "runs" / row.key / "logs" / "csv" / "version_0"
        header, *lines = (logs / "metrics.csv").read_text().splitlines()
        accuracy, step = header.split(",").index("validation/accuracy"), header.split(",").index("step")
        logged = [(int(c[step]), float(c[accuracy])) for c in (x.split(",") for x in lines) if c[accuracy]]
        assert logged == evaluations(tmp_path / "runs", row.key)
        about = (logs / "hparams.yaml").read_text().splitlines()
        assert f"seed: {row.seed}" in about
        assert "task.name: digits" in about


def test_tensorboard(run: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tracking is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for row in run("logger=tensorboard", SEEDS, "optimizer.lr=0.01").itertuples():
        (folder,) = (tmp_path / "runs" / row.key / "logs" / "tensorboard").iterdir()
        assert folder.name.startswith("backprop+adam(lr=0.01)·hidden=[8] on digits")
        assert folder.name.endswith(f", seed {row.seed}")
        events = EventAccumulator(str(folder)).Reload().Scalars("validation/accuracy")
        logged = [(event.step, pytest.approx(event.value)) for event in events]
        assert evaluations(tmp_path / "runs", row.key) == logged


def test_mlflow(run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the extra tracking is not installed")
    monkeypatch.chdir(tmp_path)
    rows = run("logger=mlflow", SEEDS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]  # nothing beside the runs
    base = sqlite3.connect(tmp_path / "runs" / "mlflow.db")
    found = dict(base.execute("select name, run_uuid from runs where status = 'FINISHED'"))
    assert len(found) == len(rows) == 2
    for row in rows.itertuples():
        uuid = next(uuid for name, uuid in found.items() if name.endswith(f", seed {row.seed}"))
        query = "select step, value from metrics where run_uuid = ? and key = 'validation/accuracy' order by step"
        assert base.execute(query, (uuid,)).fetchall() == evaluations(tmp_path / "runs", row.key)
        params = dict(base.execute("select key, value from params where run_uuid = ?", (uuid,)))
        assert params["task.name"] == "digits"
        assert params["seed"] == str(row.seed)
        assert params["task.targets.90"]  # 90% in the yaml: a sign that MLflow refuses
    base.close()


def test_wandb(run: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra tracking is not installed")
    import wandb

    for row in run("logger=wandb", SEEDS).itertuples():
        (logged,) = (tmp_path / "runs" / row.key / "logs").rglob("run-*.wandb")
        content = logged.read_bytes()  # compressed in part, but the name stands in it
        assert f", seed {row.seed}".encode() in content
        assert f", seed {1 - row.seed}".encode() not in content
    assert wandb.run is None


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_an_absent_package_is_told(package: str, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        AltpropError, match=rf"logger={package} needs a package that is not there .*altprop\[tracking\]"
    ):
        run(f"logger={package}")


def test_one_process_of_many_logs(tmp_path: Path) -> None:
    for rank, files in ((0, 1), (1, 0)):
        folder = tmp_path / str(rank)
        folder.mkdir()
        with open_logger({"kind": "csv"}, folder, "backprop on digits", 0, {"seed": 0}, rank) as logger:
            logger.log_metrics({"loss": 1.0}, step=0)
            logger.save()
        assert len(list(folder.rglob("metrics.csv"))) == files
