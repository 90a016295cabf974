"""Pole balancing: one pole or two of unlike length on a cart that is pushed, by Wieland's equations."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from altprop import Descriptor, Rollout, check_number, check_whole
from altprop.tasks.common import Array
from altprop.tasks.control import ControlTask, Physics

GRAVITY, CART, FORCE, FRICTION, TRACK = 9.8, 1.0, 10.0, 2e-6, 2.4  # m/s^2, kg, N, of a hinge in N m s, m
LENGTHS, MASSES = (0.5, 0.05), (0.1, 0.01)  # half the length of each pole, m; kg
STEP, STEPS = 0.01, 2  # s, and how many make one control
FOUR_DEGREES = 0.07  # as the published programs have it
# Half of what Gruau's 625 starts span, in m, m/s and degrees: the first pole's; the second begins upright.
STARTS = (1.944, 1.215, math.radians(3.24), math.radians(7.74))
SEEN_AS = (4.8, 2.0, 0.52, 2.0, 0.52, 2.0)  # units of what is seen


def slopes(place: Array, force: Array, friction: float = FRICTION) -> Array:
    """Return the time derivative of cart and poles, shaped like the place.

    With l_i half the length of a pole, m_i its mass and M that of the cart,

        fi_i = m_i l_i w_i^2 sin t_i - 3/4 m_i cos t_i (g sin t_i - mu w_i / (m_i l_i)),
        mi_i = m_i (1 - 3/4 cos^2 t_i),
        dv/dt = (F + sum fi_i) / (M + sum mi_i),
        dw_i/dt = 3/4 (g sin t_i - cos t_i dv/dt - mu w_i / (m_i l_i)) / l_i.

    Args:
        place: (2 + 2 K, N): x (m), v (m/s), and of each of K poles its angle t from upright (rad) and speed w (rad/s).
        force: F (N,), N.
        friction: mu, of the hinges; the cart has none.
    """
    _, speed, *poles = place
    angles, turns = poles[::2], poles[1::2]
    pulled, carried, leans = force, np.full_like(speed, CART), []
    for angle, turn, half, mass in zip(angles, turns, LENGTHS, MASSES, strict=False):
        sine, cosine = np.sin(angle), np.cos(angle)
        lean = GRAVITY * sine - friction * turn / (mass * half)
        pulled = pulled + mass * half * turn * turn * sine - 0.75 * mass * cosine * lean
        carried = carried + mass * (1 - 0.75 * cosine * cosine)
        leans.append((lean, cosine))
    push = pulled / carried
    found = [speed, push]
    for (lean, cosine), turn, half in zip(leans, turns, LENGTHS, strict=False):
        found += [turn, 0.75 * (lean - cosine * push) / half]
    return np.stack(found)


def advanced(place: Array, force: Array, step: float = STEP, friction: float = FRICTION) -> Array:
    """Return the place (2 + 2 K, N) after one step of Runge and Kutta's fourth-order method under a force (N,)."""
    k1 = slopes(place, force, friction)
    k2 = slopes(place + step / 2 * k1, force, friction)
    k3 = slopes(place + step / 2 * k2, force, friction)
    k4 = slopes(place + step * k3, force, friction)
    found: Array = place + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return found


