"""Full backpropagation through time, against an influence matrix carried forward by hand."""

import pytest
import torch

from altprop.algorithms.dropout.standard import StandardDropout
from altprop.algorithms.recurrent.bptt import BPTT
from altprop.data import Batch
from altprop.errors import Refused
from altprop.optim import OptimizerFactory
from altprop.testing import toy, toy_sequence

CELLS = ("rnn", "gru", "lstm")
SGD = OptimizerFactory("torch.optim.SGD", lr=0.1)
CASES = [(False, None), (True, None), (False, [7, 3, 5, 1]), (True, [7, 3, 5, 1])]


def ready(problem, optimizer=SGD):
    rule = BPTT(optimizer)
    rule.setup(problem)
    return rule


def moved_by(rule, batch):
    """Return what a step of plain gradient descent subtracts, divided by its rate: the rule's gradient, flat."""
    before = rule.problem.flat()
    rule.step(batch)
    return (before - rule.problem.flat()) / 0.1


def influence_by_hand(problem, batch):
    """Real-time recurrent learning of a tanh network, one row and one weight at a time (Williams and Zipser 1989).

    p[k, :] = dh_k / dtheta goes forward in time; the error at each target meets it there. No graph, no vjp.
    """
    model, p = problem.model, {name: value.detach() for name, value in problem.params.items()}
    w_x, w_h, b = p["cell.weight_input"], p["cell.weight_state"], p["cell.bias"]
    v, c = p["readout.weight"], p["readout.bias"]
    width, inputs = w_x.shape
    size = w_x.numel() + w_h.numel() + width
    steps, rows = batch.inputs.shape[:2]
    gradient = {name: torch.zeros_like(value) for name, value in p.items()}
    elements = batch.samples
    for row in range(rows):
        h, influence = torch.zeros(width).double(), torch.zeros(width, size).double()
        flat = torch.zeros(size).double()

        def meet(h, influence, target, row_gradient):
            error = (v @ h + c - target) / elements
            gradient["readout.weight"] += torch.outer(error, h)
            gradient["readout.bias"] += error
            row_gradient += (v.T @ error) @ influence

        for t in range(steps):
            if batch.mask is not None and not batch.mask[t, row]:
                continue
            x = batch.inputs[t, row]
            direct = torch.zeros(width, size).double()
            for k in range(width):
                direct[k, k * inputs : (k + 1) * inputs] = x
                start = width * inputs + k * width
                direct[k, start : start + width] = h
                direct[k, width * inputs + width * width + k] = 1.0
            a = w_x @ x + w_h @ h + b
            influence = (1 - torch.tanh(a) ** 2)[:, None] * (w_h @ influence + direct)
            h = torch.tanh(a)
            if batch.per_step:
                meet(h, influence, batch.targets[t, row], flat)
        if not batch.per_step:
            meet(h, influence, batch.targets[row], flat)
        cut = (width * inputs, width * inputs + width * width)
        gradient["cell.weight_input"] += flat[: cut[0]].reshape(w_x.shape)
        gradient["cell.weight_state"] += flat[cut[0] : cut[1]].reshape(w_h.shape)
        gradient["cell.bias"] += flat[cut[1] :]
    assert model.cell.gates == 1
    return problem.flatten(gradient)


def influence_by_jacobians(problem, batch):
    """The same for any cell: both Jacobians of one cell by themselves, the rest by hand."""
    model = problem.model
    cell = {n.removeprefix("cell."): p.detach() for n, p in problem.params.items() if n.startswith("cell.")}
    readout = {n.removeprefix("readout."): p.detach() for n, p in problem.params.items() if n.startswith("readout.")}
    total = {name: torch.zeros_like(p) for name, p in problem.params.items()}
    steps, rows = batch.inputs.shape[:2]
    for row in range(rows):
        h = model.initial_state(1)[0]
        influence = {name: torch.zeros(*h.shape, *p.shape, dtype=h.dtype) for name, p in cell.items()}

        def meet(h, influence, target):
            def loss(r, h):
                return problem.loss.per_element(torch.func.functional_call(model.readout, r, (h[None],)), target[None])

            by_readout, error = torch.func.jacrev(loss, argnums=(0, 1))(readout, h)
            for name, value in by_readout.items():
                total[f"readout.{name}"] += value[0] / batch.samples
            for name, value in influence.items():
                total[f"cell.{name}"] += torch.tensordot(error[0], value, 1) / batch.samples

        for t in range(steps):
            if batch.mask is not None and not batch.mask[t, row]:
                continue
            x = batch.inputs[t, row]

            def step(p, h, x=x):
                return torch.func.functional_call(model.cell, p, (x[None], h[None]))[0]

            direct, by_state = torch.func.jacrev(step, argnums=(0, 1))(cell, h)
            influence = {n: torch.tensordot(by_state, influence[n], 1) + direct[n] for n in direct}
            h = step(cell, h).detach()
            if batch.per_step:
                meet(h, influence, batch.targets[t, row])
        if not batch.per_step:
            meet(h, influence, batch.targets[row])
    return problem.flatten(total)


