"""Mountain car: drive out of a valley with a motor too weak to climb it at once, paid at the goal alone."""

from typing import Any

import numpy as np
from torch import Tensor

from altprop import Descriptor, Rollout
from altprop.tasks.common import Array
from altprop.tasks.control import GymnasiumTask, Physics


class MountainCarEnvironment(Physics):
    """MountainCar-v0 paid otherwise: 1 for reaching the goal, nothing before, within 200 steps.

    Behaviour is where an episode ends: position and speed after the last step.

    gymnasium moves one car, by branches; the constants are its own and the three lines around them are written here.

    Args:
        physics: gymnasium's module.
    """

    horizon = 200
    bounds = (0.1, 0.0)
    centre = (-0.5, 0.0)
    descriptor = Descriptor(("position", "speed"), (-1.2, -0.07), (0.6, 0.07))

    def __init__(self, physics: Any) -> None:
        self._car = physics.MountainCarEnv()

    def _describe(self, played: Rollout) -> Tensor:
        return played.last

    def _move(self, place: Array, actions: Array) -> tuple[Array, Array, Array]:
        car, (position, speed) = self._car, place
        speed = speed + (actions - 1) * car.force - np.cos(3 * position) * car.gravity
        speed = np.clip(speed, -car.max_speed, car.max_speed)
        position = np.clip(position + speed, car.min_position, car.max_position)
        speed = np.where((position == car.min_position) & (speed < 0), 0.0, speed)
        ended = position >= car.goal_position
        return np.stack([position, speed]), np.where(ended, 1.0, 0.0), ended


class MountainCar(GymnasiumTask):
    """Rock a car out of a valley: position and speed are seen, pushed is to the left, not at all or to the right.

    The return is the share of episodes that reach the goal: a sparse reward, so that all who never arrive are equal,
    and no gradient, estimated or not, leads from them. Needs the extra `rl` (gymnasium).

    Paper: Moore 1990, Efficient memory-based learning for robot control; physics and start are those of
    MountainCar-v0, where each step costs 1, so that episodes without an end are told from each other by nothing either.
    """

    module = "mountain_car"
    shapes = (2, 3)

    def _environment(self) -> MountainCarEnvironment:
        return MountainCarEnvironment(self._physics())
