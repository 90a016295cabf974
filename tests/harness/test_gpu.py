"""A run on a GPU is the run on the CPU, up to the rounding of another device: `pytest -m gpu`."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")]


@pytest.mark.parametrize("options", [[], ["isolate=true"]], ids=["here", "isolated"])
def test_a_run_on_the_gpu_follows_the_run_on_the_cpu(run: Callable[..., Any], options: list[str]) -> None:
    common = ["dtype=float64", "optimizer=momentum", "optimizer.lr=0.05", *options]
    cpu, gpu = run(*common).iloc[0], run(*common, "trainer=gpu").iloc[0]
    assert gpu.status == "completed", gpu.reason
    assert gpu.key != cpu.key
    assert (gpu.steps, gpu.flops) == (cpu.steps, cpu.flops)
    assert gpu.test_metrics["loss"] == pytest.approx(cpu.test_metrics["loss"], rel=1e-6)