class PoleEnvironment(Physics):
    """1 for each control, every .02 s, until a pole leans too far or the cart leaves 4.8 m of track.

    One pole may lean by 12 degrees, two by 36. A model's output z is the force 10 tanh(z / 2) N: its logistic function
    is the output that the published programs have, 0 for a full push to the left and 1 for one to the right. Behaviour
    is the mean position of the cart, m, and the mean size of the force, N.

    Args:
        poles: 1 or 2.
        velocities: whether speeds are seen.
        history: how many of the latest observations are seen, the present one first; those before the start are 0.
        horizon: controls after which an episode is cut off.
        spread: 0 lets all episodes start with the long pole at .07 (4 degrees), all else at 0; 1 uniformly over the
            box that Gruau's 625 starts span; in between, in a box of that share around a start of the remaining share.
    """

    descriptor = Descriptor(("position", "force"), (-TRACK, 0.0), (TRACK, FORCE))

    def __init__(self, poles: int, velocities: bool, history: int, horizon: int, spread: float) -> None:
        self.horizon, self.poles = horizon, poles
        self.limit = math.radians(12 if poles == 1 else 36)
        size = 2 + 2 * poles
        self.seen = [row for row in range(size) if velocities or row % 2 == 0]
        self.size, self.rows = size, size + (history - 1) * len(self.seen)
        start = [0.0, 0.0, (1 - spread) * FOUR_DEGREES]
        self.centre = tuple(start + [0.0] * (self.rows - len(start)))
        self.bounds = tuple([spread * half for half in STARTS] + [0.0] * (self.rows - len(STARTS)))
        self.units = np.array(SEEN_AS)[self.seen][:, None]

    def act(self, outputs: Tensor) -> Tensor:
        """Return forces (N,), N."""
        forces: Tensor = FORCE * (outputs[:, 0] / 2).tanh()
        return forces

    def _describe(self, played: Rollout) -> Tensor:
        position = SEEN_AS[0] * played.observations[..., 0]
        return torch.stack([played.mean(position), played.mean(played.actions.abs())], -1)

    def _see(self, place: Array) -> Array:
        return np.concatenate([place[self.seen] / self.units, place[self.size :]])

    def _move(self, place: Array, actions: Array) -> tuple[Array, Array, Array]:
        remembered = self._see(place)[: self.rows - self.size]
        moved, force = place[: self.size], actions.astype(np.float64)
        for _ in range(STEPS):
            moved = advanced(moved, force)
        # Asked so that no number ends it too.
        ended = ~((np.abs(moved[0]) <= TRACK) & (np.abs(moved[2::2]) <= self.limit).all(0))
        return np.concatenate([moved, remembered]), np.ones(place.shape[1]), ended


class PoleBalancing(ControlTask):
    """Balance one pole, or a long and a short one at once, for as many controls of .02 s as `horizon` says.

    The return is the number of controls. Published runs of two poles with velocities call it solved after 100,000
    (`task.horizon=100000`), from the one start that `spread=0` gives. Policies here are functions of what is seen:
    where speeds are not seen, a memory is offered by `history`, in the place of a recurrent net.

    Args:
        poles, velocities, history, horizon, spread: see `PoleEnvironment`.
        common: see `Task`.

    Papers: Wieland 1991, Evolving neural network controllers for unstable systems; Gruau, Whitley and Pyeatt 1996, A
    comparison between cellular encoding and direct encoding for genetic neural networks; Gomez and Miikkulainen 1999,
    Solving non-Markovian control tasks with neuroevolution; Stanley and Miikkulainen 2002. The published programs leave
    out the cart's friction; some raise a force below 1/256 of the full one, which is left out here.
    """

    def __init__(
        self,
        *,
        poles: int = 2,
        velocities: bool = True,
        history: int = 1,
        horizon: int = 1000,
        spread: float = 0.0,
        **common: Any,
    ) -> None:
        self.poles = check_whole(poles, "task.poles", 1, len(LENGTHS))
        self.history = check_whole(history, "task.history", 1)
        self.horizon = check_whole(horizon, "task.horizon", 1)
        self.spread = check_number(spread, "task.spread", 0.0, 1.0)
        self.velocities = velocities
        self.shapes = ((1 + poles) * (2 if velocities else 1) * history, 1)
        super().__init__(**common)

    def _physics_named(self) -> str:
        return f"{self.poles} poles by Wieland's equations, from starts of spread {self.spread:g}"

    def _environment(self) -> PoleEnvironment:
        return PoleEnvironment(self.poles, self.velocities, self.history, self.horizon, self.spread)
