"""Planted tasks and learners whose predictors are no outputs: a sampler and a code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    Batch,
    BatchMode,
    Capability,
    ModelSpec,
    OptimizerFactory,
    PredictorKind,
    Problem,
    Random,
    Source,
    Split,
    StepResult,
    Task,
)


class Centred(Task):
    """Draw from a distribution whose mean is 0: the metric is the distance of 500 samples' mean from it."""

    losses: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[str] = "distance"
    higher_is_better: ClassVar[bool] = False
    kinds: ClassVar[tuple[PredictorKind, ...]] = (PredictorKind.SAMPLER,)

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((2,), 2)

    def _load(self) -> Source:
        return Source.without_data(self.spec, "N(0, I) in the plane")

    def _evaluate_sampler(self, sampler: Callable[..., Tensor], split: Split, random: Random) -> dict[str, float]:
        return {"distance": float(sampler(500, random).mean(0).norm())}


class Separated(Centred):
    """Encode the row of zeros: the metric is the norm of its code."""

    metric: ClassVar[str] = "norm"
    kinds: ClassVar[tuple[PredictorKind, ...]] = (PredictorKind.CODE,)

    def _evaluate_code(self, encoder: Callable[..., Tensor], split: Split) -> dict[str, float]:
        return {"norm": float(encoder(split.inputs).norm())}


class Steered(Centred):
    """Say that a policy is evaluated, for what is read without running it."""

    kinds: ClassVar[tuple[PredictorKind, ...]] = (PredictorKind.POLICY,)


class _Approaching(Algorithm):
    """Abstract: a point that halves its distance from 0 at each step, started at (8, 0)."""

    batch = BatchMode.NONE
    state = ("mean",)

    def _setup(self, problem: Problem) -> None:
        self.mean = torch.tensor([8.0, 0.0], dtype=problem.dtype, device=problem.device)

    def _step(self, batch: Batch | None) -> StepResult:
        self.mean = 0.5 * self.mean
        return StepResult(samples=1)


class Sampling(_Approaching):
    kind = PredictorKind.SAMPLER

    def _predictor(self) -> Callable[..., Tensor]:
        def sample(n: int, random: Random) -> Tensor:
            return self.mean + random.normal(n, 2)

        return sample


class Coding(_Approaching):
    kind = PredictorKind.CODE

    def _predictor(self) -> Callable[..., Tensor]:
        return lambda inputs: inputs + self.mean


class Settled(Algorithm):
    """Backprop that predicts by a function of its own, as a network that settles does."""

    requires = frozenset({Capability.GRADIENT})
    state = ("updater",)

    def __init__(self, optimizer: OptimizerFactory) -> None:
        self.optimizer = optimizer

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self.optimizer)

    def _step(self, batch: Batch | None) -> Tensor:
        assert batch is not None
        loss, grads = self.problem.gradient(batch)
        self.updater.apply(grads)
        return loss

    def _predictor(self) -> Callable[..., Tensor]:
        return lambda inputs: 2 * self.problem.model(inputs)


class Apart(Algorithm):
    """An affine map of its own, which an updater of the problem steps nowhere near the model."""

    state = ("updater", "map")

    def __init__(self, optimizer: OptimizerFactory) -> None:
        self.optimizer = optimizer

    def _setup(self, problem: Problem) -> None:
        spec = problem.spec
        self.map = torch.nn.Linear(spec.input_shape[0], spec.outputs, device=problem.device, dtype=problem.dtype)
        self.updater = problem.updater(self.optimizer, self.map, direction="other")

    def _step(self, batch: Batch | None) -> StepResult:
        self.updater.apply({name: torch.ones_like(p) for name, p in self.map.named_parameters()})
        return StepResult()

    def _predictor(self) -> Callable[..., Tensor]:
        return self.map


class Assigning(Algorithm):
    """Writes into the model without an updater, predicts by itself, and says which model it trains."""

    trains_model = True

    def _setup(self, problem: Problem) -> None:
        """There is nothing to prepare."""

    def _step(self, batch: Batch | None) -> StepResult:
        self.problem.assign(0.9 * self.problem.flat())
        return StepResult()

    def _predictor(self) -> Callable[..., Tensor]:
        return lambda inputs: self.problem.model(inputs)


def plant(folder: Path, task: str, model: str = "linear") -> Path:
    """Write the yaml of a planted task `planted` and return the folder, for `config_dir`."""
    place = folder / "conf" / "task"
    place.mkdir(parents=True, exist_ok=True)
    (place / "planted.yaml").write_text(
        f"# Planted.\ndefaults:\n  - override /model@_global_.model: {model}\n\nname: planted\n_target_: {task}\n"
    )
    return folder / "conf"
