"""One function inside `same_noise`, however it is reached; and masks that are equal under every learner."""

import pytest
import torch
from torch import nn

from altprop.algorithms.backprop.backprop import Backprop
from altprop.algorithms.dropout.standard import StandardDropout
from altprop.algorithms.feedback.dfa import DirectFeedbackAlignment
from altprop.data import Batch, ModelSpec
from altprop.models.cnn import CNN
from altprop.models.shortcut import ShortcutMLP
from altprop.noise import MultiplicativeNoise, Noise
from altprop.optim import OptimizerFactory
from altprop.randomness import generator_for
from altprop.testing import make_problem, toy, toy_sequence

SGD = OptimizerFactory("torch.optim.SGD", lr=0.1)


class DropConnect(MultiplicativeNoise):
    """Drops weights, which all rows share."""

    sites = frozenset({"weight", "unit"})

    def _mask(self, like, shape, site, layer):
        return 2.0 * (self.clock.uniform(shape, site, layer, 0, like) < 0.5).to(like.dtype)


class LearnedScale(Noise):
    """Adds exp(s) U(-1, 1) to hidden units with a trained s for each layer, and charges sum (s + 1)^2."""

    sites = frozenset({"unit"})

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(-2, -1, layers, dtype=torch.float64))

    def _perturb(self, x, shape, site, layer):
        return x + self.scale[layer].exp() * (2 * self.clock.uniform(shape, site, layer, 0, x) - 1)

    def penalty(self):
        return (self.scale + 1).square().sum()


def dropout():
    return StandardDropout(p=0.4, p_input=0.2)


def convolutional(noise):
    model = CNN(ModelSpec((16,), 3), [2, 3], activation="tanh", noise=noise, generator=generator_for("cnn")).double()
    x = torch.randn(6, 16, generator=generator_for("x"), dtype=torch.float64)
    return make_problem(model, "cross_entropy"), Batch(x, torch.arange(6) % 3, torch.arange(6))


def shortcut(noise):
    model = ShortcutMLP(ModelSpec((4,), 3), [3, 2], noise=noise, generator=generator_for("s")).double()
    x = torch.randn(6, 4, generator=generator_for("x"), dtype=torch.float64)
    return make_problem(model, "cross_entropy"), Batch(x, torch.arange(6) % 3, torch.arange(6))


PROBLEMS = {
    "mlp": lambda noise: toy(noise=noise),
    "mlp with layer norm": lambda noise: toy(noise=noise, normalisation="layer"),
    "cnn": convolutional,
    "shortcut_mlp": shortcut,
    "gru": lambda noise: toy_sequence("gru", noise=noise, per_step=True, loss="cross_entropy"),
    "lstm at the end": lambda noise: toy_sequence("lstm", noise=noise),
}
NOISES = {"dropout": dropout, "drop connect": DropConnect, "learned": LearnedScale}


@pytest.fixture(params=PROBLEMS)
def make(request):
    return PROBLEMS[request.param]


@pytest.fixture(params=NOISES)
def noise(request):
    return NOISES[request.param]()


def test_the_objective_repeats_inside_and_only_there(make, noise):
    problem, batch = make(noise)
    with problem.same_noise():
        inside = [problem.objective(batch) for _ in range(3)]
    assert inside[0] == inside[1] == inside[2]
    outside = [problem.objective(batch) for _ in range(2)]
    assert len({float(value) for value in (inside[0], *outside)}) == 3


