"""Recurrent models against torch's cells, and under every transform that torch's fused ones refuse."""

import math

import pytest
import torch
from torch import nn

from altprop.algorithms.dropout.alpha import AlphaDropout
from altprop.algorithms.recurrent.eprop import EProp
from altprop.algorithms.recurrent.rtrl import RTRL
from altprop.capabilities import Capability
from altprop.data import Batch, ModelSpec
from altprop.errors import AltpropError, Refused
from altprop.models.recurrent import RecurrentModel
from altprop.randomness import generator_for
from altprop.testing import make_problem, relative_error, set_up, sgd, toy_sequence

CELLS = ("rnn", "gru", "lstm")
TORCH = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}


def draw(*shape, seed="x"):
    return torch.randn(*shape, generator=generator_for(seed), dtype=torch.float64)


def model_of(cell, *, width=4, per_step=False, **options):
    spec = ModelSpec((3,), 2, sequence=True, per_step=per_step)
    return RecurrentModel(spec, cell, [width], generator=generator_for(cell), **options).double()


def twin_of(cell, model, width=4):
    """Return torch's cell with the same weights; its second bias stands at 0 where ours has none."""
    twin = TORCH[cell](3, width, dtype=torch.float64)
    ours = model.cell
    with torch.no_grad():
        twin.weight_ih.copy_(ours.weight_input)
        twin.weight_hh.copy_(ours.weight_state)
        twin.bias_ih.copy_(ours.bias)
        twin.bias_hh.zero_()
        if cell == "gru":
            ours.bias_state.copy_(draw(width, seed="c"))
            twin.bias_hh[2 * width :].copy_(ours.bias_state)
    return twin


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_is_torchs(cell):
    model = model_of(cell)
    twin = twin_of(cell, model)
    x, h = draw(5, 3), draw(5, model.cell.state_size, seed="h")
    if cell == "lstm":
        expected = torch.cat(twin(x, (h[:, :4], h[:, 4:])), 1)
    else:
        expected = twin(x, h)
    # Seen: 2e-16.
    assert (model.cell(x, h) - expected).abs().max() < 1e-12
    # And so are its derivatives, in the input, the state and the weights.
    v = draw(*expected.shape, seed="v")
    for ours, theirs in (("weight_input", "weight_ih"), ("weight_state", "weight_hh"), ("bias", "bias_ih")):
        (a,) = torch.autograd.grad(model.cell(x, h), getattr(model.cell, ours), v)
        (b,) = torch.autograd.grad(expected, getattr(twin, theirs), v, retain_graph=True)
        assert (a - b).abs().max() < 1e-12


def test_a_relu_cell_is_torchs():
    model = model_of("rnn", activation="relu")
    twin = nn.RNNCell(3, 4, nonlinearity="relu", dtype=torch.float64)
    with torch.no_grad():
        for p, q in ((twin.weight_ih, "weight_input"), (twin.weight_hh, "weight_state"), (twin.bias_ih, "bias")):
            p.copy_(getattr(model.cell, q))
        twin.bias_hh.zero_()
    x, h = draw(5, 3), draw(5, 4, seed="h")
    assert (model.cell(x, h) - twin(x, h)).abs().max() < 1e-12


@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_is_its_cells_one_after_the_other(cell):
    model = model_of(cell)
    x, h = draw(6, 5, 3), draw(5, model.cell.state_size, seed="h")
    states, last = model.unroll(x, h)
    for t in range(6):
        h = model.cell(x[t], h)
        assert (states[t] - h).abs().max() < 1e-14
    assert torch.equal(last, states[-1])
    halves = model.unroll(x[:2], draw(5, model.cell.state_size, seed="h"))
    rest, _ = model.unroll(x[2:], halves[1])
    assert (torch.cat([halves[0], rest]) - states).abs().max() < 1e-14


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("per_step", [False, True])
def test_a_masked_row_is_its_own_shorter_sequence(cell, per_step):
    model = model_of(cell, per_step=per_step)
    lengths = [6, 1, 4]
    x = draw(6, 3, 3)
    mask = torch.arange(6)[:, None] < torch.tensor(lengths)
    together = model(x, mask)
    for row, length in enumerate(lengths):
        alone = model(x[:length, row : row + 1])
        expected = alone[:, 0] if per_step else alone[0]
        found = together[:length, row] if per_step else together[row]
        assert (found - expected).abs().max() < 1e-14
    # What stands in the padding is never read.
    poisoned = torch.where(mask[:, :, None], x, torch.full_like(x, 1e6))
    again = model(poisoned, mask)
    assert torch.equal(again[mask] if per_step else again, together[mask] if per_step else together)


