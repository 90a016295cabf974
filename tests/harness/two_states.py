"""A planted decision process of two states whose values are known, and a learner of policies in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from altprop import (
    Algorithm,
    Batch,
    BatchMode,
    Capability,
    Environment,
    ModelSpec,
    OptimizerFactory,
    PredictorKind,
    Problem,
    Source,
    StepResult,
    Task,
)

MOVES, ENDS, HORIZON = 0.8, 0.25, 3


class TwoStates(Environment):
    """Action 1 moves to the other state with probability .8; state 1 pays 1 a step and ends with probability 1/4."""

    horizon = HORIZON
    state = ("place",)
    place: Tensor

    def _reset(self) -> Tensor:
        self.place = torch.zeros(len(self.seeds), dtype=torch.int64, device=self.device)
        return self._seen()

    def _seen(self) -> Tensor:
        return torch.nn.functional.one_hot(self.place, 2).to(self.dtype)

    def _step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        moved, ended = self._uniform(2).T
        self.place = torch.where((actions == 1) & (moved < MOVES), 1 - self.place, self.place)
        return self._seen(), self.place.to(self.dtype), (self.place == 1) & (ended < ENDS)


def value(probabilities: Tensor) -> Tensor:
    """Return the expected return from state 0, differentiable in the probabilities (state, action)."""
    worth = [torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)]
    for _ in range(HORIZON):
        after = [worth[0], 1 + (1 - ENDS) * worth[1]]  # reward included, of being in a state after the step
        worth = [
            probabilities[s, 1] * (MOVES * after[1 - s] + (1 - MOVES) * after[s]) + probabilities[s, 0] * after[s]
            for s in range(2)
        ]
    return worth[0]


class Paying(Task):
    """Collect what state 1 pays."""

    losses: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[str] = "return"
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.ENVIRONMENT})
    kinds: ClassVar[tuple[PredictorKind, ...]] = (PredictorKind.POLICY,)
    episodes: ClassVar[int] = 2000

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec((2,), 2)

    def _load(self) -> Source:
        return Source.without_data(self.spec, "two states", rows=16)

    def _environment(self) -> Environment:
        return TwoStates()


class Reinforce(Algorithm):
    """Williams 1992: the gradient of log pi(a | s), weighted by the rewards that followed."""

    requires = frozenset({Capability.ENVIRONMENT})
    batch = BatchMode.NONE
    kind = PredictorKind.POLICY
    state = ("updater",)

    def __init__(self, optimizer: OptimizerFactory, episodes: int = 16) -> None:
        self.optimizer, self.episodes = optimizer, episodes

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self.optimizer, direction="other")

    def direction(self) -> dict[str, Tensor]:
        environment, random = self.problem.environment, self.problem.random

        def sample(seen: Tensor) -> Tensor:
            return random.multinomial(environment.outputs(seen).softmax(-1), 1)[:, 0]

        played = environment.rollout(sample, environment.seeds(self.episodes))
        batch, gains = environment.batch(played), played.rewards_to_go()[played.taken]

        def loss() -> Tensor:
            chosen = self.problem.model(batch.inputs).log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
            return -(chosen * gains).sum() / self.episodes

        return self.problem.gradient(batch, loss=loss)[1]

    def _step(self, batch: Batch | None) -> StepResult:
        self.updater.apply(self.direction())
        return StepResult()

    def _predictor(self) -> Callable[[Tensor], Tensor]:
        return lambda seen: self.problem.model(seen).argmax(-1)
