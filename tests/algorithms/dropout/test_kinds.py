"""What every kind of dropout must do, on the small problem that it acts on."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import altprop
from altprop.algorithms.backprop.backprop import Backprop
from altprop.algorithms.dropout.alpha import AlphaDropout
from altprop.algorithms.dropout.concrete import ConcreteDropout
from altprop.algorithms.dropout.dropblock import DropBlock
from altprop.algorithms.dropout.dropconnect import DropConnect
from altprop.algorithms.dropout.gaussian import GaussianDropout
from altprop.algorithms.dropout.recurrent import RecurrentDropout
from altprop.algorithms.dropout.spatial import SpatialDropout
from altprop.algorithms.dropout.standard import StandardDropout
from altprop.algorithms.dropout.standout import Standout
from altprop.algorithms.dropout.stochastic_depth import StochasticDepth
from altprop.algorithms.dropout.variational import VariationalDropout
from altprop.algorithms.dropout.zoneout import Zoneout
from altprop.data import Batch, ModelSpec
from altprop.models.cnn import CNN
from altprop.models.residual import ResidualMLP
from altprop.optim import OptimizerFactory
from altprop.randomness import generator_for
from altprop.testing import central_differences, make_problem, set_up, toy, toy_sequence


def mlp(noise, dtype=torch.float64):
    """A chain without noise is differentiated in closed form; one that is watched, as the noisy one is."""
    problem, batch = toy(noise=noise, dtype=dtype)
    problem.model.blocks[0].register_forward_hook(lambda *_: None)
    return problem, batch


def cnn(noise, dtype=torch.float64):
    spec = ModelSpec((36,), 3)
    model = CNN(spec, [3, 4], stride=[1, 2], activation="tanh", noise=noise, generator=generator_for("cnn")).to(dtype)
    x = torch.randn(6, 36, generator=generator_for("x"), dtype=torch.float64).to(dtype)
    return make_problem(model, "cross_entropy"), Batch(x, torch.arange(6) % 3, torch.arange(6))


def residual(noise, dtype=torch.float64):
    model = ResidualMLP(ModelSpec((6,), 3), [5, 5, 5], "tanh", noise=noise, generator=generator_for("deep")).to(dtype)
    x = torch.randn(6, 6, generator=generator_for("x"), dtype=torch.float64).to(dtype)
    return make_problem(model, "cross_entropy"), Batch(x, torch.arange(6) % 3, torch.arange(6))


def gru(noise, dtype=torch.float64):
    return toy_sequence("gru", noise=noise, dtype=dtype, per_step=True)


def lstm(noise, dtype=torch.float64):
    return toy_sequence("lstm", noise=noise, dtype=dtype, lengths=[7, 3, 5, 1])


@dataclass
class Kind:
    """A kind of dropout: how it acts here, how it does nothing, and on which problem.

    Attributes:
        nothing: None where it always does something, as a learned rate does.
        exact: whether a realised mask depends on no weight, so that the gradient is that of finite differences.
    """

    noise: type
    acts: dict
    nothing: dict | None
    problem: object = mlp
    exact: bool = True
    schedules: tuple = field(default=("annealed", "curriculum"))


KINDS = {
    "standard": Kind(StandardDropout, {"p": 0.4, "p_input": 0.2}, {"p": 0.0}),
    "gaussian": Kind(GaussianDropout, {"p": 0.4, "p_input": 0.2}, {"p": 0.0}),
    "alpha": Kind(AlphaDropout, {"p": 0.4, "p_input": 0.2}, {"p": 0.0}),
    "spatial": Kind(SpatialDropout, {"p": 0.4}, {"p": 0.0}, cnn),
    "dropconnect": Kind(DropConnect, {"p": 0.4}, {"p": 0.0}),
    "dropblock": Kind(DropBlock, {"p": 0.3, "block": 2}, {"p": 0.0}, cnn),
    "stochastic_depth": Kind(StochasticDepth, {"p": 0.6}, {"p": 0.0}, residual),
    "variational": Kind(
        VariationalDropout, {"p": 0.4, "p_input": 0.2}, {"p": 0.0, "p_input": 0.0, "p_state": 0.0}, gru
    ),
    "zoneout": Kind(Zoneout, {"p": 0.4, "p_cell": 0.2}, {"p": 0.0, "p_cell": 0.0}, lstm),
    "recurrent": Kind(RecurrentDropout, {"p": 0.4}, {"p": 0.0}, lstm),
    "concrete": Kind(ConcreteDropout, {"p": 0.3, "length_scale": 0.5}, None, mlp, schedules=()),
    "standout": Kind(Standout, {"alpha": 1.0, "beta": 0.5}, {"alpha": 0.0, "beta": 40.0}, mlp, False, ()),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


def test_no_kind_is_forgotten():
    folder = Path(altprop.__file__).parent / "conf" / "dropout"
    assert {path.stem for path in folder.glob("*.yaml")} == {"none", *KINDS}


@every_kind
def test_where_it_does_nothing_it_is_none_to_the_bit(kind):
    if kind.nothing is None:
        return
    ends = []
    for noise in (None, kind.noise(**kind.nothing), kind.noise(**kind.acts)):
        problem, batch = kind.problem(noise, torch.float32)
        rule = set_up(Backprop(OptimizerFactory("torch.optim.Adam", lr=0.01)), problem)
        for _ in range(4):
            rule.step(batch)
        ends.append(torch.cat([p.detach().flatten() for n, p in problem.params.items() if not n.startswith("noise.")]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@every_kind
def test_held_masks_are_one_function(kind):
    """The way of a line search and of Newton-CG: values, gradients and curvature of one and the same function."""
    problem, batch = kind.problem(kind.noise(**kind.acts))
    start = problem.flat()
    v = torch.randn(start.numel(), generator=generator_for("v"), dtype=torch.float64)
    with problem.same_noise():
        first = problem.objective(batch)
        gradient = problem.flatten(problem.gradient(batch)[1])
        if kind.exact:
            assert (central_differences(problem, batch) - gradient).abs().max() < 1e-7
        curved = problem.linearize(batch).hvp(v)
        ends = []
        for sign in (1, -1):
            problem.assign(start + sign * 1e-5 * v)
            ends.append(problem.flatten(problem.gradient(batch)[1]))
        problem.assign(start)
        assert problem.objective(batch) == first
        if kind.exact:
            # Central differences of the gradient at 1e-5.
            assert (curved - (ends[0] - ends[1]) / 2e-5).norm() < 1e-6 * curved.norm()
        assert torch.equal(problem.flatten(problem.gradient(batch)[1]), gradient)
    assert problem.objective(batch) != first
    assert not torch.equal(problem.flatten(problem.gradient(batch)[1]), gradient)


@every_kind
def test_a_rate_follows_its_schedule(kind):
    """Annealed, it is whole at first and nothing in the end; as a curriculum the other way round."""
    for schedule in kind.schedules:
        problem, batch = kind.problem(kind.noise(**kind.acts, schedule=schedule))
        plain, _ = kind.problem(kind.noise(**kind.acts))
        quiet = float(kind.problem(None)[0].objective(batch))
        whole = float(plain.objective(batch))
        found = []
        for problem.progress in (0.0, 1.0):
            problem.begin_step(0)
            found.append(float(problem.objective(batch)))
        assert whole != quiet
        if schedule == "annealed":
            assert found == [whole, quiet]
        else:
            # At the end a curriculum's rate is off by e^-10.
            assert found[0] == quiet
            assert found[1] == pytest.approx(whole, abs=1e-3 * abs(whole))


@every_kind
def test_predictions_may_average_noisy_passes(kind):
    problem, batch = kind.problem(kind.noise(**kind.acts, passes=3))
    rule = set_up(Backprop(OptimizerFactory("torch.optim.SGD", lr=0.1)), problem)
    with rule.predictor() as predict, torch.no_grad():
        averaged, again, quiet = predict(batch.inputs), predict(batch.inputs), problem.model(batch.inputs)
        assert torch.equal(averaged, again)
        assert (averaged - quiet).abs().max() > 1e-4
        mean, variance = predict.moments(batch.inputs)
    assert (problem.loss.prediction(averaged) - mean).abs().max() < 1e-12
    assert variance.shape == mean.shape
    assert variance.max() > 1e-6
