"""What a noise is told of the model that it serves, and what it may draw: shown by planted kinds of noise."""

import math

import pytest
import torch
from torch import nn

from altprop.algorithms.backprop.backprop import Backprop
from altprop.data import ModelSpec
from altprop.errors import Refused
from altprop.harness.building import _digest
from altprop.models.cnn import CNN
from altprop.models.recurrent import STATE, RecurrentModel
from altprop.noise import MixingNoise, MultiplicativeNoise, Noise, NoiseClock
from altprop.randomness import generator_for
from altprop.testing import central_differences, make_problem, set_up, sgd, toy, toy_sequence


class Gaussian(Noise):
    """Multiplies units by 1 + s N(0, 1), with a trained log s for each unit, and charges sum of log s over the rows."""

    sites = frozenset({"unit"})

    def _setup(self, places, train_size):
        self.layers = nn.ParameterDict(
            {str(layer): nn.Parameter(torch.full(shape, math.log(0.3))) for layer, shape in places["unit"].items()}
        )
        self.rows = train_size

    def _perturb(self, x, shape, site, layer):
        return x * (1 + self.layers[str(layer)].exp() * self.clock.normal(shape, site, layer, 0, x))

    def penalty(self):
        return sum(-scale.sum() for scale in self.layers.values()) / self.rows


class Branches(MultiplicativeNoise):
    """Stochastic depth: it drops what a residual branch adds, and a chain has no branch."""

    sites = frozenset({"branch"})

    def _mask(self, like, shape, site, layer):
        return (self.clock.uniform(shape[:1], site, layer, 0, like) < 0.5).to(like.dtype)


class Zoneout(MixingNoise):
    """Keeps each value of the state with probability p; evaluation takes the expectation (Krueger et al. 2017)."""

    def __init__(self, p=0.3):
        super().__init__()
        self.p = p

    def _mix(self, after, before, layer):
        if not self.training:
            return self.p * before + (1 - self.p) * after
        kept = self.clock.uniform(after.shape, "carry", layer, 0, after) < self.p
        return torch.where(kept, before, after)


class Fading(MultiplicativeNoise):
    """Dropout whose rate falls from .5 to 0 over the run."""

    sites = frozenset({"unit"})

    def _mask(self, like, shape, site, layer):
        rate = 0.5 * (1 - self.clock.progress)
        return (self.clock.uniform(shape, site, layer, 0, like) >= rate).to(like.dtype) / (1 - rate)


def test_a_noise_is_told_the_widths_that_it_serves():
    problem, batch = toy((5, 7, 6, 3), noise=Gaussian())
    shapes = {name: p.shape for name, p in problem.params.items() if name.startswith("noise.")}
    assert shapes == {"noise.layers.0": (7,), "noise.layers.1": (6,)}
    assert problem.model.noise.rows == problem.train_size == 8
    assert {p.dtype for p in problem.params.values()} == {torch.float64}
    # And its parameters are trained: their gradient is that of the objective, penalty included.
    with problem.same_noise():
        gradient = problem.flatten(problem.gradient(batch)[1])
        assert (central_differences(problem, batch) - gradient).abs().max() < 1e-8
    assert gradient[-13:].abs().min() > 0