def test_every_way_to_the_objective_sees_the_same_masks(make, noise):
    """gradient, jvp, linearize, functional and population objectives, and the derivatives of one the other's."""
    problem, batch = make(noise)
    start = problem.flat()
    v = torch.randn(start.numel(), generator=generator_for("v"), dtype=torch.float64)
    with problem.same_noise():
        value = float(problem.objective(batch))
        loss, grads = problem.gradient(batch)
        gradient = problem.flatten(grads)
        assert float(loss) == pytest.approx(value, rel=1e-14)
        assert problem.functional_objective(problem.params, batch).item() == pytest.approx(value, rel=1e-14)
        pushed, slope = problem.jvp(batch, problem.unflatten(v))
        assert float(pushed) == pytest.approx(value, rel=1e-14)
        assert float(slope) == pytest.approx(float(gradient @ v), rel=1e-12)
        around = problem.linearize(batch)
        assert float(around.loss) == pytest.approx(value, rel=1e-14)
        assert (around.gradient - gradient).norm() < 1e-14 * gradient.norm()
        curved = around.hvp(v)
        moved = {name: p + 0.1 for name, p in problem.params.items()}
        far = problem.functional_objective(moved, batch)
        problem.assign(start + 0.1)
        assert float(problem.objective(batch)) == pytest.approx(far.item(), rel=1e-13)
        ends = []
        for sign in (1, -1):
            problem.assign(start + sign * 1e-5 * v)
            ends.append(problem.flatten(problem.gradient(batch)[1]))
        problem.assign(start)
        # Central differences of the gradient at 1e-5: seen 3e-10.
        assert (curved - (ends[0] - ends[1]) / 2e-5).norm() < 1e-7 * curved.norm()


def test_a_population_is_its_individuals(make, noise):
    problem, batch = make(noise)
    flat = problem.flat() + 0.2 * torch.randn(5, len(problem.flat()), generator=generator_for("p"), dtype=torch.float64)
    with problem.same_noise():
        together = problem.population_objective(flat, batch)
        for value, row in zip(together, flat, strict=True):
            problem.assign(row)
            assert float(problem.objective(batch)) == pytest.approx(float(value), rel=1e-12)
            assert problem.functional_objective(problem.unflatten(row), batch).item() == pytest.approx(
                float(value), rel=1e-12
            )
    # A generation of one phase: all individuals see it, and it moves on by one.
    phase = problem.clock.phase
    again = problem.population_objective(flat, batch)
    assert problem.clock.phase == phase + 1
    assert not torch.equal(again, together)


def test_per_example_gradients_have_the_gradient_as_their_mean(make, noise):
    problem, batch = make(noise)
    with problem.same_noise():
        each, whole = problem.per_example_gradients(batch), problem.gradient(batch)[1]
        penalty = problem.penalty()
    for name, value in whole.items():
        value = value if penalty is None else value - penalty[1][name]
        assert (each[name].mean(0) - value).abs().max() < 1e-14
        assert each[name].shape == (len(batch.index), *value.shape)


def test_jacobians_and_pulled_blocks_see_the_same_masks(noise):
    for make in (PROBLEMS["mlp"], convolutional, shortcut):
        problem, batch = make(noise)
        with problem.same_noise():
            outputs = problem.outputs(batch)
            found, jacobian = problem.jacobian(batch)
            loss, grads = problem.gradient(batch)
            assert (found - outputs).abs().max() < 1e-14
            error = problem.output_gradient(outputs.detach(), batch)
            pulled = problem.unflatten(torch.einsum("bc,bcd->d", error, jacobian))
            x = batch.inputs
            for block in problem.layered.blocks:
                x, _ = problem.pull(block, x)
        assert (x - outputs).abs().max() < 1e-14
        penalty = problem.penalty()
        for name, value in grads.items():
            value = value if penalty is None else value - penalty[1][name]
            assert (pulled[name] - value).abs().max() < 1e-14
        assert torch.isfinite(loss)


def test_a_walk_over_the_blocks_repeats(noise):
    for make in (PROBLEMS["mlp"], convolutional, shortcut):
        problem, batch = make(noise)
        with problem.same_noise():
            walks = []
            for _ in range(3):
                x = batch.inputs
                for block in problem.layered.blocks:
                    x = block(x)
                walks.append(x)
            assert torch.equal(walks[0], walks[1])
            assert torch.equal(walks[0], walks[2])
            assert torch.equal(walks[0], problem.outputs(batch))


