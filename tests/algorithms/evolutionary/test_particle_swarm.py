"""Particle swarm: what its oracles leave open."""

import math

import pytest
import torch

from altprop.algorithms.evolutionary import checks
from altprop.algorithms.evolutionary.particle_swarm import ParticleSwarm
from altprop.errors import AltpropError
from altprop.testing import set_up, toy, toy_point


@pytest.mark.parametrize("neighbourhood", ["all", "ring"])
def test_a_generation_is_the_papers_particle_by_particle(neighbourhood):
    problem, batch = toy_point([0.0] * 3, [1.0, -1.0, 0.5])
    checks.pose(problem, checks.rosenbrock)
    learner = set_up(ParticleSwarm(6, 0.6, 1.1, 1.7, neighbourhood, fastest=1e9, sigma=0.5), problem)
    learner.step(batch)
    before = problem.random.state_dict()
    x, v, p = learner.places.clone(), learner.velocities.clone(), learner.best.clone()
    learner.step(batch)
    problem.random.load_state_dict(before)
    r, s = problem.random.uniform(6, 3), problem.random.uniform(6, 3)
    for i in range(6):
        if checks.rosenbrock(x[i]) < checks.rosenbrock(p[i]):
            p[i] = x[i]
    values = checks.rosenbrock(p)
    for i in range(6):
        near = range(6) if neighbourhood == "all" else (i - 1, i, (i + 1) % 6)
        g = p[min(near, key=lambda k: float(values[k]))]
        velocity = 0.6 * v[i] + 1.1 * r[i] * (p[i] - x[i]) + 1.7 * s[i] * (g - x[i])
        assert torch.allclose(learner.velocities[i], velocity, rtol=0, atol=1e-14)
        assert torch.allclose(learner.places[i], x[i] + velocity, rtol=0, atol=1e-14)
    assert torch.equal(problem.flat(), p[values.argmin()])


def test_no_velocity_exceeds_the_bound():
    problem, batch = toy_point([0.0] * 3, [40.0, -40.0, 40.0])
    learner = set_up(ParticleSwarm(fastest=0.5, sigma=2.0), problem)
    for _ in range(20):
        learner.step(batch)
    assert float(learner.velocities.abs().max()) == 1.0


def test_the_sphere_is_solved():
    """10 dimensions, 20 particles: the published constants converge."""
    counts = [checks.evaluations(lambda: ParticleSwarm(sigma=0.5), checks.sphere, seed) for seed in range(3)]
    assert max(counts) < 20000


def test_a_dead_population_leaves_numbers():
    problem, batch = toy()
    checks.pose(problem, lambda flat: torch.full((len(flat),), math.nan, dtype=flat.dtype))
    learner = set_up(ParticleSwarm(), problem)
    for _ in range(3):
        learner.step(batch)
    assert problem.flat().isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 2}, "at least 3"),
        ({"inertia": 1.0}, "algorithm.inertia"),
        ({"neighbourhood": "star"}, "unknown algorithm.neighbourhood=star"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(AltpropError, match=message):
        ParticleSwarm(**options)