@pytest.mark.parametrize(("per_step", "lengths"), CASES)
def test_it_is_the_influence_matrix_by_hand(per_step, lengths):
    problem, batch = toy_sequence(per_step=per_step, lengths=lengths)
    expected = influence_by_hand(problem, batch)
    error = (problem.flatten(problem.gradient(batch)[1]) - expected).norm() / expected.norm()
    # Seen: 1.4e-16 to 2.4e-16. A step adds the rounding of the weights that it writes.
    assert error < 1e-15
    assert (moved_by(ready(problem), batch) - expected).norm() < 1e-14


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("per_step", "lengths"), CASES)
def test_it_is_the_influence_matrix_of_every_cell(cell, per_step, lengths):
    problem, batch = toy_sequence(cell, per_step=per_step, lengths=lengths, loss="cross_entropy")
    expected = influence_by_jacobians(problem, batch)
    assert (problem.flatten(problem.gradient(batch)[1]) - expected).norm() / expected.norm() < 1e-15
    assert (moved_by(ready(problem), batch) - expected).norm() < 1e-14


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("per_step", [False, True])
def test_padding_changes_nothing(cell, per_step):
    """The gradient on masked rows is the mean of those on the rows by themselves, weighted by their targets."""
    lengths = [7, 3, 5, 1]
    problem, batch = toy_sequence(cell, per_step=per_step, lengths=lengths)
    together = problem.flatten(problem.gradient(batch)[1])
    apart = torch.zeros_like(together)
    for row, length in enumerate(lengths):
        one = torch.tensor([row])
        target = batch.targets[:length, one] if per_step else batch.targets[one]
        alone = Batch(batch.inputs[:length, one], target, one)
        apart += alone.samples * problem.flatten(problem.gradient(alone)[1])
    assert (together - apart / batch.samples).norm() / together.norm() < 1e-15


def test_it_steps_like_backprop_does():
    """On a net that has no time, it has nothing to do; where there is time, it says the same as `problem.gradient`."""
    with pytest.raises(Refused, match="BPTT needs a recurrent model"):
        ready(toy()[0])
    problem, batch = toy_sequence("gru")
    loss, grads = problem.gradient(batch)
    rule = ready(problem)
    expected = {name: p.detach().add(grads[name], alpha=-0.1) for name, p in problem.params.items()}
    assert torch.equal(rule.step(batch).loss, loss)
    assert all(torch.equal(p.detach(), expected[name]) for name, p in problem.params.items())


def test_optimizers_that_search_see_one_function():
    problem, batch = toy_sequence("gru", noise=StandardDropout(0.3, 0.3), per_step=True)
    phases, gradient = [], problem.gradient
    problem.gradient = lambda *a, **k: phases.append(problem.clock.phase) or gradient(*a, **k)
    rule = ready(problem, OptimizerFactory("torch.optim.LBFGS", lr=0.1, max_iter=4))
    before = problem.objective(batch)
    problem.begin_step(0)
    loss = rule.step(batch).loss
    assert torch.equal(loss, before)
    assert phases == [0] * len(phases)
    assert len(phases) > 1


@pytest.mark.parametrize("noise", [None, StandardDropout(0.3, 0.3)])
def test_curvature_is_learned_across_steps_of_one_function_alone(noise):
    problem, batch = toy_sequence("gru", noise=noise)
    rule = ready(problem, OptimizerFactory("torch.optim.LBFGS", lr=0.1, max_iter=1))
    for _ in range(4):
        rule.step(batch)
    (part,) = rule.updater.state_dict()["parts"]
    first = next(iter(problem.params))
    assert bool(dict(part["state"][first]["items"])["old_dirs"]) == (noise is None)


def test_a_stream_is_refused():
    problem, batch = toy_sequence()
    stream = Batch(batch.inputs, batch.targets, batch.index, reset=torch.tensor([True, True, False, True]))
    with pytest.raises(Refused, match=r"continues one from the batch before; try algorithm=truncated_bptt"):
        ready(problem).step(stream)
    # An optimizer that differentiates the gradient goes the same way.
    with pytest.raises(Refused, match=r"continues one from the batch before; try algorithm=truncated_bptt"):
        problem.gradient(stream, create_graph=True)


@pytest.mark.parametrize("cell", CELLS)
def test_the_books(cell):
    problem, batch = toy_sequence(cell)
    rule = ready(problem)
    for index in ([0, 1, 2, 3], [0, 1, 2, 3], [0, 1], [1, 2, 3]):
        rows = torch.tensor(index)
        rule.step(Batch(batch.inputs[:, rows], batch.targets[rows], rows))
    ledger = problem.ledger
    assert (ledger.forwards, ledger.backwards, ledger.steps, ledger.updates, ledger.samples) == (4, 4, 4, 4, 13)
    assert ledger.residual == 0.0
    assert ledger.flops_by_kind()["forward"] == 13 * ledger.forward_flops


def model_is_right():
    """What autograd alone would swallow: padding, the recursion written out, torch's cells."""
    test_padding_changes_nothing("gru", False)
    test_it_is_the_influence_matrix_by_hand(False, None)
    for cell, kind in (("gru", torch.nn.GRUCell), ("lstm", torch.nn.LSTMCell)):
        ours, theirs = toy_sequence(cell, inputs=3, width=4)[0].model.cell, kind(3, 4, dtype=torch.float64)
        with torch.no_grad():
            theirs.weight_ih.copy_(ours.weight_input)
            theirs.weight_hh.copy_(ours.weight_state)
            theirs.bias_ih.copy_(ours.bias)
            theirs.bias_hh.zero_()
            x, h = torch.ones(2, 3).double(), torch.full((2, ours.state_size), 0.5).double()
            expected = torch.cat(theirs(x, (h[:, :4], h[:, 4:])), 1) if cell == "lstm" else theirs(x, h)
            assert (ours(x, h) - expected).abs().max() < 1e-12


def test_the_model_is_right():
    model_is_right()
