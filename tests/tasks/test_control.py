"""Classic control: whole episodes are those of gymnasium's single environments, and some learners solve them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import altprop
from altprop.errors import AltpropError
from altprop.randomness import Random
from altprop.tasks import acrobot, cartpole, control, mountain_car, pendulum

NAMES = {
    "cartpole": "CartPole-v1",
    "acrobot": "Acrobot-v1",
    "pendulum": "Pendulum-v1",
    "mountain_car": "MountainCar-v0",
}
TASKS = {
    "cartpole": cartpole.CartPole,
    "acrobot": acrobot.Acrobot,
    "pendulum": pendulum.Pendulum,
    "mountain_car": mountain_car.MountainCar,
}


@pytest.fixture
def gymnasium():
    return pytest.importorskip("gymnasium", reason="the extra `rl` is not installed")


def environment(name: str) -> control.Physics:
    made = TASKS[name](batch_size=4)._environment()
    return made.to(torch.device("cpu"), torch.float64)


@pytest.mark.parametrize("which", NAMES)
def test_episodes_are_gymnasiums(gymnasium, which: str) -> None:
    """From the same places and under the same actions: what is seen, paid and ended, to float32, in which they tell it.

    Acrobot's Runge-Kutta step is summed in another order, and chaos lets that grow: 40 steps.
    """
    count, steps = 5, 40 if which == "acrobot" else 600
    ours = environment(which)
    seen = ours.reset(Random(0).integers(0, 2**62, count))
    theirs = [gymnasium.make(NAMES[which]) for _ in range(count)]
    for place, env in enumerate(theirs):
        env.reset(seed=0)
        start = ours.place[:, place].numpy()
        env.unwrapped.state = start.astype(np.float32) if which == "acrobot" else start.copy()
    over = np.zeros(count, dtype=bool)
    draws = np.random.default_rng(1)
    for _ in range(steps):
        if which == "pendulum":
            actions = torch.from_numpy(draws.uniform(-2.5, 2.5, (count, 1)))
        elif which == "cartpole":  # towards where the pole leans and how it moves, so that some stand to the end
            actions = (seen[:, 2] + 0.5 * seen[:, 3] > 0).long()
            actions[0] = 1
        elif which == "mountain_car":  # along the speed, so that some arrive; the first rolls into the left wall
            actions = (seen[:, 1] > 0).long() * 2
            actions[0] = 0
        else:
            actions = torch.from_numpy(draws.integers(0, 3, count))
        seen, rewards, terminated, truncated = ours.step(actions)
        for place, env in enumerate(theirs):
            if over[place]:
                assert (rewards[place], bool(terminated[place]), bool(truncated[place])) == (0, False, False)
                continue
            action = actions[place].numpy() if which == "pendulum" else int(actions[place])
            found, reward, ended, cut, _ = env.step(action)
            np.testing.assert_allclose(seen[place].numpy(), found, rtol=1e-4, atol=1e-4)
            paid = float(ended) if which == "mountain_car" else float(reward)
            assert float(rewards[place]) == pytest.approx(paid, rel=1e-5)
            assert (bool(terminated[place]), bool(truncated[place])) == (ended, cut)
            over[place] = ended or cut
        if over.all():
            break
    assert bool(over.any()) == (which != "acrobot")
    if which == "mountain_car":
        assert bool(ours.running.any()) is False
        assert ours._elapsed == ours.horizon  # the first never arrives
    if which == "cartpole":
        assert ours._elapsed == ours.horizon  # one stood to the end, one fell


@pytest.mark.parametrize("which", NAMES)
def test_an_episode_depends_on_its_own_seed(gymnasium, which: str) -> None:
    seeds = Random(1).integers(0, 2**62, 4)
    together, alone = environment(which), environment(which)
    assert torch.equal(together.reset(seeds)[2], alone.reset(seeds[2:3])[0])
    bounds = torch.tensor(together.bounds, dtype=torch.float64)
    together.reset(Random(2).integers(0, 2**62, 4000))
    spread = (together.place - torch.tensor(together.centre)[:, None])[bounds > 0] / bounds[bounds > 0, None]
    assert float(spread.abs().max()) <= 1
    assert spread.mean(1).abs().max() < 4 / (3 * 4000) ** 0.5
    assert (spread.var(1) - 1 / 3).abs().max() < 4 * (4 / 45 / 4000) ** 0.5


def test_an_episode_at_hand_resumes(gymnasium) -> None:
    first, second = environment("acrobot"), environment("acrobot")
    first.reset(Random(1).integers(0, 2**62, 4))
    first.step(torch.tensor([0, 1, 2, 2]))
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        one, other = first.step(torch.tensor([2, 0, 1, 2])), second.step(torch.tensor([2, 0, 1, 2]))
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def action_of(which: str, draw: torch.Tensor) -> torch.Tensor:
    """Return actions of an environment for draws (N,) between -2 and 2."""
    if which == "pendulum":
        return draw[:, None].double()
    return (draw > 0).long() if which == "cartpole" else (draw > -0.7).long() + (draw > 0.7).long()


def moment_of(which: str, place: list[float], draw: float, action: float) -> list[float]:
    """Return what a step adds to the mean that is an episode's behaviour, from the place before it."""
    if which == "cartpole":
        return [place[0], abs(place[1])]
    if which == "pendulum":
        return [math.cos(place[0]), abs(draw)]
    return [-math.cos(place[0]) - math.cos(place[0] + place[1]), abs(action - 1)]


