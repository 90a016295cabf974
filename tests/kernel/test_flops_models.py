"""Analytic FLOPs of every layer in the zoo, exactly: 2 a multiply-add, forward and backward."""

import math

import pytest
import torch

from altprop.data import Batch, ModelSpec
from altprop.flops import CountingMode
from altprop.models.base import Dense
from altprop.models.cnn import CNN, Conv
from altprop.models.mlp import MLP
from altprop.models.shortcut import ShortcutMLP
from altprop.randomness import generator_for
from altprop.testing import make_problem, toy_sequence

ROWS = 5


def counted(function):
    """Return the FLOPs of a call, and the operations without a formula that are no element-wise work."""
    mode = CountingMode()
    with mode:
        function()
    return sum(mode.flops.values())


def passes(block, x, wants_input):
    """Return the FLOPs of a block's forward and of its backward, to the weights and, where wanted, the input."""
    x = x.requires_grad_(wants_input)
    kept = []
    forward = counted(lambda: kept.append(block(x)))
    wanted = [*block.parameters()] + ([x] if wants_input else [])
    v = torch.ones_like(kept[0])
    return forward, counted(lambda: torch.autograd.grad(kept[0], wanted, v))


@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("normalisation", ["none", "layer", "batch"])
@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
def test_dense(activation, normalisation, shortcut):
    block = Dense(
        7, 11, activation=activation, normalisation=normalisation, shortcut=shortcut, generator=generator_for(0)
    )
    one = 2 * ROWS * 7 * 11
    assert passes(block, torch.randn(ROWS, 7), False) == (one, one)
    assert passes(block, torch.randn(ROWS, 7), True) == (one, 2 * one)


SHAPES = [
    ((1, 8, 8), 16, 3, 2, 1),
    ((3, 9, 7), 4, 3, 2, 0),
    ((3, 9, 7), 4, 2, 3, 1),
    ((2, 6, 6), 5, 1, 1, 0),
    ((1, 40), 25, 5, 2, 1),
    ((25, 19), 25, 3, 2, 1),
    ((2, 12), 3, 4, 4, 0),
]


