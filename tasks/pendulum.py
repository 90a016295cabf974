"""Pendulum: swing up and hold a pendulum by a torque too weak to lift it at once."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from altprop import Descriptor, Rollout
from altprop.tasks.common import Array
from altprop.tasks.control import GymnasiumTask, Physics


class PendulumEnvironment(Physics):
    """Pendulum-v1: minus (angle^2 + speed^2 / 10 + torque^2 / 1000) for each of 200 steps; none ends by itself.

    A model's output z is the torque 2 tanh z. gymnasium's step takes arrays as it stands. Behaviour is the mean height
    of the free end, -1 to 1, and the mean size of the torque.

    Args:
        physics: gymnasium's module.
    """

    horizon = 200
    bounds = (math.pi, 1.0)
    descriptor = Descriptor(("height", "torque"), (-1.0, 0.0), (1.0, 2.0))

    def __init__(self, physics: Any) -> None:
        self._pendulum = physics.PendulumEnv()

    def act(self, outputs: Tensor) -> Tensor:
        """Return torques (N, 1) between -2 and 2."""
        torques: Tensor = self._pendulum.max_torque * outputs.tanh()
        return torques

    def _describe(self, played: Rollout) -> Tensor:
        height, torque = played.observations[..., 0], played.actions[..., 0].abs()
        return torch.stack([played.mean(height), played.mean(torque)], -1)

    def _see(self, place: Array) -> Array:
        angle, speed = place
        return np.stack([np.cos(angle), np.sin(angle), speed])

    def _move(self, place: Array, actions: Array) -> tuple[Array, Array, Array]:
        self._pendulum.state = place
        _, rewards, _, _, _ = self._pendulum.step(actions.T)
        return self._pendulum.state, rewards, np.zeros(place.shape[1], dtype=bool)


class Pendulum(GymnasiumTask):
    """Swing up and stand: cosine, sine and speed of the angle are seen, the torque is a number.

    The return is minus the cost of 200 steps: about -1200 for random torques, -150 for good policies (no bound is
    known in closed form). Needs the extra `rl` (gymnasium).

    Paper: gymnasium's Pendulum-v1; swing-up by limited torque: Doya 2000, Reinforcement learning in continuous time
    and space.
    """

    module = "pendulum"
    shapes = (3, 1)

    def _environment(self) -> PendulumEnvironment:
        return PendulumEnvironment(self._physics())
