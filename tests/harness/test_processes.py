"""What several processes do to one sweep: workers side by side, Ctrl-C, and kills."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from .commands import BASE, SHORT, finish, results, start, start_code

LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "slurm": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"],
    "ray": [
        "hydra/launcher=ray",
        "+hydra.launcher.ray.init.num_cpus=2",
        "+hydra.launcher.ray.init.include_dashboard=false",
    ],
}
"""Launcher, which is an extra but for joblib -> options that run two cells side by side on this machine."""
PLUGINS = {"joblib": "hydra_joblib_launcher", "slurm": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}


TWICE = """
import sys
from altprop.cli.run import run
sys.exit(max(run([*sys.argv[1:], f"runs_dir={folder}"]) for folder in ("first", "second")))
"""
SWEEP = ["-m", *BASE, *SHORT, "algorithm=backprop,dfa", "optimizer=sgd,adam", "seeds=2"]
# Under slurm each cell is a process that imports torch: two of the four cells.
PART = {"slurm": ["algorithm=dfa"]}


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the results of the sweep in one process."""
    folder = tmp_path_factory.mktemp("serial")
    code, _, err = finish(start(folder, *SWEEP, "runs_dir=serial"))
    assert code == 0, err
    return results(folder / "serial")


@pytest.mark.slow
@pytest.mark.parametrize("extra", LAUNCHERS)
def test_two_workers_give_the_bits_of_one(tmp_path: Path, serial: Any, extra: str) -> None:
    pytest.importorskip(f"hydra_plugins.{PLUGINS[extra]}", reason=f"extra `{extra}` is not installed")
    code, out, err = finish(start(tmp_path, *SWEEP, *PART.get(extra, ()), "runs_dir=parallel", *LAUNCHERS[extra]))
    assert code == 0, err
    found, cells = results(tmp_path / "parallel"), 2 if extra in PART else 4
    assert f"{2 * cells} runs, {2 * cells} executed" in out
    assert f"[{cells}/{cells}] " in err, "the progress of workers without a terminal did not arrive"
    assert (len(serial), len(found)) == (8, 2 * cells)
    assert found == {key: serial[key] for key in found}
    assert {path.name for path in tmp_path.iterdir()} == {"parallel"}
    beside = {*found, "data_digests"}
    assert {path.name for path in (tmp_path / "parallel").iterdir()} == beside


@pytest.mark.slow
def test_workers_of_one_command_do_not_report_to_the_next(tmp_path: Path) -> None:
    sweep = ["-m", *BASE, *SHORT, "optimizer=sgd,adam", *LAUNCHERS["joblib"]]
    code, out, err = finish(start_code(tmp_path, TWICE, *sweep))
    assert code == 0, err
    assert out.count("2 runs, 2 executed") == 2
    assert "[2/2] backprop" in err
    assert len(results(tmp_path / "first")) == len(results(tmp_path / "second")) == 2


@pytest.mark.slow
def test_an_interrupt_leaves_a_run_that_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    long = ["budget.currency=steps", "budget.amount=6000", "budget.grid=4", "trainer.checkpoint_seconds=0.2"]
    process = start(tmp_path, *BASE, *long, "runs_dir=cut")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("cut/*/checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    (record,) = [json.loads(path.read_text()) for path in tmp_path.glob("cut/*/record.json")]
    if record["status"] == "completed":
        pytest.skip("the machine finished 6,000 steps before the signal came")
    assert code == 130, err
    assert "the same command goes on" in err
    assert record["status"] == "interrupted"
    assert 0 < record["result"]["ledger"]["steps"] < 6000
    assert len(list(tmp_path.glob("cut/*/checkpoint.pt"))) == 1
    assert finish(start(tmp_path, *BASE, *long, "runs_dir=cut"))[0] == 0
    assert finish(start(tmp_path, *BASE, *long, "runs_dir=whole"))[0] == 0
    assert results(tmp_path / "cut") == results(tmp_path / "whole")
    assert not list(tmp_path.glob("cut/*/checkpoint.pt"))


@pytest.mark.slow
def test_a_request_to_end_leaves_stacked_seeds_to_go_on(tmp_path: Path) -> None:
    long = ["seeds=4", "budget.currency=steps", "budget.amount=1e9", "trainer.checkpoint_seconds=0.2"]
    process = start(tmp_path, "probes=off", "report=false", "model.hidden=[8]", *long, "runs_dir=cut")
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("cut/*/checkpoint.pt"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 130, err
    assert "the same command goes on" in err
    assert "GPU available" not in err  # Lightning keeps silent
    found = [json.loads(path.read_text()) for path in tmp_path.glob("cut/*/record.json")]
    assert [record["status"] for record in found] == ["interrupted"] * 4
    assert {record["measured"]["stacked"] for record in found} == {4}
    assert len(list(tmp_path.glob("cut/*/checkpoint.pt"))) == 4


@pytest.mark.slow
def test_a_killed_sweep_goes_on(tmp_path: Path) -> None:
    sweep = ["-m", *BASE, *SHORT, "optimizer=sgd,adam", "seeds=4", "trainer.checkpoint_seconds=0", "runs_dir=runs"]
    for wait in (0.2, 0.6):
        process = start(tmp_path, *sweep)
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("runs/*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(wait)
        process.kill()
        process.communicate()
    kept = results(tmp_path / "runs")
    code, out, err = finish(start(tmp_path, *sweep))
    assert code == 0, err
    after = results(tmp_path / "runs")
    assert len(after) == 8
    assert all(after[key] == value for key, value in kept.items())
    assert f"8 runs, {8 - len(kept)} executed" in out
