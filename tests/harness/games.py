"""A planted game, f = x y, which one player minimises and the other maximises, and gradient descent of both."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from altprop import (
    Algorithm,
    Batch,
    Capability,
    ModelSpec,
    Noise,
    OptimizerFactory,
    PredictorKind,
    Problem,
    Random,
    Source,
    Split,
    StepResult,
    Task,
)


class Number(nn.Module):
    """One player: a number."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([start], dtype=torch.float64, device="cpu"))


class TwoNumbers(nn.Module):
    """x = 3 and y = 4 at the start."""

    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.PLAYERS})
    players = ("x", "y")

    def __init__(self, spec: ModelSpec, *, noise: Noise | None = None, generator: torch.Generator) -> None:
        super().__init__()
        self.spec = spec
        self.x, self.y = Number(3.0), Number(4.0)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return x y, (B, 1)."""
        return (self.x.value * self.y.value).expand(len(inputs), 1)


class Bilinear(Task):
    """The value of f is 0 at the equilibrium (0, 0), the distance from which is the metric."""

    losses: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[str] = "distance"
    higher_is_better: ClassVar[bool] = False
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.PLAYERS})
    kinds: ClassVar[tuple[PredictorKind, ...]] = (PredictorKind.MODEL,)

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((1,), 1)

    def _load(self) -> Source:
        return Source.without_data(self.spec, "f = x y")

    def _player_loss(self, player: str, model: nn.Module, batch: Batch, random: Random) -> Tensor:
        value: Tensor = model(batch.inputs).mean()
        return value if player == "x" else -value

    def _evaluate_model(self, model: nn.Module, split: Split, random: Random) -> dict[str, float]:
        return {"distance": float(torch.cat([p.detach() for p in model.parameters()]).norm())}


class Descent(Algorithm):
    """Each player descends its own loss, all at once or one after the other."""

    requires = frozenset({Capability.PLAYERS})
    kind = PredictorKind.MODEL
    state = ("updaters",)

    def __init__(self, optimizer: OptimizerFactory, alternating: bool = False) -> None:
        self.optimizer, self.alternating = optimizer, alternating

    def _setup(self, problem: Problem) -> None:
        self.updaters = {name: problem.updater(self.optimizer, of=name) for name in problem.players}

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        if self.alternating:
            losses = {name: self._move(name, *self.problem.gradient(batch, of=name)) for name in self.updaters}
        else:
            found = {name: self.problem.gradient(batch, of=name) for name in self.updaters}
            losses = {name: self._move(name, *each) for name, each in found.items()}
        return StepResult(scalars=losses)

    def _move(self, player: str, loss: Tensor, grads: dict[str, Tensor]) -> float:
        self.updaters[player].apply(grads)
        return float(loss)