def test_a_recurrent_model_and_a_convolution_tell_theirs():
    told = {}

    class Curious(MultiplicativeNoise):
        sites = frozenset({"input", "unit", "weight", "state"})

        def _setup(self, places, train_size):
            told.update({site: dict(layers) for site, layers in places.items()})

        def _mask(self, like, shape, site, layer):
            raise AssertionError("nothing is drawn while a noise is set up")

    toy_sequence("lstm", noise=Curious(), per_step=True)
    assert told == {
        "input": {0: (2,)},
        "unit": {1: (5,)},
        "state": {1: (5,)},
        "weight": {0: (20, 2), 1: (20, 5), 2: (3, 5)},
    }
    told.clear()
    noise = Curious()
    model = CNN(ModelSpec((1, 6, 6), 3), (3, 4), normalisation="batch", noise=noise, generator=generator_for(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    make_problem(model, "cross_entropy")
    assert told["input"] == {0: (1, 6, 6)}
    assert [shape[0] for shape in told["unit"].values()] == [3, 4]
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_noise_that_acts_nowhere_is_refused():
    with pytest.raises(Refused, match=r"Branches acts at branch, and model=mlp has other sites of noise \(input, unit"):
        toy(noise=Branches())
    with pytest.raises(Refused, match=r"Zoneout acts at carry, and model=mlp .*; use dropout=none"):
        toy(noise=Zoneout())
    with pytest.raises(Refused, match="Gaussian acts at unit, and model=mlp"):
        toy((5, 3), noise=Gaussian())


def test_normal_draws_stand_beside_uniform_ones():
    clock = NoiseClock(3)
    like = torch.zeros(1, dtype=torch.float64)
    shape = torch.Size((50_000,))
    uniform, normal = clock.uniform(shape, "unit", 0, 0, like), clock.normal(shape, "unit", 0, 0, like)
    # Standard errors of mean and variance of N(0, 1): 1 / sqrt(n) and sqrt(2 / n); 4 of them.
    assert abs(float(normal.mean())) < 4 / math.sqrt(50_000)
    assert abs(float(normal.var()) - 1) < 4 * math.sqrt(2 / 50_000)
    # They are apart: the correlation of independent draws is below 4 / sqrt(n).
    assert abs(float(torch.corrcoef(torch.stack([uniform, normal]))[0, 1])) < 4 / math.sqrt(50_000)
    assert torch.equal(clock.normal(shape, "unit", 0, 0, like), normal)
    assert not torch.equal(clock.normal(shape, "unit", 1, 0, like), normal)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_zoneout_keeps_what_it_says(cell):
    noise = Zoneout()
    problem, batch = toy_sequence(cell, noise=noise, per_step=True, lengths=[7, 3, 5, 1])
    model, mask = problem.model, batch.mask
    states, _ = model.unroll(batch.inputs, model.initial_state(4), mask)
    h, kept = model.initial_state(4), 0
    for t, x in enumerate(batch.inputs):
        noise.eval()
        after = model.cell(x, h)
        noise.train()
        with noise.clock.at(t):
            keep = noise.clock.uniform(h.shape, "carry", STATE, 0, h) < 0.3
        h = torch.where(mask[t][:, None] & ~keep, after, h)
        assert (states[t] - h).abs().max() < 1e-15
        kept += int(keep.sum())
    assert 0.2 < kept / (7 * h.numel()) < 0.4
    with problem.same_noise():
        gradient = problem.flatten(problem.gradient(batch)[1])
        assert (central_differences(problem, batch) - gradient).abs().max() < 1e-8
        each = problem.per_example_gradients(batch)
        assert all(torch.isfinite(value).all() for value in each.values())
    with problem.evaluating():
        once = model.unroll(batch.inputs[:1], model.initial_state(4))[1]
        assert torch.equal(once, 0.7 * model.cell(batch.inputs[0], model.initial_state(4)))


def test_zoneout_is_one_function_under_every_transform():
    problem, batch = toy_sequence("gru", noise=Zoneout())
    flat = problem.flat()[None] + 0.1 * torch.randn(3, len(problem.flat()), generator=generator_for(1)).double()
    with problem.same_noise():
        together = problem.population_objective(flat, batch)
        for value, row in zip(together, flat, strict=True):
            problem.assign(row)
            assert float(problem.objective(batch)) == pytest.approx(float(value), rel=1e-12)
        each, whole = problem.per_example_gradients(batch), problem.gradient(batch)[1]
    for name, value in whole.items():
        assert (each[name].mean(0) - value).abs().max() < 1e-14


class ManyPasses(Fading):
    """Dropout whose predictions average four passes with noise."""

    passes = 4


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "half_squared_error"])
def test_a_prediction_may_average_passes_under_noise(loss):
    problem, batch = toy(noise=ManyPasses(), loss=loss)
    rule = set_up(Backprop(sgd()), problem)
    rule.step(batch)
    phase, model = problem.clock.phase, problem.model
    means = {"cross_entropy": lambda z: z.softmax(-1), "binary_cross_entropy": torch.sigmoid}
    mean = means.get(loss, lambda z: z)
    with rule.predictor() as predict, torch.no_grad():
        found, again = mean(predict(batch.inputs)), mean(predict(batch.inputs))
        assert torch.equal(found, again)
        quiet = mean(model(batch.inputs))
        assert not model.noise.training
        model.noise.train()
        passes = []
        for one in range(4):
            problem.clock.phase = -1 - one
            passes.append(mean(model(batch.inputs)))
    assert (found - torch.stack(passes).mean(0)).abs().max() < 1e-14
    assert (found - quiet).abs().max() > 1e-3
    assert (passes[0] - passes[1]).abs().max() > 1e-3
    assert problem.clock.phase == phase
    assert model.noise.training
    with set_up(Backprop(sgd()), toy()[0]).predictor() as predict:
        assert isinstance(predict, nn.Module)


def test_a_noise_may_follow_the_progress_of_the_run():
    problem, batch = toy(noise=Fading())
    with problem.evaluating():
        quiet = problem.objective(batch)
    problem.begin_step(0)
    assert problem.objective(batch) != quiet
    problem.progress = 1.0
    problem.begin_step(1)
    assert problem.objective(batch) == quiet


def test_a_hold_inside_a_hold_leaves_the_phase_alone():
    problem, batch = toy(noise=Fading())
    with problem.same_noise():
        first = problem.objective(batch)
        with problem.same_noise():
            assert problem.objective(batch) == first
        assert problem.clock.held
        assert problem.objective(batch) == first
        with problem.observing():
            assert problem.objective(batch) == first
        assert problem.objective(batch) == first
    assert problem.clock.phase == 1
    assert problem.objective(batch) != first


def test_a_recurrent_model_needs_a_sequence_to_be_asked():
    """The example that shows the places is a sequence where the model reads one."""
    model = RecurrentModel(ModelSpec((3,), 2, sequence=True), "gru", noise=Zoneout(), generator=generator_for(0))
    assert make_problem(model, "mse").model.noise is model.noise


def test_the_parameters_of_a_noise_are_no_initial_weights_of_the_model():
    quiet, learned, other = toy()[0], toy(noise=Gaussian())[0], toy(seed=1)[0]
    assert _digest(learned.model) == _digest(quiet.model) != _digest(other.model)
