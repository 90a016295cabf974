"""A run on a GPU is the run on the CPU, up to the rounding of another device: `pytest -m gpu`."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from altprop.conformance.case import difference, find_target, make, snapshot, steps
from altprop.conformance.state import stacks_as_it_steps
from altprop.conformance.suite import algorithms, apply

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    # torch says it once of a thread of its own in which a backward pass is the first thing on the device.
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS, but there was no current CUDA context"),
]

FEW = 5
"""Steps that are compared between devices: what branches on values, a line search, comes to another branch one day."""


@pytest.mark.parametrize("options", [[], ["isolate=true"], ["seeds=4"]], ids=["here", "isolated", "stacked"])
def test_a_run_on_the_gpu_follows_the_run_on_the_cpu(
    run: Callable[..., Any], tmp_path: Path, options: list[str]
) -> None:
    common = ["dtype=float64", "optimizer=momentum", "optimizer.lr=0.05", *options]
    for cpu, gpu in zip(run(*common).itertuples(), run(*common, "trainer=gpu").itertuples(), strict=True):
        assert gpu.status == "completed", gpu.reason
        assert gpu.key != cpu.key
        assert (gpu.steps, gpu.flops) == (cpu.steps, cpu.flops)
        assert gpu.test_metrics["loss"] == pytest.approx(cpu.test_metrics["loss"], rel=1e-6)
    found = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/record.json")]
    assert {record["measured"].get("stacked") for record in found} == {4 if "seeds=4" in options else None}


@pytest.mark.parametrize("algorithm", algorithms())
def test_seeds_at_once_on_the_gpu_are_the_single_ones(algorithm: str) -> None:
    target = find_target(algorithm)
    finding = apply(stacks_as_it_steps, replace(target, overrides=(*target.overrides, "trainer=gpu")))
    if finding.verdict == "not applicable":
        pytest.skip(finding.sentence)
    assert finding.verdict == "passes", f"{finding.sentence}\n{finding.details}"


@pytest.mark.parametrize("algorithm", algorithms())
def test_steps_on_the_gpu_are_those_on_the_cpu(algorithm: str) -> None:
    target = find_target(algorithm)
    cpu, gpu = make(target), make(target, "trainer=gpu")
    for parts in (cpu, gpu):
        steps(parts, FEW)
    expected, found = (_on_the_cpu(snapshot(parts)) for parts in (cpu, gpu))
    for part in ("model", "algorithm"):
        ours, theirs = (one["problem"][part] if part == "model" else one[part] for one in (expected, found))
        assert difference(ours, theirs, part, tolerance=1e-6) is None


def _on_the_cpu(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return tree.cpu()
    if isinstance(tree, dict):
        return {name: _on_the_cpu(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_on_the_cpu(value) for value in tree]
    return tree
