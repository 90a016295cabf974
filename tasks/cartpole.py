"""Cart and pole: keep a pole upright by pushes to the left and to the right."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from altprop import Descriptor, Rollout
from altprop.tasks.common import Array
from altprop.tasks.control import GymnasiumTask, Physics


class CartPoleEnvironment(Physics):
    """CartPole-v1: 1 for each step until the pole leans by 12 degrees or the cart is 2.4 away, at most 500 steps.

    Behaviour is the mean position of the cart and its mean speed, whichever way.

    Args:
        physics: gymnasium's module.
    """

    horizon = 500
    bounds = (0.05, 0.05, 0.05, 0.05)
    descriptor = Descriptor(("position", "speed"), (-2.4, 0.0), (2.4, 2.0))

    def __init__(self, physics: Any) -> None:
        self._class = physics.CartPoleVectorEnv
        self._carts = self._class(1)

    def _describe(self, played: Rollout) -> Tensor:
        position, speed = played.observations[..., 0], played.observations[..., 1].abs()
        return torch.stack([played.mean(position), played.mean(speed)], -1)

    def _move(self, place: Array, actions: Array) -> tuple[Array, Array, Array]:
        count = place.shape[1]
        if self._carts.num_envs != count:
            self._carts = self._class(count)
        self._carts.state, self._carts.prev_done = place, np.zeros(count, dtype=bool)  # none of them starts anew
        _, rewards, ended, _, _ = self._carts.step(actions)
        return self._carts.state, rewards, ended


class CartPole(GymnasiumTask):
    """Balance a pole: positions and speeds of cart and pole are seen, and pushed is to the left or to the right.

    The return is the number of steps that it stands, at most 500; solved is 475 over 100 episodes. Needs the extra
    `rl` (gymnasium).

    Paper: Barto, Sutton and Anderson 1983, Neuronlike adaptive elements that can solve difficult learning control
    problems; the version is CartPole-v1.
    """

    module = "cartpole"
    shapes = (4, 2)

    def _environment(self) -> CartPoleEnvironment:
        return CartPoleEnvironment(self._physics())
