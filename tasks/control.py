"""The base of tasks on gymnasium's classic control: its physics on many episodes, each with a seed of its own."""

from abc import ABC, abstractmethod
from functools import cache
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from altprop import Capability, Environment, ModelSpec, PredictorKind, Source, Task
from altprop.tasks.common import Array, optional_import

EPISODES = 16


class Physics(Environment, ABC):
    """Abstract environment whose physics gymnasium has, on arrays of N episodes; it must be the one that they describe.

    gymnasium starts episodes side by side from one generator, so that one depends on how many there are, and starts
    those that have ended anew. Here each start is drawn from the episode's own seed, as a distribution it is
    gymnasium's, and the physics alone are theirs; a test compares whole episodes with their single environments.

    Class attributes:
        bounds: half the width of the cube in which episodes start, for each of the S variables.
        centre: of that cube; by default 0.

    Attributes:
        place: (S, N) float64 on the CPU, the S variables of each episode's state.
    """

    state: ClassVar[tuple[str, ...]] = ("place",)
    bounds: ClassVar[tuple[float, ...]]
    centre: ClassVar[tuple[float, ...]] = (0.0,)
    place: Tensor

    @abstractmethod
    def _move(self, place: Array, actions: Array) -> tuple[Array, Array, Array]:
        """Return (place (S, N), rewards (N,), terminated (N,)) after one step from a place."""

    def _see(self, place: Array) -> Array:
        """Return what is observed at a place, (F, N); by default the place itself."""
        return place

    @final
    def _reset(self) -> Tensor:
        width, centre = (torch.tensor(of, dtype=torch.float64, device="cpu") for of in (self.bounds, self.centre))
        share = 2 * self._uniform(len(self.bounds)).cpu().double() - 1
        self.place = (centre + share * width).T.contiguous()
        return self._observed()

    @final
    def _step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        moved, rewards, ended = self._move(self.place.numpy(), actions.cpu().numpy())
        self.place = torch.where(self.running.cpu(), torch.from_numpy(np.array(moved, dtype=np.float64)), self.place)
        return self._observed(), self._given(rewards), torch.from_numpy(ended).to(self.device)

    def _observed(self) -> Tensor:
        return self._given(self._see(self.place.numpy()).T)

    def _given(self, values: Array) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=np.float64)).to(self.device, self.dtype)


class ControlTask(Task, ABC):
    """Abstract task: act in an environment for the largest sum of rewards, the metric `return`.

    `batch_size` is the number of episodes in which a policy is tried, the same ones for all policies that a step
    compares and others in the next step; "full" is 16. Evaluation plays 100 episodes of other seeds.
    """

    losses: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[str] = "return"
    metrics: ClassVar[dict[str, bool]] = {"return_std": False}
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.ENVIRONMENT})
    kinds: ClassVar[tuple[PredictorKind, ...]] = (PredictorKind.POLICY,)
    packages: ClassVar[dict[str, str]] = {"gymnasium": "pip install 'altprop[rl]'"}
    module: ClassVar[str]
    shapes: ClassVar[tuple[int, int]]

    @property
    @final
    def spec(self) -> ModelSpec:
        return ModelSpec(self.shapes[:1], self.shapes[1])

    @final
    def _load(self) -> Source:
        self._physics()
        rows = self.batch_size if isinstance(self.batch_size, int) else EPISODES
        return _source(self.spec, self.module, rows)

    @final
    def _physics(self) -> Any:
        """Return gymnasium's module of this environment."""
        name = f"gymnasium.envs.classic_control.{self.module}"
        return optional_import(name, f"task {self.module}", self.packages["gymnasium"])


@cache
def _source(spec: ModelSpec, name: str, rows: int) -> Source:
    return Source.without_data(spec, f"gymnasium's {name}", rows)