def test_what_follows_does_not_depend_on_how_often_one_looked(make, noise):
    ends = []
    for looks in (1, 2, 7):
        problem, batch = make(NOISES["dropout"]() if isinstance(noise, StandardDropout) else type(noise)())
        problem.begin_step(3)
        with problem.same_noise():
            for i in range(looks):
                problem.objective(batch) if i % 2 else problem.gradient(batch)
            with problem.same_noise():
                problem.objective(batch)
        ends.append(problem.flatten(problem.gradient(batch)[1]))
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_same_noise_ends_even_by_an_exception():
    problem, batch = toy(noise=dropout())
    with pytest.raises(RuntimeError, match="inner"), problem.same_noise():
        raise RuntimeError("inner")
    assert not problem.clock.held
    assert problem.objective(batch) != problem.objective(batch)


def test_probes_leave_the_masks_as_they_were():
    ends = []
    for watched in (False, True):
        problem, batch = toy(noise=dropout())
        problem.objective(batch)
        if watched:
            with problem.observing():
                problem.gradient(batch)
                problem.objective(batch)
            with problem.evaluating():
                problem.objective(batch)
        ends.append(problem.objective(batch))
    assert torch.equal(*ends)


class Eavesdropper(StandardDropout):
    """Dropout that notes which masks it drew, and where in the run."""

    def __init__(self) -> None:
        super().__init__(p=0.4, p_input=0.2)
        self.heard = {}

    def _mask(self, like, shape, site, layer):
        mask = super()._mask(like, shape, site, layer)
        self.heard.setdefault((self.clock.step, self.clock.phase, site, layer), mask)
        return mask


def test_masks_are_equal_under_every_learner():
    """One that takes a gradient a step, one that looks four times, and one without autograd across blocks."""
    heard = []
    for rule in (
        Backprop(SGD),
        Backprop(OptimizerFactory("torch.optim.LBFGS", lr=0.1, max_iter=4)),
        DirectFeedbackAlignment(SGD),
    ):
        noise = Eavesdropper()
        problem, batch = toy(noise=noise)
        rule.setup(problem)
        for _ in range(4):
            rule.step(batch)
        heard.append(noise.heard)
    first = {key: mask for key, mask in heard[0].items() if key[1] == 0}
    assert len(first) == 4 * 3
    for other in heard[1:]:
        assert {key for key in other if key[1] == 0} == set(first)
        assert all(torch.equal(other[key], mask) for key, mask in first.items())
    masks = [first[step, 0, "unit", 0] for step in range(4)]
    assert not any(torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])


def test_a_seed_is_its_own():
    values = {float(toy(noise=dropout(), seed=0)[0].objective(toy()[1]))}
    for seed in (1, 2):
        problem, _ = toy(noise=dropout(), seed=0)
        problem.clock.seed += seed
        values.add(float(problem.objective(toy()[1])))
    assert len(values) == 3


def test_learned_noise_is_trained_and_charged():
    """The gradient of a scale and of the penalty, against central differences in the scale alone."""
    problem, batch = toy(noise=LearnedScale())
    with problem.same_noise():
        found = problem.gradient(batch)[1]["noise.scale"]
        scale = problem.params["noise.scale"]
        for layer in range(2):
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    scale[layer] += sign * 1e-5
                ends.append(problem.objective(batch))
                with torch.no_grad():
                    scale[layer] -= sign * 1e-5
            assert float(found[layer]) == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-7)
        moved = {**problem.params, "noise.scale": scale.detach() + 2.0}
        charged = problem.functional_objective(moved, batch).item()
        problem.model.noise.penalty = lambda: None
        free = problem.functional_objective(moved, batch).item()
    # At the moved scales (0, 1) and not at the model's own (-2, -1).
    assert charged - free == pytest.approx(1 + 4, rel=1e-12)