@pytest.mark.parametrize("cell", CELLS)
def test_reset_rows_begin_anew(cell):
    model = model_of(cell)
    x, h = draw(4, 3, 3), draw(3, model.cell.state_size, seed="h")
    reset = torch.tensor([True, False, True])
    states, _ = model.unroll(x, h, reset=reset)
    fresh, _ = model.unroll(x, model.initial_state(3))
    carried, _ = model.unroll(x, h)
    assert torch.equal(states[:, reset], fresh[:, reset])
    assert torch.equal(states[:, ~reset], carried[:, ~reset])
    assert (carried - fresh).abs().max() > 1e-3


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("per_step", [False, True])
def test_transforms_work(cell, per_step):
    """vmap over parameters, forward mode, double backward; each against the plain way."""
    problem, batch = toy_sequence(cell, per_step=per_step, lengths=[7, 3, 5, 1])
    gradient = problem.flatten(problem.gradient(batch)[1])
    v = draw(gradient.numel(), seed="v")
    derivative = problem.jvp(batch, problem.unflatten(v))[1]
    assert float(derivative) == pytest.approx(float(v @ gradient), rel=1e-12)
    start, step = problem.flat(), 1e-5
    ends = []
    for sign in (1, -1):
        problem.assign(start + sign * step * v)
        ends.append(problem.flatten(problem.gradient(batch)[1]))
    problem.assign(start)
    curvature = problem.linearize(batch).hvp(v)
    # Central differences of the gradient: seen 1e-9 of its size.
    assert (curvature - (ends[0] - ends[1]) / (2 * step)).norm() < 1e-7 * curvature.norm()
    flat = start + 0.3 * draw(3, start.numel(), seed="p")
    together = problem.population_objective(flat, batch)
    for value, row in zip(together, flat, strict=True):
        problem.assign(row)
        assert float(problem.objective(batch)) == pytest.approx(float(value), rel=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_meta_is_no_home(cell):
    """With the default device on meta, everything still runs on the CPU."""
    problem, batch = toy_sequence(cell)
    expected = problem.gradient(batch)[0]
    with torch.device("meta"):
        problem, batch = toy_sequence(cell)
        loss, grads = problem.gradient(batch)
        problem.population_objective(problem.flat()[None].expand(2, -1), batch)
    assert torch.equal(loss, expected)
    assert {g.device.type for g in grads.values()} == {"cpu"}


@pytest.mark.parametrize("cell", CELLS)
def test_initialisation(cell):
    model = model_of(cell, width=64)
    bound = 1 / 8
    for name, p in model.cell.named_parameters():
        if name == "bias_state":
            assert not p.any()
            continue
        value = p.detach().clone()
        if cell == "lstm" and name == "bias":
            value[64:128] -= 1.0
        # torch's own: U(-1/sqrt(W), 1/sqrt(W)) for all.
        assert 0.97 * bound < value.abs().max() <= bound
        assert float(value.std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)
    model = model_of(cell, width=16, initialisation="orthogonal")
    gain = 5 / 3 if cell == "rnn" else 1.0
    for gate in model.cell.weight_state.detach().split(16):
        assert (gate @ gate.T - gain**2 * torch.eye(16)).abs().max() < 1e-5
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again = model_of(cell), model_of(cell)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_noise_by_site(cell, everywhere):
    """Unit and input masks differ from time to time; those of state and weights are one for the whole sequence."""
    seen = {}
    for site in ("input", "unit", "state", "weight"):
        noise = everywhere(site)
        model = model_of(cell, per_step=True, noise=noise)
        with noise.clock.record() as draws:
            model(draw(5, 2, 3))
        seen[site] = {(layer, time): value.shape for (s, layer, _, time, _), value in draws.items() if s == site}
    gates = model.cell.gates
    assert seen["input"] == {(0, t): (2, 3) for t in range(5)}
    assert seen["unit"] == {(1, t): (2, 4) for t in range(5)}
    assert seen["state"] == {(1, 0): (2, 4)}
    assert seen["weight"] == {(0, 0): (gates * 4, 3), (1, 0): (gates * 4, 4), (2, 0): (2, 4)}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("site", ["input", "unit", "state", "weight"])
def test_a_window_sees_the_masks_of_the_whole(cell, site, everywhere):
    model = model_of(cell, per_step=True, noise=everywhere(site))
    x = draw(6, 2, 3)
    whole = model(x)
    head, h = model.unroll(x[:2], model.initial_state(2))
    tail, _ = model.unroll(x[2:], h, start=2)
    pieces = torch.cat([model.readout(head), model.readout(tail, 2)])
    assert (pieces - whole).abs().max() < 1e-15
    wrong = model.readout(model.unroll(x[2:], h)[0])
    assert ((wrong - whole[2:]).abs().max() > 1e-3) == (site in ("input", "unit"))


@pytest.mark.parametrize("cell", CELLS)
def test_dropping_the_state_leaves_what_it_keeps(cell, everywhere):
    """State noise acts on what enters the recurrent product; the written-out equations say where that is."""
    noise = everywhere("state")
    model = model_of(cell, noise=noise)
    x, h = draw(2, 3), draw(2, model.cell.state_size, seed="h")
    mask = noise.mask(h[:, :4], "state", 1)
    a = x @ model.cell.weight_input.T + model.cell.bias
    back = (h[:, :4] * mask) @ model.cell.weight_state.T
    if cell == "rnn":
        expected = torch.tanh(a + back)
    elif cell == "gru":
        r, z = torch.sigmoid(a[:, :4] + back[:, :4]), torch.sigmoid(a[:, 4:8] + back[:, 4:8])
        n = torch.tanh(a[:, 8:] + r * back[:, 8:])
        expected = (1 - z) * n + z * h
    else:
        i, f, g, o = (a + back).chunk(4, 1)
        c = torch.sigmoid(f) * h[:, 4:] + torch.sigmoid(i) * torch.tanh(g)
        expected = torch.cat([torch.sigmoid(o) * torch.tanh(c), c], 1)
    assert (model.cell(x, h) - expected).abs().max() < 1e-15


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("per_step", [False, True])
def test_per_example_gradients_under_noise(cell, per_step, everywhere):
    problem, batch = toy_sequence(cell, per_step=per_step, noise=everywhere())
    with problem.same_noise():
        each, whole = problem.per_example_gradients(batch), problem.gradient(batch)[1]
        flat = problem.flat()[None] + 0.1 * draw(3, problem.flat().numel())
        together = problem.population_objective(flat, batch)
        for value, row in zip(together, flat, strict=True):
            problem.assign(row)
            assert float(problem.objective(batch)) == pytest.approx(float(value), rel=1e-12)
    for name, value in whole.items():
        assert (each[name].mean(0) - value).abs().max() < 1e-14


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": [-4]}, r"model.hidden .* at least 1; got \[-4\]"),
        ({"hidden": []}, r"model.hidden of a recurrent model holds at least one width"),
        ({"cell": "lsmt"}, r"unknown model.cell=lsmt; did you mean lstm\?"),
        ({"cell": "rnn", "activation": "no"}, r"unknown model.activation=no"),
        ({"initialisation": "no"}, r"unknown model.initialisation=no"),
        ({"initialisation": "identity"}, r"identity is for model=rnn and leaky_rnn; gru has gates"),
        ({"cell": "lstm", "forget_bias": "one"}, r"model.forget_bias must be a number"),
    ],
)
def test_bad_values_are_told_in_a_line(options, message):
    with pytest.raises(AltpropError, match=message):
        RecurrentModel(ModelSpec((3,), 2, sequence=True), generator=generator_for(0), **options)


