"""Poles on a cart: the equations of motion solved anew, energy, a published program, and a linear controller."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from altprop.errors import AltpropError
from altprop.randomness import Random
from altprop.tasks import pole_balancing as poles
from altprop.tasks.pole_balancing import PoleBalancing, PoleEnvironment

SEEDS = Random(0).integers(0, 2**62, 4)


def environment(**options: Any) -> PoleEnvironment:
    return PoleBalancing(batch_size=1, **options)._environment().to(torch.device("cpu"), torch.float64)


def places(count: int, size: int = 6) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (size, count))


@pytest.mark.parametrize("size", [4, 6])
def test_slopes_solve_the_equations_of_motion(size: int) -> None:
    """Lagrange's for a cart and uniform rods on hinges, as one linear system in dv/dt and dw_i/dt for each episode."""
    place = places(5, size)
    force = np.linspace(-10, 10, 5)
    found = poles.slopes(place, force, friction=0.03)
    for n in range(5):
        bars = range((size - 2) // 2)
        t, w = place[2::2, n], place[3::2, n]
        ml = [poles.MASSES[i] * poles.LENGTHS[i] for i in bars]
        matrix = np.zeros((1 + len(bars),) * 2)
        matrix[0, 0] = poles.CART + sum(poles.MASSES[i] for i in bars)
        right = [force[n] + sum(ml[i] * w[i] ** 2 * math.sin(t[i]) for i in bars)]
        for i in bars:
            matrix[0, 1 + i] = matrix[1 + i, 0] = ml[i] * math.cos(t[i])
            matrix[1 + i, 1 + i] = 4 / 3 * ml[i] * poles.LENGTHS[i]
            right.append(ml[i] * poles.GRAVITY * math.sin(t[i]) - 0.03 * w[i])
        np.testing.assert_allclose(found[1::2, n], np.linalg.solve(matrix, right), rtol=1e-12)
    np.testing.assert_array_equal(found[::2], place[1::2])


def energy(place: np.ndarray) -> np.ndarray:
    _, v, *rest = place
    total = 0.5 * poles.CART * v**2
    for t, w, half, mass in zip(rest[::2], rest[1::2], poles.LENGTHS, poles.MASSES, strict=True):
        kinetic = 0.5 * (v**2 + 2 * v * half * w * np.cos(t) + 4 / 3 * half**2 * w**2)
        total = total + mass * (kinetic + poles.GRAVITY * half * np.cos(t))
    return total


def test_energy_stays_without_friction_as_the_fourth_order_has_it() -> None:
    start = places(8)
    lost = []
    for step in (0.01, 0.005):
        place = start
        for _ in range(round(0.5 / step)):
            place = poles.advanced(place, np.zeros(8), step, friction=0.0)
        lost.append(np.abs(energy(place) - energy(start)).max())
    assert lost[0] < 1e-4
    assert lost[0] / lost[1] > 14  # 2^4, and 2^5 where no error accumulates
    place = start
    for _ in range(50):
        place = poles.advanced(place, np.zeros(8), friction=1e-4)  # more is too stiff for a step of .01 s
    assert (energy(place) < energy(start)).all()


def test_a_pole_falls_at_the_rate_of_the_linear_equations() -> None:
    """Near upright it leans as cosh(r s), r^2 = 3 g (M + m) / (l (4 M + m)), s in seconds."""
    rate = math.sqrt(3 * poles.GRAVITY * (poles.CART + 0.1) / (0.5 * (4 * poles.CART + 0.1)))
    place = np.array([[0.0], [0.0], [1e-6], [0.0]])
    for _ in range(50):
        place = poles.advanced(place, np.zeros(1), friction=0.0)
    assert place[2, 0] / 1e-6 == pytest.approx(math.cosh(0.5 * rate), rel=1e-6)


def test_places_are_those_of_the_published_program() -> None:
    """After 4 and 20 controls under the outputs 1, 0, 1, 1/2, again and again, from the start that all have.

    The figures are those of Gomez's equations as NEAT 1.2.1 has them, run by themselves in double precision.
    """
    made = environment(poles=2)
    made.reset(SEEDS[:1])
    for control in range(20):
        made.step(made.act(torch.tensor([[[80.0, -80.0, 80.0, 0.0][control % 4]]], dtype=torch.float64)))
        if control == 3:
            early = made.place[:, 0].tolist()
            assert bool(made.running.all())
        made.running[:] = True  # the program goes on after the fall
    published = (
        0.00958522310038442,
        0.191214200524272,
        0.0587963552419533,
        -0.209690241355082,
        -0.161864851626957,
        -3.60993432616972,
    )
    later = (
        0.200842539599141,
        0.971003330355869,
        -0.199110043181743,
        -1.54638119440274,
        -5.15524791138413,
        -9.43817672776516,
    )
    assert early == pytest.approx(published, rel=1e-12)
    assert made.place[:, 0].tolist() == pytest.approx(later, rel=1e-10)


def test_a_linear_controller_holds_both_poles_and_an_early_lean_ends_it() -> None:
    made = environment(horizon=300)
    played = made.rollout(riccati(6), SEEDS)
    assert played.returns.tolist() == [300.0] * 4
    assert bool(played.truncated.all())
    fallen = made.rollout(lambda seen: torch.zeros(len(seen), dtype=torch.float64), SEEDS)
    assert bool(fallen.terminated.all())
    assert fallen.steps < 4 * 100
    limit = environment(poles=1).limit
    assert (limit, made.limit) == (math.radians(12), math.radians(36))
    assert bool((fallen.observations[-1, :, [2, 4]].abs() * 0.52 <= made.limit).all())


def riccati(size: int) -> Any:
    """Return the linear-quadratic regulator of the equations near upright."""
    from scipy.linalg import solve_continuous_are

    zero, tiny = np.zeros((size, 1)), 1e-6

    def at(place: np.ndarray, force: float) -> np.ndarray:
        found: np.ndarray = poles.slopes(place, np.array([force]))[:, 0]
        return found

    a = np.stack([(at(zero + tiny * np.eye(size)[:, [i]], 0.0)) / tiny for i in range(size)], 1)
    b = (at(zero, tiny) / tiny)[:, None]
    gain = (b.T @ solve_continuous_are(a, b, np.eye(size), np.eye(1)))[0]
    units = np.array(poles.SEEN_AS[:size])
    return lambda seen: -(seen @ torch.from_numpy(gain * units)).clamp(-10, 10)


def test_starts_are_the_published_one_or_spread_over_the_box() -> None:
    one = environment()
    assert torch.equal(one.reset(SEEDS)[0], one.reset(SEEDS)[3])
    assert one.place[:, 0].tolist() == [0, 0, 0.07, 0, 0, 0]
    wide = environment(spread=1.0)
    wide.reset(Random(1).integers(0, 2**62, 4000))
    box = torch.tensor(poles.STARTS, dtype=torch.float64)
    share = wide.place[:4] / box[:, None]
    assert bool((share.abs() <= 1).all())
    assert float(share.abs().mean()) == pytest.approx(0.5, abs=0.01)
    assert not wide.place[4:].any()


def test_without_speeds_the_last_positions_are_seen_too() -> None:
    made, whole = environment(velocities=False, history=3), environment()
    seen, every = made.reset(SEEDS[:1]), [whole.reset(SEEDS[:1])]
    assert seen.shape == (1, 9)
    assert not seen[:, 3:].any()
    for _ in range(4):
        seen = made.step(torch.full((1,), 3.0, dtype=torch.float64)).observations
        every.append(whole.step(torch.full((1,), 3.0, dtype=torch.float64)).observations)
    expected: Tensor = torch.cat([past[:, ::2] for past in every[:1:-1]], 1)
    torch.testing.assert_close(seen, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("options", "message"), [({"poles": 3}, "task.poles"), ({"spread": 1.5}, "task.spread")])
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AltpropError, match=message):
        PoleBalancing(batch_size=1, **options)


def test_a_force_that_is_no_number_ends_the_episode() -> None:
    place = np.zeros((6, 2))
    _, _, ended = PoleEnvironment(2, True, 1, 10, 0.0)._move(place, np.array([0.0, np.nan]))
    assert ended.tolist() == [False, True]


@pytest.mark.parametrize("options", [{"poles": 1}, {"poles": 2}, {"poles": 2, "velocities": False}])
def test_behaviour_is_where_the_cart_is_and_how_hard_it_is_pushed(options: dict[str, Any]) -> None:
    made = environment(spread=1.0, **options)
    places: list[Tensor] = []

    def policy(seen: Tensor) -> Tensor:
        places.append(made.place[0].clone())
        return torch.tensor([3.0, -7.0, 10.0, -1.0], dtype=torch.float64)

    played = made.rollout(policy, SEEDS)
    told = made.describe(played)
    for n, force in enumerate([3.0, 7.0, 10.0, 1.0]):
        steps = int(played.taken[:, n].sum())
        mean = float(torch.stack(places)[:steps, n].mean())
        assert told[n].tolist() == pytest.approx([mean, force], rel=1e-10)
