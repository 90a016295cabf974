"""The base of control tasks: physics on many episodes, each with a seed of its own; gymnasium's among them."""

from abc import ABC, abstractmethod
from functools import cache
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from altprop import Capability, Descriptor, Environment, ModelSpec, PredictorKind, Source, Task
from altprop.tasks.common import Array, optional_import

EPISODES = 16


class Physics(Environment, ABC):
    """Abstract environment whose physics are arrays of N episodes.

    gymnasium starts episodes side by side from one generator, so that one depends on how many there are, and starts
    those that have ended anew. Here each start is drawn from the episode's own seed, as a distribution it is
    gymnasium's, and the physics alone are theirs; a test compares whole episodes with their single environments.

    Attributes:
        bounds: half the width of the cube in which episodes start, for each of the S variables.
        centre: of that cube; by default 0.
        descriptor: see `Environment`; a behaviour is told by what is seen and done.
        place: (S, N) float64 on the CPU, the S variables of each episode's state.
    """

    state: ClassVar[tuple[str, ...]] = ("place",)
    bounds: tuple[float, ...]
    centre: tuple[float, ...] = (0.0,)
    descriptor: Descriptor
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
    offers: ClassVar[frozenset[Capability]] = frozenset({Capability.ENVIRONMENT, Capability.BEHAVIOUR})
    kinds: ClassVar[tuple[PredictorKind, ...]] = (PredictorKind.POLICY,)
    shapes: tuple[int, int]
    """How many numbers are seen, and how many a model puts out."""

    @abstractmethod
    def _physics_named(self) -> str:
        """Return what the physics are, in words that a record keeps."""

    @property
    @final
    def spec(self) -> ModelSpec:
        return ModelSpec(self.shapes[:1], self.shapes[1])

    @final
    def _load(self) -> Source:
        rows = self.batch_size if isinstance(self.batch_size, int) else EPISODES
        return _source(self.spec, self._physics_named(), rows)


class GymnasiumTask(ControlTask, ABC):
    """Abstract control task on the physics of a module of gymnasium's classic control."""

    packages: ClassVar[dict[str, str]] = {"gymnasium": "pip install 'altprop[rl]'"}
    module: ClassVar[str]

    @final
    def _physics_named(self) -> str:
        self._physics()
        return f"gymnasium's {self.module}"

    @final
    def _physics(self) -> Any:
        """Return gymnasium's module of this environment."""
        name = f"gymnasium.envs.classic_control.{self.module}"
        return optional_import(name, f"task {self.module}", self.packages["gymnasium"])


@cache
def _source(spec: ModelSpec, name: str, rows: int) -> Source:
    return Source.without_data(spec, name, rows)