def test_an_irnn_keeps_what_it_read():
    """Le et al. 2015: the recurrent weights are the identity, so that a rectified state stands still without input."""
    model = model_of("rnn", width=20, activation="relu", initialisation="identity")
    assert torch.equal(model.cell.weight_state, torch.eye(20).double())
    assert not model.cell.bias.any()
    # 60 and 40 draws of N(0, .001^2): four standard errors.
    for weight in (model.cell.weight_input, model.readout.weight):
        assert float(weight.detach().std()) == pytest.approx(0.001, rel=4 / math.sqrt(2 * weight.numel()))
    h = draw(5, 20).relu()
    assert torch.equal(model.cell(torch.zeros(5, 3).double(), h), h)


def test_plain_vectors_are_refused():
    with pytest.raises(Refused, match=r"model=gru reads sequences of vectors, .* try model=mlp"):
        RecurrentModel(ModelSpec((3,), 2), generator=generator_for(0))


def test_roles_and_books():
    """Muon and its kin take the hidden matrix; the input and output ones are named as such."""
    problem, _ = toy_sequence("gru")
    assert problem._roles(problem.model) == {
        "cell.weight_input": "input",
        "cell.weight_state": "hidden",
        "cell.bias": "bias",
        "cell.bias_state": "bias",
        "readout.weight": "output",
        "readout.bias": "bias",
    }