@pytest.mark.parametrize(("shape", "channels", "kernel", "stride", "padding"), SHAPES)
def test_convolution(shape, channels, kernel, stride, padding):
    block = Conv(shape, channels, kernel=kernel, stride=stride, padding=padding, generator=generator_for(0))
    positions = math.prod((n + 2 * padding - kernel) // stride + 1 for n in shape[1:])
    # Each output value is one product with a patch; the way back does as many to the weights, and to the input.
    one = 2 * ROWS * positions * channels * shape[0] * kernel ** (len(shape) - 1)
    assert passes(block, torch.randn(ROWS, *shape), False) == (one, one)
    assert passes(block, torch.randn(ROWS, *shape), True) == (one, 2 * one)
    z = torch.randn(ROWS, *block.output_shape)
    back = counted(lambda: block.transpose(z, block.weight.detach(), torch.Size((ROWS, *shape))))
    assert back == one


def whole(model, x):
    """Return the FLOPs of forward and backward of a problem's gradient."""
    problem = make_problem(model.float(), "cross_entropy")
    batch = Batch(x, torch.zeros(len(x), dtype=torch.int64), torch.arange(len(x)))
    with problem.ledger.audit():
        problem.gradient(batch)
        problem.ledger.count_step(len(x))
    found = problem.ledger.flops_by_kind()
    return found["forward"], found["backward"]


def test_networks():
    """The first layer sends nothing back to the data; the others pay twice."""

    def expected(layers):
        costs = [2 * ROWS * cost for cost in layers]
        return sum(costs), 2 * sum(costs) - costs[0]

    mlp = MLP(ModelSpec((64,), 10), [128, 128], generator=generator_for(0))
    assert whole(mlp, torch.randn(ROWS, 64)) == expected([64 * 128, 128 * 128, 1280])
    linear = MLP(ModelSpec((64,), 10), [], generator=generator_for(0))
    assert whole(linear, torch.randn(ROWS, 64)) == expected([640])
    shortcut = ShortcutMLP(ModelSpec((2,), 2), [5, 5, 5], generator=generator_for(0))
    assert whole(shortcut, torch.randn(ROWS, 2)) == expected([2 * 5, 7 * 5, 12 * 5, 17 * 2])
    cnn = CNN(ModelSpec((64,), 10), generator=generator_for(0))
    assert whole(cnn, torch.randn(ROWS, 64)) == expected([16 * 16 * 9, 4 * 32 * 16 * 9, 128 * 10])
    signal = CNN(ModelSpec((40,), 10), [25, 25, 25], [5, 3, 3], generator=generator_for(0))
    assert whole(signal, torch.randn(ROWS, 40)) == expected([19 * 25 * 5, 10 * 625 * 3, 5 * 625 * 3, 125 * 10])


@pytest.mark.parametrize(("name", "batched"), [("mlp", True), ("shortcut", True), ("cnn", True), ("batch norm", False)])
def test_a_population_costs_its_individuals(name, batched):
    spec = ModelSpec((64,), 10)
    model = {
        "mlp": lambda: MLP(spec, [12, 8], generator=generator_for(0)),
        "shortcut": lambda: ShortcutMLP(spec, [12, 8], generator=generator_for(0)),
        "cnn": lambda: CNN(spec, [3, 4], generator=generator_for(0)),
        "batch norm": lambda: CNN(spec, [3, 4], normalisation="batch", generator=generator_for(0)),
    }[name]()
    assert model.batched == batched
    problem = make_problem(model, "cross_entropy")
    batch = Batch(torch.randn(ROWS, 64), torch.zeros(ROWS, dtype=torch.int64), torch.arange(ROWS))
    alone = counted(lambda: problem.objective(batch))
    flat = problem.flat()[None].expand(6, -1).clone()
    assert counted(lambda: problem.population_objective(flat, batch)) == 6 * alone


@pytest.mark.parametrize("build", [MLP, ShortcutMLP, CNN])
def test_gradients_of_each_row_cost_what_their_mean_does(build):
    """vmap turns rows into groups of one convolution; torch's own formula would charge the groups squared."""
    problem = make_problem(build(ModelSpec((64,), 10), generator=generator_for(0)), "cross_entropy")
    batch = Batch(torch.randn(ROWS, 64), torch.zeros(ROWS, dtype=torch.int64), torch.arange(ROWS))
    assert counted(lambda: problem.per_example_gradients(batch)) == counted(lambda: problem.gradient(batch))


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("per_step", [False, True])
def test_recurrent(cell, per_step):
    t, b, f, w, c = 7, 4, 2, 5, 3
    problem, batch = toy_sequence(cell, steps=t, rows=b, inputs=f, width=w, outputs=c, per_step=per_step)
    with problem.ledger.audit():
        problem.gradient(batch)
        problem.ledger.count_step(batch.samples)
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[cell]
    seen, kept, read = 2 * t * b * gates * w * f, 2 * t * b * gates * w * w, 2 * b * w * c * (t if per_step else 1)
    found = problem.ledger.flops_by_kind()
    assert found["forward"] == seen + kept + read
    # Nothing goes back into the data, nor into the initial state: one of T products less.
    assert found["backward"] == seen + 2 * kept - kept // t + 2 * read
    uncounted = set(problem.ledger.uncounted)
    assert not {name for name in uncounted if "mm" in name or "conv" in name or "linear" in name or "rnn" in name}


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_recurrent_population_costs_its_individuals(cell):
    problem, batch = toy_sequence(cell)
    alone = counted(lambda: problem.objective(batch))
    flat = problem.flat()[None].expand(6, -1).clone()
    assert counted(lambda: problem.population_objective(flat, batch)) == 6 * alone
