"""Every primitive of a problem against its slow and obvious twin, in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from altprop.data import Batch, ModelSpec
from altprop.errors import Refused
from altprop.losses import LOSSES, SmoothedCrossEntropy, make_loss
from altprop.models.cnn import CNN
from altprop.noise import MultiplicativeNoise, Noise
from altprop.optim import OptimizerFactory
from altprop.problem import Problem
from altprop.randomness import Random, generator_for
from altprop.testing import make_problem, toy, toy_sequence


class Dropout(MultiplicativeNoise):
    """Dropout at every site that a layered model has."""

    sites = frozenset({"input", "unit", "weight"})

    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        return (self.clock.uniform(shape, site, layer, 0, like) < 0.7).to(like.dtype) / 0.7


class Learned(Noise):
    """Noise with a trained amplitude and a penalty."""

    sites = frozenset({"unit"})

    def __init__(self) -> None:
        super().__init__()
        self.amplitude = torch.nn.Parameter(torch.tensor([0.3, 0.2], dtype=torch.float64))

    def _perturb(self, x: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        return x * (1 + self.amplitude.sum() * (self.clock.uniform(shape, site, layer, 0, x) - 0.5))

    def penalty(self) -> Tensor:
        return 0.1 * self.amplitude.square().sum() + self.amplitude[0] ** 3


def cnn(noise: Noise | None = None, normalisation: str = "none") -> tuple[Problem, Batch]:
    model = CNN(
        ModelSpec((1, 6, 6), 3),
        (3, 4),
        activation="tanh",
        normalisation=normalisation,
        noise=noise,
        generator=generator_for(0),
    ).double()
    problem = make_problem(model, "cross_entropy")
    data = problem.random
    return problem, Batch(data.normal(5, 1, 6, 6), data.integers(0, 3, 5), torch.arange(5))


def labelled(made: tuple[Problem, Batch]) -> tuple[Problem, Batch]:
    problem, batch = made
    rows = torch.arange(len(batch.index)) % 3 != 1
    return problem, Batch(batch.inputs, batch.targets, batch.index, batch.mask, batch.reset, rows)


LENGTHS = [7, 3, 5, 1]
CASES: dict[str, Callable[[], tuple[Problem, Batch]]] = {
    "mlp": toy,
    "mlp, mse": lambda: toy(loss="mse", activation="softplus"),
    "mlp, labelled rows": lambda: labelled(toy()),
    "mlp, layer norm": lambda: toy(normalisation="layer"),
    "mlp, dropout": lambda: toy(noise=Dropout()),
    "mlp, learned noise": lambda: toy(noise=Learned()),
    "mlp, dropout, labelled rows": lambda: labelled(toy(noise=Dropout(), loss="half_squared_error")),
    "cnn": cnn,
    "cnn, dropout": lambda: cnn(Dropout()),
    "cnn, layer norm": lambda: cnn(normalisation="layer"),
    "rnn": toy_sequence,
    "gru, unequal lengths": lambda: toy_sequence("gru", lengths=LENGTHS),
    "lstm, a target each step": lambda: toy_sequence("lstm", per_step=True),
    "gru, a target each valid step": lambda: toy_sequence("gru", lengths=LENGTHS, per_step=True),
    "gru, valid steps of labelled rows": lambda: labelled(toy_sequence("gru", lengths=LENGTHS, per_step=True)),
    "rnn, classes": lambda: toy_sequence(loss="cross_entropy", per_step=True, lengths=LENGTHS),
    "rnn, dropout": lambda: toy_sequence(noise=Dropout()),
    "rnn, learned noise": lambda: toy_sequence(noise=Learned(), lengths=LENGTHS, per_step=True),
}
BATCH_NORM: dict[str, Callable[[], tuple[Problem, Batch]]] = {
    "mlp, batch norm": lambda: toy(normalisation="batch"),
    "cnn, batch norm": lambda: cnn(normalisation="batch"),
    "mlp, batch norm, dropout": lambda: toy(normalisation="batch", noise=Dropout()),
}
every = pytest.mark.parametrize("name", CASES)
with_batch_norm = pytest.mark.parametrize("name", CASES | BATCH_NORM)
plain = pytest.mark.parametrize("name", [n for n in CASES if not n.startswith(("rnn", "gru", "lstm"))])


def made(name: str) -> tuple[Problem, Batch]:
    return (CASES | BATCH_NORM)[name]()


def counting(batch: Batch) -> list[tuple[int, ...]]:
    """The elements (row,) or (time, row) whose loss counts, by plain loops."""
    rows = range(len(batch.index))
    allowed = [row for row in rows if batch.labelled is None or bool(batch.labelled[row])]
    if not batch.per_step:
        return [(row,) for row in allowed]
    times = range(batch.targets.shape[0])
    return [(t, row) for t in times for row in allowed if batch.mask is None or bool(batch.mask[t, row])]


def slow_objective(problem: Problem, batch: Batch) -> Tensor:
    """The objective with its graph: the model on the whole batch, then one element after the other."""
    kwargs = {} if batch.mask is None else {"mask": batch.mask}
    outputs = problem.model(batch.inputs, **kwargs)
    losses = [problem.loss.per_element(outputs[e][None], batch.targets[e][None])[0] for e in counting(batch)]
    value = sum(losses[1:], losses[0]) / len(losses)
    noise = problem.model.noise
    penalty = None if noise is None else noise.penalty()
    return value if penalty is None else value + penalty


def slow_gradient(problem: Problem, batch: Batch) -> tuple[Tensor, Tensor]:
    value = slow_objective(problem, batch)
    grads = torch.autograd.grad(value, list(problem.params.values()), allow_unused=True, materialize_grads=True)
    return value.detach(), problem.flatten(dict(zip(problem.params, grads, strict=True)))


def slow_hessian(problem: Problem, batch: Batch) -> Tensor:
    params = list(problem.params.values())
    grads = torch.autograd.grad(
        slow_objective(problem, batch), params, create_graph=True, allow_unused=True, materialize_grads=True
    )
    flat = torch.cat([g.flatten() for g in grads])
    rows = []
    for element in flat:
        found = torch.autograd.grad(element, params, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([f.flatten() for f in found]))
    return torch.stack(rows)


def vector(problem: Problem, seed: int = 0) -> Tensor:
    return torch.randn(problem.flat().numel(), generator=generator_for(seed, "direction"), dtype=torch.float64)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-13) -> bool:
    found, expected = found.detach(), expected.detach()
    return float((found - expected).norm()) <= tolerance * max(float(expected.norm()), 1e-3)


# Objectives and gradients.


@with_batch_norm
def test_objective_and_gradient(name: str) -> None:
    problem, batch = made(name)
    with problem.same_noise():
        value, gradient = slow_gradient(problem, batch)
        found, grads = problem.gradient(batch)
        assert close(problem.objective(batch), value)
        assert list(grads) == list(problem.params)
        assert close(found, value)
        assert close(problem.flatten(grads), gradient)
        assert close(problem.functional_objective(problem.params, batch).detach(), value)
        assert close(problem.output_loss(problem.outputs(batch), batch).detach(), slow_no_penalty(problem, value))
        assert not found.requires_grad
        assert all(p.grad is None for p in problem.params.values())


def slow_no_penalty(problem: Problem, value: Tensor) -> Tensor:
    noise = problem.model.noise
    penalty = None if noise is None else noise.penalty()
    return value if penalty is None else value - penalty.detach()


@with_batch_norm
def test_functional_objective_at_other_parameters(name: str) -> None:
    problem, batch = made(name)
    there = problem.flat() + 0.1 * vector(problem)
    with problem.same_noise():
        params = {n: v.requires_grad_() for n, v in problem.unflatten(there).items()}
        value = problem.functional_objective(params, batch)
        grads = torch.autograd.grad(value, list(params.values()), allow_unused=True, materialize_grads=True)
        transformed = torch.func.grad(lambda v: problem.functional_objective(problem.unflatten(v), batch))(there)
        assert not close(value, problem.objective(batch), 1e-6)
        problem.assign(there)
        expected, gradient = slow_gradient(problem, batch)
    assert close(value, expected)
    assert close(torch.cat([g.flatten() for g in grads]), gradient)
    assert close(transformed, gradient)


@with_batch_norm
@pytest.mark.parametrize("chunk", [2, 64])
def test_population_objective_is_a_loop(name: str, chunk: int) -> None:
    problem, batch = made(name)
    start = problem.flat()
    population = torch.stack([start + 0.1 * vector(problem, seed) for seed in range(5)])
    buffers = [b.clone() for b in problem.model.buffers()]
    with problem.same_noise():
        found = problem.population_objective(population, batch, chunk=chunk)
        assert all(torch.equal(a, b) for a, b in zip(buffers, problem.model.buffers(), strict=True))
        expected = []
        for individual in population:
            problem.assign(individual)
            expected.append(slow_objective(problem, batch).detach())
    assert found.shape == (5,)
    assert close(found, torch.stack(expected))


@every
def test_per_example_loss(name: str) -> None:
    problem, batch = made(name)
    with problem.same_noise():
        outputs = problem.outputs(batch).detach()
        found = problem.per_example_loss(batch)
    shape = batch.targets.shape[:2] if batch.per_step else (len(batch.index),)
    assert found.shape == shape
    for element in counting(batch):
        assert close(found[element], problem.loss.per_element(outputs[element][None], batch.targets[element][None])[0])


# Derivatives of each row.


@every
def test_per_example_gradients(name: str) -> None:
    problem, batch = made(name)
    params = list(problem.params.values())
    with problem.same_noise():
        found = problem.per_example_gradients(batch)
        kwargs = {} if batch.mask is None else {"mask": batch.mask}
        outputs = problem.model(batch.inputs, **kwargs)
        for row in range(len(batch.index)):
            elements = [e for e in counting(batch) if e[-1] == row]
            assert all(found[n].shape == (len(batch.index), *p.shape) for n, p in problem.params.items())
            own = torch.cat([found[n][row].flatten() for n in problem.params])
            if not elements:
                assert float(own.abs().max()) == 0
                continue
            losses = [problem.loss.per_element(outputs[e][None], batch.targets[e][None])[0] for e in elements]
            value = sum(losses[1:], losses[0]) / len(losses)
            grads = torch.autograd.grad(value, params, retain_graph=True, allow_unused=True, materialize_grads=True)
            assert close(own, torch.cat([g.flatten() for g in grads]))


@plain
def test_jacobian(name: str) -> None:
    problem, batch = made(name)
    params = list(problem.params.values())
    with problem.same_noise():
        outputs, jacobian = problem.jacobian(batch)
        expected = problem.model(batch.inputs)
        assert close(outputs, expected.detach())
        assert jacobian.shape == (*expected.shape, problem.flat().numel())
        for row, column in ((0, 0), (2, 1), (4, 2)):
            grads = torch.autograd.grad(
                expected[row, column], params, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            assert close(jacobian[row, column], torch.cat([g.flatten() for g in grads]))


def test_rows_are_refused_where_they_are_none() -> None:
    problem, batch = toy(normalisation="batch")
    with pytest.raises(Refused, match="per-example gradients do not exist under batch normalisation"):
        problem.per_example_gradients(batch)
    with pytest.raises(Refused, match="per-example Jacobians do not exist under batch normalisation"):
        problem.jacobian(batch)
    problem.model.eval()  # rows are rows again
    outputs, _ = problem.jacobian(batch)
    assert close(outputs, problem.model(batch.inputs).detach())
    with pytest.raises(Refused, match="Jacobians of sequences"):
        toy_sequence()[0].jacobian(toy_sequence()[1])


# Directional derivatives and curvature.


@with_batch_norm
def test_jvp(name: str) -> None:
    problem, batch = made(name)
    tangent = vector(problem)
    with problem.same_noise():
        value, gradient = slow_gradient(problem, batch)
        found, derivative = problem.jvp(batch, problem.unflatten(tangent))
    assert close(found, value)
    assert close(derivative, gradient @ tangent)


@pytest.mark.parametrize("name", ["mlp", "mlp, labelled rows", "mlp, learned noise", "mlp, batch norm", "rnn, dropout"])
def test_linearize_against_the_hessian(name: str) -> None:
    problem, batch = made(name)
    with problem.same_noise():
        value, gradient = slow_gradient(problem, batch)
        hessian = slow_hessian(problem, batch)
        here = problem.linearize(batch)
        assert close(here.loss, value)
        assert close(here.gradient, gradient)
        for seed in range(3):
            v = vector(problem, seed)
            assert close(here.hvp(v), hessian @ v, 1e-12)
            assert close(here.hvp(v), here.hvp(v), 0.0)
    assert float((hessian @ vector(problem)).norm()) > 0.1


@plain
def test_gauss_newton_products(name: str) -> None:
    problem, batch = made(name)
    with problem.same_noise():
        outputs, jacobian = problem.jacobian(batch)
        here = problem.linearize(batch)
    v = vector(problem)
    pushed = jacobian @ v
    weight = torch.ones(len(outputs)) if batch.labelled is None else batch.labelled
    expected = torch.zeros_like(v)
    for row in range(len(outputs)):
        one = outputs[row].clone().requires_grad_()
        curvature = torch.autograd.functional.hessian(
            lambda o, r=row: problem.loss.per_element(o[None], batch.targets[r][None])[0], one
        )
        expected += float(weight[row]) / float(weight.sum()) * jacobian[row].T @ (curvature @ pushed[row])
    assert close(here.ggn_vp(v), expected)
    assert close(here.outputs, outputs)
    assert not close(here.ggn_vp(v), here.hvp(v), 1e-3)


def test_a_linearization_ends_with_an_update() -> None:
    problem, batch = toy()
    here = problem.linearize(batch)
    problem.assign(problem.flat() + 0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        here.hvp(vector(problem))


# Losses at the outputs.


def random_batch(loss: str, shape: tuple[int, ...], weights: bool) -> tuple[Problem, Tensor, Batch]:
    problem = toy(loss=loss)[0]
    data = problem.random
    outputs = data.normal(*shape, 3)
    if loss in ("cross_entropy", "one_hot_squared_error", "hinge"):
        targets = data.integers(0, 3, *shape)
    else:
        targets = data.uniform(*shape, 3).round()
    rows = shape[-1]
    mask = data.uniform(*shape) < 0.6 if weights and len(shape) == 2 else None
    keep = torch.arange(rows) % 3 != 0 if weights else None
    inputs = data.normal(*shape, 2)
    return problem, outputs, Batch(inputs, targets, torch.arange(rows), mask, None, keep)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(7,), (4, 7)])
@pytest.mark.parametrize("weights", [False, True])
def test_derivatives_at_the_outputs(loss: str, shape: tuple[int, ...], weights: bool) -> None:
    problem, outputs, batch = random_batch(loss, shape, weights)
    counted = counting(batch)
    assert 0 < len(counted) <= outputs[..., 0].numel()
    assert batch.samples == len(counted)
    leaf = outputs.clone().requires_grad_()

    def slow(o: Tensor) -> Tensor:
        losses = [problem.loss.per_element(o[e][None], batch.targets[e][None])[0] for e in counted]
        return sum(losses[1:], losses[0]) / len(losses)

    assert close(problem.output_loss(outputs, batch), slow(outputs))
    (gradient,) = torch.autograd.grad(slow(leaf), leaf)
    assert close(problem.output_gradient(outputs, batch), gradient)
    v = problem.random.normal(*outputs.shape)
    if loss == "huber":
        with pytest.raises(Refused, match="depends on its targets"):
            problem.output_curvature(outputs, v, batch)
        return
    _, product = torch.autograd.functional.hvp(slow, outputs, v)
    assert close(problem.output_curvature(outputs, v, batch), product)


def test_the_losses_that_a_margin_and_an_outlier_make() -> None:
    outputs = torch.tensor([[2.0, 0.5, 0.0], [0.2, 0.0, 3.0], [9.0, 0.0, 0.0]], dtype=torch.float64)
    assert make_loss("hinge").per_element(outputs, torch.tensor([0, 1, 0])).tolist() == [0.0, 4.0, 0.0]
    residual = torch.tensor([[0.5, -3.0]], dtype=torch.float64)
    assert make_loss("huber").per_element(residual, 0 * residual).tolist() == [0.125 + 2.5]
    assert make_loss("huber").gradient(residual, 0 * residual).tolist() == [[0.5, -1.0]]
    for name in ("hinge", "huber"):
        with pytest.raises(Refused):
            make_loss(name).sample_targets(outputs, Random(0))


@pytest.mark.parametrize("shape", [(7,), (4, 7)])
def test_smoothed_targets_are_cross_entropy_against_the_mixture(shape: tuple[int, ...]) -> None:
    data, s = Random(3, dtype=torch.float64), 0.2
    outputs, targets, loss = data.normal(*shape, 5), data.integers(0, 5, *shape), SmoothedCrossEntropy(s)
    mixture = (1 - s) * torch.nn.functional.one_hot(targets, 5).double() + s / 5
    leaf = outputs.clone().requires_grad_()
    slow = -(mixture * leaf.log_softmax(-1)).sum(-1)
    assert close(loss.per_element(outputs, targets), slow.detach())
    (gradient,) = torch.autograd.grad(slow.sum(), leaf)
    assert close(loss.gradient(outputs, targets), gradient)
    v = data.normal(*outputs.shape)
    assert close(loss.curvature_product(outputs, v), make_loss("cross_entropy").curvature_product(outputs, v))
    assert close(loss.probabilities(outputs), outputs.softmax(-1))


@pytest.mark.parametrize("loss", ["cross_entropy", "half_squared_error", "mse", "binary_cross_entropy"])
def test_sampled_targets_have_the_fisher_as_their_second_moment(loss: str) -> None:
    """E[g g^T] over the model's own targets is the loss's curvature; 40,000 draws, z-scores of 9 entries."""
    problem = toy(loss=loss)[0]
    outputs = torch.tensor([[0.4, -0.3, 1.1]], dtype=torch.float64).expand(40_000, 3)
    targets = problem.sample_targets(outputs)
    g = problem.loss.gradient(outputs, targets)
    curvature = torch.stack([problem.loss.curvature_product(outputs[0], v) for v in torch.eye(3, dtype=torch.float64)])
    products = g[:, :, None] * g[:, None, :]
    z = (products.mean(0) - curvature) / (products.std(0) / 200 + 1e-12)
    assert float(z.abs().max()) < 4
    assert float(g.mean(0).abs().max()) < 0.03


# Pieces.


@pytest.mark.parametrize("name", ["mlp", "mlp, dropout", "cnn", "cnn, layer norm", "mlp, batch norm"])
def test_pulls_of_the_blocks_chain_to_the_gradient(name: str) -> None:
    problem, batch = made(name)
    with problem.same_noise():
        value, gradient = slow_gradient(problem, batch)
        x, pulls = batch.inputs, []
        for block in problem.layered.blocks:
            y, vjp = problem.pull(block, x)
            assert y.grad_fn is None
            x = y
            pulls.append(vjp)
        signal = problem.output_gradient(x, batch)
        found: dict[str, Tensor] = {}
        for index in reversed(range(len(pulls))):
            pulled = pulls[index](signal)
            alone = pulls[index](signal, inputs=False)
            assert alone.inputs is None
            for own, g in pulled.parameters.items():
                found[f"blocks.{index}.{own}"] = g
                assert close(alone.parameters[own], g)
            signal = pulled.inputs
            assert signal is not None
    assert close(problem.flatten(found), gradient)
    assert close(problem.output_loss(x, batch), value)


def test_a_pull_ends_at_its_input() -> None:
    problem, _ = toy()
    x = torch.ones(2, 5, dtype=torch.float64, requires_grad=True)
    ends = []

    def cubes(u: Tensor) -> Tensor:
        ends.append(u.grad_fn is None)
        return (u**3).sum(1)

    y, vjp = problem.pull(cubes, 2 * x)
    assert ends == [True]
    assert y.tolist() == [40.0, 40.0]
    pulled = vjp(torch.tensor([1.0, 10.0], dtype=torch.float64))
    assert pulled.parameters == {}
    assert pulled.inputs is not None
    assert pulled.inputs[:, 0].tolist() == [12.0, 120.0]
    assert x.grad is None
    assert vjp(torch.ones(2, dtype=torch.float64), inputs=False) == (None, {})
    assert (problem.ledger.calls("transpose"), problem.ledger.calls("block_backward")) == (1, 0)


@pytest.mark.parametrize("name", ["mlp", "mlp, dropout", "cnn", "cnn, layer norm"])
def test_what_is_pushed_through_the_chain_is_the_transpose_of_what_is_pulled(name: str) -> None:
    problem, batch = made(name)
    x, random = batch.inputs, Random(3, "cpu", torch.float64)
    tangent = random.normal(*x.shape)
    before = problem.ledger.calls("jvp")
    with problem.same_noise():
        y, moved = problem.push(problem.model, [x], [tangent])
        expected, vjp = problem.pull(problem.model, x, {})
        signal = random.normal(*y.shape)
        pulled = vjp(signal).inputs
    assert pulled is not None
    assert close(y, expected)
    assert not y.requires_grad
    assert not moved.requires_grad
    assert close((signal * moved).sum(), (pulled * tangent).sum())
    assert problem.ledger.calls("jvp") - before == 1
    _, along_both = problem.push(torch.mul, [x, 2 * x], [tangent, 3 * tangent])
    assert close(along_both, 5 * x * tangent)


def test_flat_and_back() -> None:
    problem, _ = toy(noise=Learned())
    live = problem.params
    assert "noise.amplitude" in live
    flat = problem.flat()
    assert torch.equal(flat, torch.cat([p.detach().flatten() for p in live.values()]))
    shifted = flat + 1
    problem.assign(shifted)
    assert problem.params["blocks.0.weight"] is live["blocks.0.weight"]
    assert torch.equal(problem.flat(), shifted)
    assert torch.equal(problem.flatten(problem.unflatten(shifted)), shifted)
    stack = problem.unflatten(torch.stack([flat, shifted]))
    assert all(value.shape == (2, *live[name].shape) for name, value in stack.items())
    assert problem.ledger.updates == 1
    with problem.ledger.pause():
        problem.assign(flat)
    assert problem.ledger.updates == 1


# Noise, buffers, modes.


@pytest.mark.parametrize("name", ["mlp, dropout", "cnn, dropout", "rnn, dropout", "mlp, learned noise"])
def test_same_noise_is_one_function_however_it_is_reached(name: str) -> None:
    problem, batch = made(name)
    flat = problem.flat()
    reached: dict[str, Callable[[], Tensor]] = {
        "objective": lambda: problem.objective(batch),
        "gradient": lambda: problem.gradient(batch)[0],
        "functional": lambda: problem.functional_objective(problem.params, batch).detach(),
        "population": lambda: problem.population_objective(flat[None], batch)[0],
        "jvp": lambda: problem.jvp(batch, problem.unflatten(flat))[0],
        "linearize": lambda: problem.linearize(batch).loss,
    }
    with problem.same_noise():
        first = problem.objective(batch)
        values = {key: function() for key, function in reached.items()}
    assert all(close(value, first) for value in values.values()), values
    apart = [function() for function in reached.values()]
    assert len({round(float(value), 12) for value in [*apart, first]}) == len(reached) + 1


def test_the_stream_does_not_depend_on_how_often_it_was_held() -> None:
    after = []
    for evaluations in (1, 5):
        problem, batch = toy(noise=Dropout())
        problem.begin_step(3)
        with problem.same_noise(), problem.same_noise():
            for _ in range(evaluations):
                problem.objective(batch)
        after.append(float(problem.objective(batch)))
    assert after[0] == after[1]
    problem.begin_step(3)
    again = problem.objective(batch)
    problem.begin_step(3)
    assert torch.equal(problem.objective(batch), again)
    problem.begin_step(4)
    assert not torch.equal(problem.objective(batch), again)


@pytest.mark.parametrize("first", ["objective", "gradient", "jvp", "linearize", "outputs"])
def test_buffers_move_in_the_first_evaluation_of_a_step_only(first: str) -> None:
    problem, batch = toy(normalisation="batch")
    flat = problem.flat()
    calls: dict[str, Callable[[], Any]] = {
        "functional": lambda: problem.functional_objective(problem.params, batch),
        "population": lambda: problem.population_objective(flat[None], batch),
        "objective": lambda: problem.objective(batch),
        "gradient": lambda: problem.gradient(batch),
        "jvp": lambda: problem.jvp(batch, problem.unflatten(flat)),
        "linearize": lambda: problem.linearize(batch),
        "outputs": lambda: problem.outputs(batch),
    }

    def now() -> list[Tensor]:
        return [b.clone() for b in problem.model.buffers()]

    def same(a: list[Tensor], b: list[Tensor]) -> bool:
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    problem.begin_step(0)
    start = now()
    calls["functional"]()
    calls["population"]()
    with problem.observing():
        calls[first]()
    with problem.evaluating():
        calls[first]()
    assert same(now(), start)
    calls[first]()
    moved = now()
    reference, _ = toy(normalisation="batch")
    reference.model(batch.inputs)
    assert all(close(a.double(), b.double()) for a, b in zip(moved, reference.model.buffers(), strict=True))
    for call in calls.values():
        call()
    assert same(now(), moved)
    problem.begin_step(1)
    calls[first]()
    assert not same(now(), moved)


@pytest.mark.parametrize("place", ["observing", "evaluating"])
def test_looking_changes_nothing(place: str) -> None:
    problem, batch = toy(noise=Dropout(), normalisation="batch")
    problem.begin_step(2)
    problem.objective(batch)
    frozen = problem.model.blocks[1]
    frozen.eval()
    before = problem.state_dict()

    def look() -> None:
        with getattr(problem, place)():
            assert problem.model.training == (place == "observing")
            problem.gradient(batch)
            problem.objective(batch)
            problem.per_example_loss(batch)
            raise KeyError

    with pytest.raises(KeyError):
        look()
    after = problem.state_dict()
    assert str(after["ledger"]) == str(before["ledger"])
    assert (after["clock"], after["progress"]) == (before["clock"], before["progress"])
    assert all(torch.equal(after["model"][n], v) for n, v in before["model"].items())
    assert torch.equal(after["random"]["generator"], before["random"]["generator"])
    assert (problem.model.training, frozen.training, frozen.norm.training) == (True, False, False)


def test_evaluating_draws_no_noise() -> None:
    problem, batch = toy(noise=Dropout())
    clean, _ = toy()
    with problem.evaluating():
        assert close(problem.objective(batch), clean.objective(batch))
    assert not close(problem.objective(batch), clean.objective(batch), 1e-3)


def test_a_state_comes_back() -> None:
    problem, batch = toy(noise=Dropout(), normalisation="batch")
    updater = problem.updater(OptimizerFactory("torch.optim.SGD", lr=0.1))
    for step in range(3):
        problem.begin_step(step)
        updater.apply(problem.gradient(batch)[1])
    problem.random.normal(3)
    problem.progress = 0.25
    saved = problem.state_dict()
    expected = [problem.objective(batch), problem.random.normal(2), problem.ledger.flops]
    other, _ = toy(noise=Dropout(), normalisation="batch", seed=1)
    other.clock.seed = problem.clock.seed
    other.load_state_dict(saved)
    assert torch.equal(other.objective(batch), expected[0])
    assert torch.equal(other.random.normal(2), expected[1])
    assert other.ledger.flops == expected[2]
    assert other.progress == 0.25