def test_labelled_rows_of_sequences():
    """Targets at each time, some rows without labels: they count T samples each, or none."""
    problem, batch = toy_sequence(per_step=True)
    labelled = torch.tensor([True, False, True, False])
    few = Batch(batch.inputs, batch.targets, batch.index, labelled=labelled)
    alone = Batch(batch.inputs[:, labelled], batch.targets[:, labelled], batch.index[labelled])
    assert few.samples == alone.samples == 14
    assert float(problem.objective(few)) == pytest.approx(float(problem.objective(alone)), rel=1e-14)
    assert make_problem(problem.model, "mse").spec.per_step


@pytest.mark.parametrize("cell", CELLS)
def test_layers_are_torchs(cell):
    """Two layers of the same width, each gate where torch has it; outputs, last states and gradients."""
    module = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[cell](3, 4, num_layers=2).double()
    model = RecurrentModel(ModelSpec((3,), 2, sequence=True), cell, [4, 4], generator=generator_for(cell)).double()
    with torch.no_grad():
        for k, ours in enumerate(model.cell.layers):
            for mine, theirs in (("weight_input", "weight_ih"), ("weight_state", "weight_hh"), ("bias", "bias_ih")):
                getattr(module, f"{theirs}_l{k}").copy_(getattr(ours, mine))
            getattr(module, f"bias_hh_l{k}").zero_()
            if cell == "gru":
                ours.bias_state.copy_(draw(4, seed=f"c{k}"))
                getattr(module, f"bias_hh_l{k}")[8:].copy_(ours.bias_state)
    x = draw(7, 5, 3)
    expected, last = module(x)
    states, h = model.unroll(x, model.initial_state(5))
    # Seen: 1e-16.
    assert (states[..., :4] - expected).abs().max() < 1e-12
    parts = h.split(4, -1)
    tops, lows = ((parts[0], parts[1]), (parts[2], parts[3])) if cell == "lstm" else ((parts[0],), (parts[1],))
    for value, low, top in zip(last if cell == "lstm" else (last,), lows, tops, strict=True):
        assert (value - torch.stack([low, top])).abs().max() < 1e-12
    v = draw(7, 5, 4, seed="v")
    names = [f"weight_ih_l{k}" for k in range(2)]
    theirs = torch.autograd.grad(expected, [getattr(module, name) for name in names], v)
    ours = torch.autograd.grad(states[..., :4], [one.weight_input for one in model.cell.layers], v)
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(ours, theirs, strict=True))
    assert torch.equal(model(x), model.readout(h))


def test_layers_of_other_widths_learn_online_and_take_no_noise():
    spec = ModelSpec((2,), 3, sequence=True, per_step=True)
    model = RecurrentModel(spec, "lstm", [3, 2], generator=generator_for("layers")).double()
    assert model.initial_state(4).shape == (4, 10)
    problem = make_problem(model, "half_squared_error", offers=frozenset({Capability.SUPERVISED}))
    batch = toy_sequence("lstm", lengths=[7, 3, 5, 1], per_step=True)[1]
    expected = problem.gradient(batch)[1]
    assert relative_error(set_up(RTRL(sgd()), problem).direction(batch)[1], expected) < 1e-12
    with pytest.raises(Refused, match="e-prop follows the units of one cell"):
        set_up(EProp(sgd()), problem)
    with pytest.raises(Refused, match="noise is for one recurrent layer"):
        RecurrentModel(spec, "lstm", [3, 2], generator=generator_for("layers"), noise=AlphaDropout(0.5))
