"""Environments to act in: episodes side by side, each drawn from a seed of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, Self, final

import torch
from torch import Tensor

from altprop.data import Descriptor
from altprop.errors import AltpropError

# observations (N, F) -> actions (N,) or (N, A)
Policy = Callable[[Tensor], Tensor]


class Transition(NamedTuple):
    """What a step of N episodes gives.

    Attributes:
        observations: (N, F) after the step.
        rewards: (N,), 0 where an episode was over before.
        terminated: (N,) bool, episodes that ended with this step by themselves: nothing comes after.
        truncated: (N,) bool, episodes that were cut off with this step at the horizon: they would have gone on.
    """

    observations: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor


class Environment(ABC):
    """Abstract vector environment. An author writes `_reset` and `_step`; what they draw comes from `_uniform`.

    An episode depends on its seed and its actions alone, not on those that run beside it. One that is over stays as it
    is, without reward, until all are reset.

    Class attributes:
        horizon: steps after which an episode is cut off.
        state: names of the attributes that `_reset` and `_step` set, tensors or numbers, for an exact resume.
        descriptor: the numbers that `_describe` returns, of a task that offers BEHAVIOUR; None elsewhere.

    Attributes:
        seeds: (N,) int64, of the episodes at hand.
        running: (N,) bool, episodes that are not over.
    """

    horizon: int
    state: ClassVar[tuple[str, ...]] = ()
    descriptor: Descriptor | None = None

    device = torch.device("cpu")
    dtype = torch.float32
    seeds: Tensor
    running: Tensor
    _elapsed = 0
    _drawn = 0

    # What an author writes.

    @abstractmethod
    def _reset(self) -> Tensor:
        """Start an episode for each of `seeds` and return the first observations (N, F)."""

    @abstractmethod
    def _step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (observations (N, F), rewards (N,), terminated (N,) bool) after one step of all episodes."""

    def act(self, outputs: Tensor) -> Tensor:
        """Return the actions that a model's outputs (N, C) stand for; by default the largest one's place, (N,)."""
        return outputs.argmax(-1)

    def _describe(self, played: Rollout) -> Tensor:
        """Return how a policy behaved in each episode, apart from its rewards, (N, K), for `descriptor`."""
        raise AltpropError(f"environment {type(self).__name__} writes no _describe")

    # Final.

    @final
    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Let observations and rewards be on a device, in a dtype, from the next reset on."""
        self.device, self.dtype = device, dtype
        return self

    @final
    def reset(self, seeds: Tensor) -> Tensor:
        """Start an episode for each of the seeds (N,) int64 and return the first observations (N, F)."""
        self.seeds = seeds.to(self.device)
        self.running = torch.ones(len(seeds), dtype=torch.bool, device=self.device)
        self._elapsed = self._drawn = 0
        return self._reset()

    @final
    def step(self, actions: Tensor) -> Transition:
        """Take one step of every episode that is not over."""
        observations, rewards, ended = self._step(actions)
        self._elapsed += 1
        terminated = ended & self.running
        cut = self.running & ~ended if self._elapsed >= self.horizon else torch.zeros_like(ended)
        rewards = torch.where(self.running, rewards, torch.zeros_like(rewards))
        self.running = self.running & ~terminated & ~cut
        return Transition(observations, rewards, terminated, cut)

    @final
    def rollout(self, policy: Policy, seeds: Tensor) -> Rollout:
        """Play an episode for each of the seeds (N,) under a policy, without a graph."""
        return roll_out(self, policy, seeds)

    @final
    def describe(self, played: Rollout) -> Tensor:
        """Return how a policy behaved in each of N episodes, (N, K).

        Raises:
            AltpropError: where that is not what `descriptor` says.
        """
        found = self._describe(played)
        names = () if self.descriptor is None else self.descriptor.names
        if found.shape != (len(played.returns), len(names)):
            raise AltpropError(f"{type(self).__name__} describes {tuple(found.shape)} by the names {list(names)}")
        return found

    @final
    def _uniform(self, *shape: int) -> Tensor:
        """Draw from U[0, 1), (N, *shape): each episode from its own seed, whichever run beside it."""
        count = 1
        for size in shape:
            count *= size
        place = torch.arange(self._drawn, self._drawn + count, device=self.device)
        self._drawn += count
        bits = 53 if self.dtype == torch.float64 else 24
        words = mixed(mixed(self.seeds)[:, None] + place)
        share: Tensor = _shifted(words, 64 - bits).to(self.dtype) / 2**bits
        return share.reshape(len(self.seeds), *shape)

    @final
    def state_dict(self) -> dict[str, Any]:
        """Return the episodes at hand in weights_only-safe types."""
        names = (name for name in (*_OWN_STATE, *self.state) if hasattr(self, name))
        return {name: _copy(getattr(self, name)) for name in names}

    @final
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Put a state of `state_dict` back."""
        for name, value in saved.items():
            setattr(self, name, _copy(value))


