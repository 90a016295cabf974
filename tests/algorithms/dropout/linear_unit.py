"""One linear unit that sees noisy values, where every expectation over the noise can be summed exactly."""

import itertools

import torch

from altprop.data import Batch, ModelSpec
from altprop.models.mlp import MLP
from altprop.randomness import generator_for
from altprop.testing import make_problem

UNITS, TARGET = 6, 0.7
# What a uniform draw must be so that a Bernoulli variable of any rate keeps, or drops.
KEEP, DROP = 1 - 2**-53, 0.0


def unit_problem(site, noise):
    """Return a problem whose one linear output sees UNITS noisy values (or has noisy weights), and its batch."""
    hidden = [UNITS] if site == "unit" else []
    spec = ModelSpec((UNITS,), 1)
    model = MLP(spec, hidden, "identity", noise=noise, generator=generator_for("unit")).double()
    problem = make_problem(model, "half_squared_error")
    x = torch.randn(1, UNITS, generator=generator_for("x"), dtype=torch.float64)
    return problem, Batch(x, torch.tensor([[TARGET]], dtype=torch.float64), torch.arange(1))


def bernoulli(p, shape=(1, UNITS)):
    """Return all uniform draws that matter, each with its probability: to keep or to drop, 2^n of them."""
    size = torch.Size(shape).numel()
    for kept in itertools.product((False, True), repeat=size):
        draws = torch.tensor([KEEP if keep else DROP for keep in kept]).double().reshape(shape)
        yield draws, (1 - p) ** sum(kept) * p ** (size - sum(kept))


def signs(shape=(1, UNITS)):
    """Return points and weights that give the expectation of a quadratic of N(0, 1) draws exactly: all signs."""
    size = torch.Size(shape).numel()
    for each in itertools.product((-1.0, 1.0), repeat=size):
        yield torch.tensor(each).double().reshape(shape), 0.5**size


def expectation(value, problem, batch, draws, key):
    """Return the sum of probability times `value(problem, batch)` over draws at one place."""
    total = 0.0
    for drawn, probability in draws:
        with problem.clock.replay({key: drawn}):
            total = total + probability * value(problem, batch)
    return total


def objective(problem, batch):
    return problem.objective(batch)


def outputs(problem, batch):
    return problem.outputs(batch).detach()


def weight_gradient(site):
    """Return the function that gives the gradient (UNITS,) in the noisy unit's weights."""
    name = "blocks.1.weight" if site == "unit" else "blocks.0.weight"
    return lambda problem, batch: problem.gradient(batch)[1][name][0]


def quiet(site):
    """Return what the unit sees, its weights, the objective and the output, all without noise."""
    problem, batch = unit_problem(site, None)
    x = batch.inputs
    for block in list(problem.model.blocks)[:-1]:
        x = block(x).detach()
    return x[0], problem.model.blocks[-1].weight.detach()[0], objective(problem, batch), outputs(problem, batch)
