"""Environments to act in: episodes side by side, each drawn from a seed of its own, and what is learned from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, final

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from altprop.algorithm import dump, load
from altprop.errors import Refused
from altprop.randomness import derive_seed
from altprop.task import Batch

if TYPE_CHECKING:
    from altprop.problem import Problem

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
        state: names of the attributes that `_reset` and `_step` set, for an exact resume.

    Attributes:
        seeds: (N,) int64, of the episodes at hand.
        running: (N,) bool, episodes that are not over.
    """

    horizon: int
    state: ClassVar[tuple[str, ...]] = ()

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
    def _uniform(self, *shape: int) -> Tensor:
        """Draw from U[0, 1), (N, *shape): each episode from its own seed, whichever run beside it."""
        count = 1
        for size in shape:
            count *= size
        place = torch.arange(self._drawn, self._drawn + count, device=self.device)
        self._drawn += count
        bits = 53 if self.dtype == torch.float64 else 24
        words = _mixed(_mixed(self.seeds)[:, None] + place)
        share: Tensor = _shifted(words, 64 - bits).to(self.dtype) / 2**bits
        return share.reshape(len(self.seeds), *shape)

    @final
    def state_dict(self) -> dict[str, Any]:
        """Return the episodes at hand in weights_only-safe types."""
        return {name: dump(getattr(self, name, None), name) for name in (*_OWN_STATE, *self.state)}

    @final
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Put a state of `state_dict` back."""
        for name, value in saved.items():
            if value is not None:
                setattr(self, name, load(getattr(self, name, None), value))


_OWN_STATE = ("seeds", "running", "_elapsed", "_drawn")


def _shifted(words: Tensor, by: int) -> Tensor:
    """Shift 64-bit words to the right and fill with zeros."""
    return (words >> by) & ((1 << (64 - by)) - 1)


def _mixed(words: Tensor) -> Tensor:
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

    @property
    def batch(self) -> Batch:
        """The M steps that were taken, as rows (M, F) whose targets are the actions; `x[taken]` goes with them."""
        inputs = self.observations[self.taken]
        return Batch(inputs, self.actions[self.taken], torch.arange(len(inputs), device=inputs.device))

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


class TrainingEnvironment:
    """The environment as an algorithm has it, `Problem.environment`: its steps are counted.

    Args:
        environment: of the task.
        problem: whose ledger counts.
    """

    def __init__(self, environment: Environment, problem: Problem) -> None:
        self._inner = environment.to(problem.device, problem.dtype)
        self._problem = problem

    @property
    def horizon(self) -> int:
        """Steps after which an episode is cut off."""
        return self._inner.horizon

    @property
    def running(self) -> Tensor:
        """(N,) bool, episodes that are not over."""
        return self._inner.running

    def seeds(self, episodes: int) -> Tensor:
        """Return the training seeds of this step, (episodes,): the same whenever asked, others in the next step.

        All that is compared within a step so meets the same episodes, under every algorithm, and evaluation others.
        """
        problem = self._problem
        start = derive_seed(problem.random.seed, "episodes", problem.clock.step)
        return _mixed(torch.arange(episodes, device=problem.device) + start)

    def reset(self, seeds: Tensor) -> Tensor:
        """See `Environment.reset`."""
        with self._problem.ledger.work("environment reset", per="example", examples=len(seeds)):
            return self._inner.reset(seeds)

    def step(self, actions: Tensor) -> Transition:
        """See `Environment.step`; every episode that is not over counts one environment step."""
        ledger = self._problem.ledger
        if not ledger._paused:
            ledger.environment_steps += int(self.running.sum())
        with ledger.primitive("environment", len(actions)):
            return self._inner.step(actions)

    def act(self, outputs: Tensor) -> Tensor:
        """See `Environment.act`."""
        return self._inner.act(outputs)

    def outputs(self, observations: Tensor) -> Tensor:
        """Return the model's outputs on observations (N, F), without a graph, counted as a forward."""
        rows = torch.arange(len(observations), device=observations.device)
        with torch.no_grad():
            return self._problem.outputs(Batch(observations, rows, rows))

    def rollout(self, policy: Policy, seeds: Tensor) -> Rollout:
        """Play an episode for each of the seeds (N,); its steps count themselves, a policy by its own primitives."""
        return roll_out(self, policy, seeds)

    def loss(self, episodes: int) -> Tensor:
        """Return minus the mean return of the model on this step's episodes, a scalar."""
        return -self.rollout(lambda seen: self.act(self.outputs(seen)), self.seeds(episodes)).returns.mean()

    def population_loss(self, flat: Tensor, episodes: int, chunk: int) -> Tensor:
        """Return minus the mean return (P,) of the models at `flat` (P, D), all on this step's episodes.

        Raises:
            Refused: under noise or batch normalisation, which tie the models together.
        """
        problem = self._problem
        if problem.uncounted.noise is not None:
            raise Refused("populations that act in an environment take no noise; use dropout=none")
        problem.refuse_batch_norm("policies of a population")
        individuals, params = len(flat), problem.unflatten(flat)
        buffers = dict(problem.model.named_buffers())

        def one(own: dict[str, Tensor], seen: Tensor) -> Tensor:
            found: Tensor = functional_call(problem.model, {**buffers, **own}, (seen,))
            return found

        calls = individuals

        def policy(observations: Tensor) -> Tensor:
            nonlocal calls
            seen = observations.reshape(individuals, episodes, *observations.shape[1:])
            with problem.ledger.primitive("population", len(observations), calls):
                outputs = vmap(one, chunk_size=chunk)(params, seen)
            calls = 0
            return self.act(outputs.flatten(0, 1))

        played = self.rollout(policy, self.seeds(episodes).repeat(individuals))
        return -played.returns.reshape(individuals, episodes).mean(1)

    def state_dict(self) -> dict[str, Any]:
        """Return the episodes at hand in weights_only-safe types."""
        return self._inner.state_dict()

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Put a state of `state_dict` back."""
        self._inner.load_state_dict(saved)
