"""The environment as an algorithm has it: its steps are counted, and a model can be evaluated in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from altprop.data import Batch, Descriptor
from altprop.environment import Environment, Policy, Rollout, Transition, mixed, roll_out
from altprop.errors import Refused
from altprop.randomness import derive_seed

if TYPE_CHECKING:
    from altprop.workspace import Workspace


class TrainingEnvironment:
    """The environment as an algorithm has it, `Problem.environment`: its steps are counted.

    Args:
        environment: of the task.
        problem: whose ledger counts.
    """

    def __init__(self, environment: Environment, problem: Workspace) -> None:
        self._inner = environment.to(problem.device, problem.dtype)
        self._problem = problem

    @property
    def horizon(self) -> int:
        """Steps after which an episode is cut off."""
        return self._inner.horizon

    @property
    def descriptor(self) -> Descriptor | None:
        """The numbers that tell how a policy behaves, or None."""
        return self._inner.descriptor

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
        return mixed(torch.arange(episodes, device=problem.device) + start)

    def reset(self, seeds: Tensor) -> Tensor:
        """See `Environment.reset`; every episode that starts is counted."""
        if not self._problem.ledger._paused:
            self._problem.ledger.episodes += len(seeds)
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

    def batch(self, played: Rollout) -> Batch:
        """Return the M steps that were taken as rows (M, F) whose targets are the actions.

        What else belongs to them, such as their rewards to go, is `x[played.taken]`, (M,).
        """
        inputs = played.observations[played.taken]
        return Batch(inputs, played.actions[played.taken], torch.arange(len(inputs), device=inputs.device))

    def loss(self, episodes: int) -> Tensor:
        """Return minus the mean return of the model on this step's episodes, a scalar."""
        return -self.rollout(lambda seen: self.act(self.outputs(seen)), self.seeds(episodes)).returns.mean()

    def population_loss(self, flat: Tensor, episodes: int, chunk: int) -> Tensor:
        """Return minus the mean return (P,) of the models at `flat` (P, D), all on this step's episodes."""
        return self._population(flat, episodes, chunk)[0]

    def population_behaviour(self, flat: Tensor, episodes: int, chunk: int) -> tuple[Tensor, Tensor]:
        """Return `population_loss` (P,) and how each model behaved, (P, K), the mean over the same episodes."""
        losses, played = self._population(flat, episodes, chunk)
        with self._problem.ledger.work("description", per="example", examples=len(flat) * episodes):
            behaviour = self._inner.describe(played).reshape(len(flat), episodes, -1).mean(1)
        return losses, behaviour

    def _population(self, flat: Tensor, episodes: int, chunk: int) -> tuple[Tensor, Rollout]:
        """Return `population_loss` (P,), and the episodes of all models, those of one after another.

        Raises:
            Refused: under noise or batch normalisation, which tie the models together.
        """
        problem = self._problem
        if problem.uncounted.noise is not None:
            raise Refused("populations that act in an environment take no noise; use dropout=none")
        problem.refuse_batch_norm("policies of a population")
        individuals, params = len(flat), problem.unflatten(flat)
        calls, models = individuals, self._models(chunk)

        def policy(observations: Tensor) -> Tensor:
            nonlocal calls
            seen = observations.reshape(individuals, episodes, *observations.shape[1:])
            with problem.ledger.primitive("population", len(observations), calls):
                outputs = models(seen, params)
            calls = 0
            return self.act(outputs.flatten(0, 1))

        played = self.rollout(policy, self.seeds(episodes).repeat(individuals))
        return -played.returns.reshape(individuals, episodes).mean(1), played

    def _models(self, chunk: int) -> Callable[[Tensor, dict[str, Tensor]], Tensor]:
        """Return what gives outputs (P, B, C) of what each model sees (P, B, F) at its parameters, name -> (P, ...)."""
        model = self._problem.model
        if getattr(model, "batched", False):
            return partial(model.population, shared_input=False)
        buffers = dict(model.named_buffers())

        def one(seen: Tensor, own: dict[str, Tensor]) -> Tensor:
            found: Tensor = functional_call(model, {**buffers, **own}, (seen,))
            return found

        return vmap(one, chunk_size=chunk)

    def state_dict(self) -> dict[str, Any]:
        """Return the episodes at hand in weights_only-safe types."""
        return self._inner.state_dict()

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Put a state of `state_dict` back."""
        self._inner.load_state_dict(saved)
