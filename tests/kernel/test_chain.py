"""Walks through a chain against the gradient, against autograd through other matrices, and against its own twin."""

import pytest
import torch

from altprop.algorithms.dropout.standard import StandardDropout
from altprop.data import Batch, ModelSpec
from altprop.models.cnn import CNN
from altprop.noise import MultiplicativeNoise, Noise
from altprop.randomness import generator_for
from altprop.testing import make_problem, toy


class Everywhere(MultiplicativeNoise):
    """Multiplies inputs, units and weights by U(.5, 1.5)."""

    sites = frozenset({"input", "unit", "weight"})

    def _mask(self, like, shape, site, layer):
        return 0.5 + self.clock.uniform(shape, site, layer, 0, like)


class Learned(Noise):
    """Adds noise of a trained size that all layers share."""

    sites = frozenset({"unit"})

    def __init__(self):
        super().__init__()
        self.size = torch.nn.Parameter(torch.tensor(0.4, dtype=torch.float64))

    def _perturb(self, x, shape, site, layer):
        return x + self.size * (self.clock.uniform(shape, site, layer, 0, x) - 0.5)


def cnn(noise=None, normalisation="none"):
    model = CNN(
        ModelSpec((1, 6, 6), 3),
        (3, 4),
        activation="tanh",
        normalisation=normalisation,
        noise=noise,
        generator=generator_for(0),
    ).double()
    problem = make_problem(model, "cross_entropy")
    return problem, Batch(problem.random.normal(5, 1, 6, 6), problem.random.integers(0, 3, 5), torch.arange(5))


CASES = {
    "mlp": toy,
    "mlp, dropout": lambda: toy(noise=StandardDropout(0.4, 0.2)),
    "mlp, noise everywhere": lambda: toy(noise=Everywhere()),
    "mlp, learned noise": lambda: toy(noise=Learned()),
    "mlp, layer norm": lambda: toy(normalisation="layer"),
    "mlp, batch norm": lambda: toy(normalisation="batch"),
    "cnn": cnn,
    "cnn, noise everywhere": lambda: cnn(Everywhere()),
    "cnn, batch norm": lambda: cnn(normalisation="batch"),
}
every = pytest.mark.parametrize("name", CASES)


def close(a, b):
    return bool((a - b).abs().max() <= 1e-13 * (1 + b.abs().max()))


@every
def test_a_walk_back_is_backprop(name):
    problem, batch = CASES[name]()
    problem.begin_step(2)
    with problem.same_noise():
        walk = problem.walk(batch)
        outputs = problem.outputs(batch).detach()
        expected = problem.gradient(batch)[1]
    # The noise of the walk is its own, however late one comes back.
    problem.begin_step(3)
    error = problem.output_gradient(walk.outputs, batch)
    assert close(walk.outputs, outputs)
    assert walk.outputs.grad_fn is None
    found = walk.back(error)
    assert set(found.parameters) == set(expected)
    assert close(problem.flatten(found.parameters), problem.flatten(expected))
    quiet = walk.back(error, parameters=False)
    assert quiet.parameters == {}
    assert all(torch.equal(a, b) for a, b in zip(quiet.deltas, found.deltas, strict=True))


def test_a_second_signal_goes_back_through_the_same_walk():
    """Carrying back is linear: sampled targets after the real ones, without another forward."""
    problem, batch = toy(noise=StandardDropout(0.4))
    walk = problem.walk(batch)
    a = problem.output_gradient(walk.outputs, batch)
    b = torch.randn(a.shape, generator=generator_for("b"), dtype=a.dtype)
    first, second, both = walk.back(a), walk.back(b), walk.back(2 * a - b)
    for name, value in both.parameters.items():
        assert close(value, 2 * first.parameters[name] - second.parameters[name])
    assert problem.ledger.forwards == 1
    assert problem.ledger.backwards == 3


@pytest.mark.parametrize("noise", [None, StandardDropout(0.4, 0.3)])
def test_deltas_times_inputs_are_the_gradient(noise):
    """dW = delta^T x for dense blocks, with x as the product saw it: what curvature factors are made of."""
    problem, batch = toy(noise=noise)
    walk = problem.walk(batch)
    found = walk.back(problem.output_gradient(walk.outputs, batch))
    blocks = problem.layered.blocks
    for index, (x, z, delta) in enumerate(zip(walk.inputs, walk.preactivations, found.deltas, strict=True)):
        assert close(delta.T @ x, found.parameters[f"blocks.{index}.weight"])
        assert close(x @ blocks[index].weight.T + blocks[index].bias, z)


@pytest.mark.parametrize("name", ["mlp", "mlp, noise everywhere", "cnn, noise everywhere"])
def test_feedback_stands_in_the_place_of_the_weights(name):
    """Twin: autograd block by block, through products whose weights are the feedback for that moment."""
    problem, batch = CASES[name]()
    blocks = list(problem.layered.blocks)
    generator = generator_for("feedback")
    feedback = [torch.randn(b.weight.shape, generator=generator, dtype=torch.float64) for b in blocks[1:]]
    walk = problem.walk(batch)
    signal = problem.output_gradient(walk.outputs, batch)
    found = walk.back(signal, feedback)
    problem.begin_step(0)  # the masks of the walk
    for index in reversed(range(len(blocks))):
        z = walk.preactivations[index].clone().requires_grad_()
        (delta,) = torch.autograd.grad(blocks[index].respond(z), z, signal)
        assert close(found.deltas[index], delta)
        if index > 0:
            x = torch.zeros(walk.inputs[index].shape, dtype=torch.float64, requires_grad=True)
            own = blocks[index].weight.detach().clone()
            blocks[index].weight.data.copy_(feedback[index - 1])
            (signal,) = torch.autograd.grad(blocks[index].transform(x), x, delta)
            blocks[index].weight.data.copy_(own)
            signal = signal.reshape(blocks[index - 1].respond(walk.preactivations[index - 1]).shape)


