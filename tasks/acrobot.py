"""Acrobot: swing a chain of two links up by a torque at the joint between them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from altprop import Descriptor, Rollout
from altprop.tasks.common import Array
from altprop.tasks.control import GymnasiumTask, Physics


class AcrobotEnvironment(Physics):
    """Acrobot-v1: -1 for each step until the free end stands one link above the joint that is fixed, at most 500 steps.

    gymnasium integrates one chain; its derivatives take arrays, the Runge-Kutta step around them is written here.
    Behaviour is the mean height of the free end over the fixed joint, in links, and the mean size of the torque.

    Args:
        physics: gymnasium's module.
    """

    horizon = 500
    bounds = (0.1, 0.1, 0.1, 0.1)
    descriptor = Descriptor(("height", "torque"), (-2.0, 0.0), (2.0, 1.0))

    def __init__(self, physics: Any) -> None:
        self._chain = physics.AcrobotEnv()

    def _describe(self, played: Rollout) -> Tensor:
        cosine, sine, cosine_of_second, sine_of_second = played.observations[..., :4].unbind(-1)
        height = -cosine - (cosine * cosine_of_second - sine * sine_of_second)
        torque = (played.actions - 1).abs().to(height.dtype)  # of -1, 0 and 1
        return torch.stack([played.mean(height), played.mean(torque)], -1)

    def _see(self, place: Array) -> Array:
        first, second, *speeds = place
        return np.stack([np.cos(first), np.sin(first), np.cos(second), np.sin(second), *speeds])

    def _move(self, place: Array, actions: Array) -> tuple[Array, Array, Array]:
        chain = self._chain
        start, h = np.stack([*place, np.take(chain.AVAIL_TORQUE, actions)]), chain.dt
        k1 = self._slope(start)
        k2 = self._slope(start + h / 2 * k1)
        k3 = self._slope(start + h / 2 * k2)
        k4 = self._slope(start + h * k3)
        first, second, *speeds = (start + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))[:4]
        limits = (chain.MAX_VEL_1, chain.MAX_VEL_2)
        speeds = [np.clip(speed, -limit, limit) for speed, limit in zip(speeds, limits, strict=True)]
        ended = -np.cos(first) - np.cos(second + first) > 1.0
        return np.stack([_wrapped(first), _wrapped(second), *speeds]), np.where(ended, 0.0, -1.0), ended

    def _slope(self, augmented: Array) -> Array:
        return np.stack(np.broadcast_arrays(*self._chain._dsdt(augmented)))


def _wrapped(angle: Array) -> Array:
    """Return an angle between -pi and pi.

    >>> _wrapped(np.array([0.0, 1.5 * np.pi])) / np.pi
    array([ 0. , -0.5])
    """
    turned: Array = (angle + np.pi) % (2 * np.pi) - np.pi
    return turned


class Acrobot(GymnasiumTask):
    """Swing up: sines, cosines and speeds of two angles are seen, the torque is -1, 0 or 1.

    The return is minus the number of steps; solved is -100 over 100 episodes. A reward is sparse: who never swings up
    gets -500 whatever it does. Needs the extra `rl` (gymnasium).

    Paper: Sutton 1996, Generalization in reinforcement learning: successful examples using sparse coarse coding; the
    version is Acrobot-v1, with the equations of Sutton and Barto's book.
    """

    module = "acrobot"
    shapes = (6, 3)

    def _environment(self) -> AcrobotEnvironment:
        return AcrobotEnvironment(self._physics())