_OWN_STATE = ("seeds", "running", "_elapsed", "_drawn")


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _shifted(words: Tensor, by: int) -> Tensor:
    """Shift 64-bit words to the right and fill with zeros."""
    return (words >> by) & ((1 << (64 - by)) - 1)


def mixed(words: Tensor) -> Tensor:
    """Return well mixed 64-bit words, one for each (Steele, Lea and Flood 2014, SplitMix64)."""
    z = words + (0x9E3779B97F4A7C15 - 2**64)
    z = (z ^ _shifted(z, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    z = (z ^ _shifted(z, 27)) * (0x94D049BB133111EB - 2**64)
    return z ^ _shifted(z, 31)


@dataclass(frozen=True)
class Rollout:
    """N episodes from their start to their end, over at most T steps.

    Attributes:
        observations: (T, N, F) before each step.
        actions: (T, N) or (T, N, A).
        rewards: (T, N), 0 after the end of an episode.
        taken: (T, N) bool, steps that were taken before the end.
        terminated: (N,) bool, episodes that ended by themselves.
        truncated: (N,) bool, episodes that were cut off.
        last: (N, F), observations after the last step.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    taken: Tensor
    terminated: Tensor
    truncated: Tensor
    last: Tensor

    @property
    def returns(self) -> Tensor:
        """Sum of the rewards of each episode, (N,)."""
        return self.rewards.sum(0)

    @property
    def steps(self) -> int:
        """Steps that were taken in all episodes."""
        return int(self.taken.sum())

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of some values (T, N) over the steps that each episode took, (N,)."""
        return values.where(self.taken, 0.0).sum(0) / self.taken.sum(0)

    def rewards_to_go(self, discount: float = 1.0) -> Tensor:
        """Return the discounted sum of the rewards from each step on, (T, N)."""
        total, found = torch.zeros_like(self.rewards[0]), []
        for rewards in reversed(self.rewards):
            total = rewards + discount * total
            found.append(total)
        return torch.stack(found[::-1])


class _Steppable(Protocol):
    @property
    def running(self) -> Tensor: ...

    def reset(self, seeds: Tensor) -> Tensor: ...

    def step(self, actions: Tensor) -> Transition: ...


def roll_out(environment: _Steppable, policy: Policy, seeds: Tensor) -> Rollout:
    """Play an episode for each of the seeds (N,) under a policy, without a graph."""
    observations = environment.reset(seeds)
    seen, actions, rewards, taken = [], [], [], []
    terminated = torch.zeros_like(environment.running)
    truncated = torch.zeros_like(terminated)
    with torch.no_grad():
        while bool(environment.running.any()):
            taken.append(environment.running)
            seen.append(observations)
            actions.append(policy(observations))
            observations, reward, ended, cut = environment.step(actions[-1])
            rewards.append(reward)
            terminated, truncated = terminated | ended, truncated | cut
    return Rollout(
        torch.stack(seen),
        torch.stack(actions),
        torch.stack(rewards),
        torch.stack(taken),
        terminated,
        truncated,
        observations,
    )