def test_a_signal_of_its_own_for_each_block():
    problem, batch = toy(noise=Learned())
    walk = problem.walk(batch)
    signals = [torch.randn(z.shape, generator=generator_for("s"), dtype=z.dtype) for z in walk.preactivations]
    together = walk.pull(signals)
    alone = [walk.pull([s if i == k else 0 * s for k, s in enumerate(signals)]) for i in range(3)]
    for name, value in together.parameters.items():
        assert close(value, sum(one.parameters[name] for one in alone))
    for index in range(3):
        assert torch.equal(together.deltas[index], alone[index].deltas[index])
        assert not alone[index].deltas[index - 1].any()
    quiet = walk.pull(signals, parameters=False)
    assert quiet.parameters == {}
    assert torch.equal(walk.send(2, quiet.deltas[2]), quiet.deltas[2] @ problem.layered.blocks[2].weight)
    matrix = torch.ones(3, 6, dtype=torch.float64)
    assert torch.equal(walk.send(2, quiet.deltas[2], matrix), quiet.deltas[2] @ matrix)


def test_a_walk_is_one_evaluation_of_the_objective():
    """The noise moves on after it, and buffers move in the first of a step only."""
    problem, batch = toy(noise=StandardDropout(0.4), normalisation="batch")
    problem.begin_step(0)
    first, again = problem.walk(batch), problem.walk(batch)
    assert problem.clock.phase == 2
    assert not torch.equal(first.outputs, again.outputs)
    moved = [buffer.clone() for buffer in problem.model.buffers()]
    assert [int(b) for b in moved if not b.is_floating_point()] == [1, 1]
    # And buffers put back are no obstacle to what autograd kept.
    assert again.back(problem.output_gradient(again.outputs, batch)).parameters


@pytest.mark.parametrize("activation", ["tanh", "silu", "relu"])
def test_written_out_a_walk_is_what_it_is_with_graphs(activation):
    problem, batch = toy(activation=activation)
    feedback = [
        torch.randn(b.weight.shape, generator=generator_for("f"), dtype=b.weight.dtype) for b in problem.model.blocks
    ]
    found = []
    for watched in (False, True):
        if watched:
            problem.model.blocks[0].register_forward_hook(lambda *_: None)
        assert problem.plain_chain != watched
        walk = problem.walk(batch)
        error = problem.output_gradient(walk.outputs, batch)
        back = walk.back(error, feedback[1:])
        sent = walk.send(1, back.deltas[1])
        found.append([*walk.inputs, *walk.preactivations, *back.deltas, *back.parameters.values(), sent, walk.outputs])
        assert not any(tensor.requires_grad for tensor in found[-1])
    assert all(close(ours, theirs) for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("watched", [False, True])
def test_a_walk_says_what_it_keeps(watched):
    """What every block saw and what its slope needs, of all blocks together."""
    problem, batch = toy((5, 7, 6, 3), activation="silu")
    if watched:
        problem.model.blocks[0].register_forward_hook(lambda *_: None)
    with problem.ledger.audit():
        problem.walk(batch)
    kept = len(batch.index) * 8 * (5 + 2 * (7 + 6))  # inputs of three blocks, pre-activations of two
    assert kept <= problem.ledger.saved_bytes <= kept + len(batch.index) * 8 * 3 + 8 * problem.flat().numel()


@every
@pytest.mark.parametrize("watched", [False, True])
def test_blocks_see_the_values_that_are_given(name, watched):
    """Twin: each block on its own input, with the gradient of a sum of its outputs in the parameters."""
    problem, batch = CASES[name]()
    if watched:
        problem.model.blocks[0].register_forward_hook(lambda *_: None)
    blocks = list(problem.layered.blocks)
    with problem.same_noise():
        first = problem.walk(batch)
        values = [0.7 * y + 0.1 for y in first.block_outputs[:-1]]
        walk = first.at(values)
        for block, x, y in zip(blocks, [batch.inputs, *values], walk.block_outputs, strict=True):
            assert close(block(x).detach(), y)
        deltas = [torch.randn(z.shape, generator=generator_for("d"), dtype=z.dtype) for z in walk.preactivations]
        outer = walk.outer(deltas)
        some = walk.pull(deltas, parameters={1})
        total = sum(
            (block.transform(x) * delta).sum()
            for block, x, delta in zip(blocks, [batch.inputs, *values], deltas, strict=True)
        )
        slopes = torch.autograd.grad(total, list(problem.params.values()), materialize_grads=True, allow_unused=True)
        counted, moved = problem.ledger.calls("block_forward"), [b.clone() for b in problem.model.buffers()]
        again = walk.at(values)
    assert problem.ledger.calls("block_forward") == counted + len(blocks) - 1
    assert all(torch.equal(a, b) for a, b in zip(moved, problem.model.buffers(), strict=True))
    for ours, theirs in zip(again.pull(deltas).parameters.values(), walk.pull(deltas).parameters.values(), strict=True):
        assert close(ours, theirs)
    assert torch.equal(walk.outputs, walk.block_outputs[-1])
    assert set(outer) == set(problem.params)
    for parameter, slope in zip(problem.params, slopes, strict=True):
        assert close(outer[parameter], slope)
    assert {n for n in some.parameters if n.startswith("blocks.")} == {n for n in outer if n.startswith("blocks.1.")}