@pytest.mark.parametrize("which", NAMES)
def test_behaviour_is_told_by_the_places_of_each_episode(gymnasium, which: str) -> None:
    """Summed step by step and episode by episode; where a car is after the last step. All are between the bounds."""
    ours, twin, count = environment(which), environment(which), 5
    seeds, random = Random(0).integers(0, 2**62, count), Random(1)
    draws = [random.uniform(count, low=-2.0, high=2.0) for _ in range(500)]
    turns = iter(draws)
    told = ours.describe(ours.rollout(lambda seen: action_of(which, next(turns)), seeds))
    twin.reset(seeds)
    moments: list[list[list[float]]] = [[] for _ in range(count)]
    for draw in draws[: ours._elapsed]:
        actions = action_of(which, draw)
        for n in range(count):
            if twin.running[n]:
                place = twin.place[:, n].tolist()
                moments[n].append(moment_of(which, place, float(draw[n]), float(actions[n])))
        twin.step(actions)
    expected = np.array([np.mean(each, 0) for each in moments])
    np.testing.assert_allclose(told, twin.place.T if which == "mountain_car" else expected, rtol=1e-10, atol=1e-12)
    low, high = torch.tensor(ours.descriptor.low), torch.tensor(ours.descriptor.high)
    assert bool(((told >= low) & (told <= high)).all())


def test_a_swing_up_ends_and_is_not_paid_for(gymnasium) -> None:
    """Torque with the speed of the second joint pumps energy in: it ends well before the horizon."""
    played = environment("acrobot").rollout(lambda seen: (seen[:, 5] > 0).long() * 2, Random(1).integers(0, 2**62, 20))
    assert bool(played.terminated.all())
    assert torch.equal(played.returns, 1 - played.taken.sum(0).double())
    assert float(played.returns.mean()) > -150


def test_without_gymnasium_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gymnasium.envs.classic_control.cartpole", None)
    with pytest.raises(AltpropError, match=r"task cartpole needs gymnasium: pip install 'altprop\[rl\]'"):
        cartpole.CartPole(batch_size=4).data()


@pytest.mark.slow  # 1,500 to 1,800 policies of 4 episodes, most of them to the end: half a minute of CPU a learner
@pytest.mark.parametrize("learner", ["cma_es", "evolution_strategy", "genetic"])
def test_cartpole_is_solved(gymnasium, tmp_path: Path, learner: str) -> None:
    """At least 475 over the 100 fresh episodes of the evaluation; each had 500 in two seeds of two."""
    options = [f"algorithm={learner}", "algorithm.sigma=0.5", "task=cartpole", "budget.amount=6000", "seeds=[0]"]
    row = altprop.run([*options, f"runs_dir={tmp_path}", "report=false", "probes=off", "budget.grid=2"]).iloc[0]
    assert (row.status, row.metric) == ("completed", "return")
    assert row.test >= 475
