"""Runs in a process of their own: a limit on memory, and what becomes of them when their command is killed."""

import contextlib
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from altprop.errors import AltpropError
from altprop.harness.cell import make_cell
from altprop.harness.composition import compose_cell
from altprop.harness.memory import in_words, limited, read_bytes

from .commands import BASE, SHORT, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits on memory need Linux")
CUSTOM = "algorithm=custom"


def test_an_allocation_beyond_the_limit_ends_as_out_of_memory(run: Callable[..., Any]) -> None:
    row = run(CUSTOM, "algorithm._target_=rules.Grows", "memory=1.5GB").iloc[0]
    assert row.status == "out_of_memory"
    assert "more than memory=1.5GB: " in row.reason
    assert "DefaultCPUAllocator" in row.reason  # and not the AssertionError behind the allocation
    assert row.steps == 7
    assert "rules.py" in row.traceback


def test_a_limit_that_suffices_changes_no_bit_and_no_key(run: Callable[..., Any], tmp_path: Path) -> None:
    free = run(CUSTOM, "algorithm._target_=rules.Honest").iloc[0]
    bound = run(CUSTOM, "algorithm._target_=rules.Honest", "memory=3GB", runs="bound").iloc[0]
    assert bound.status == "completed"
    assert (free.key, free.label, free.workload) == (bound.key, bound.label, bound.workload)
    assert free.test_metrics == bound.test_metrics


def test_a_limit_below_what_the_process_holds_is_told(run: Callable[..., Any]) -> None:
    row = run("memory=50MB").iloc[0]
    assert row.status == "out_of_memory"
    assert "more than memory=50MB: before it began, its process held" in row.reason


def test_the_limit_is_lifted_behind_the_body() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with contextlib.suppress(ZeroDivisionError), limited(2**42):
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 2**42
        raise ZeroDivisionError
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("4GB", 4 * 10**9),
        ("4gb", 4 * 10**9),
        ("4G", 4 * 10**9),
        ("2 GiB", 2**31),
        (".5TiB", 2**39),
        ("1000000", 10**6),
        (10**9, 10**9),
        (2.5e9, 2_500_000_000),
        (None, None),
    ],
)
def test_sizes(value: Any, size: int | None) -> None:
    assert read_bytes(value) == size


@pytest.mark.parametrize("value", ["4", 4, "lots", "-1GB", "4XB", True, float("nan"), float("inf"), 0, "", [1]])
def test_what_is_no_size_is_told_in_one_line(value: Any) -> None:
    with pytest.raises(AltpropError, match="memory must be a size of at least 1MB, such as 4GB"):
        read_bytes(value)


@pytest.mark.parametrize(
    ("size", "text"), [(4 * 10**9, "4GB"), (2**30, "1.07GB"), (10**6, "1MB"), (1.5e12, "1.5TB"), (5000, "5KB")]
)
def test_sizes_in_words(size: int, text: str) -> None:
    assert in_words(size) == text


@pytest.mark.parametrize(("options", "isolated"), [([], False), (["memory=4GB"], True), (["timeout=5"], True)])
def test_what_implies_isolation(options: list[str], isolated: bool) -> None:
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(compose_cell(options), resolve=True)
    cell = make_cell(plain, options)
    assert cell.settings.isolate is isolated
    assert "memory" not in cell.config


@pytest.mark.slow
def test_a_run_ends_with_its_killed_command(tmp_path: Path) -> None:
    """Its lease is free from then on, so that it must not go on beside the worker that takes it over."""
    options = [*BASE, *SHORT, CUSTOM, "algorithm._target_=rules.Hangs", "isolate=true", "runs_dir=runs"]
    process = start(tmp_path, *options)
    parent = psutil.Process(process.pid)
    deadline = time.monotonic() + 90
    hanging: list[psutil.Process] = []
    while not hanging and time.monotonic() < deadline:
        time.sleep(0.2)
        # The run is the fork server's child that keeps the processor busy.
        hanging = [
            one for one in parent.children(recursive=True) if one.cpu_times().user > 1 and one.ppid() != process.pid
        ]
    assert hanging, "the run never began"
    process.kill()
    process.wait()
    alive = psutil.wait_procs(hanging, timeout=15)[1]
    for one in alive:
        one.kill()
    process.communicate()  # the run holds the other end of the pipes, so only now
    assert not alive, "the run outlived its command by 15 s"
