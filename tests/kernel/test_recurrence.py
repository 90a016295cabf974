"""Real-time recurrent learning, written with the cell's own primitives: it must be backpropagation through time."""

import pytest
import torch

from altprop.errors import Refused
from altprop.models.recurrent import Cell, RecurrentModel
from altprop.noise import MixingNoise, MultiplicativeNoise
from altprop.randomness import generator_for
from altprop.testing import toy_sequence

CELLS = ("rnn", "gru", "lstm")
SITES = ("input", "state", "weight", "unit")
LENGTHS = [7, 3, 5, 1]


class Masks(MultiplicativeNoise):
    """Multiplies by U(.5, 1.5) at the sites named, by draws that scale with a trained number."""

    sites = frozenset(SITES)

    def __init__(self, *acts):
        super().__init__()
        self.acts = frozenset(acts)
        self.scale = torch.nn.Parameter(torch.tensor(1.2, dtype=torch.float64))

    def _mask(self, like, shape, site, layer):
        if site not in self.acts:
            return torch.ones(shape, dtype=like.dtype)
        return 1 + self.scale * (self.clock.uniform(shape, site, layer, 0, like) - 0.5)


class Zoneout(MixingNoise):
    """Keeps each value of the state with probability .3."""

    def _mix(self, after, before, layer):
        return torch.where(self.clock.uniform(after.shape, "carry", layer, 0, after) < 0.3, before, after)


NOISES = {
    "none": lambda: None,
    **{site: lambda site=site: Masks(site) for site in SITES},
    "everywhere": lambda: Masks(*SITES),
    "zoneout": Zoneout,
}


def walked(problem, batch):
    """Return the states (T, B, S) by single steps."""
    h, states = problem.model.initial_state(batch.rows), []
    for t in range(len(batch.inputs)):
        h = problem.cell_step(batch, t, h).state
        states.append(h)
    return torch.stack(states)


def rtrl(problem, batch):
    """The gradient by influence matrices M_t = d h_t / d theta = J_t M_(t-1) + d h_t / d theta with h_(t-1) held."""
    states = walked(problem, batch)
    outputs, back = problem.readout(states if batch.per_step else states[-1])
    pulled = back(problem.output_gradient(outputs, batch))
    errors = pulled.inputs if batch.per_step else [*[None] * (len(states) - 1), pulled.inputs]
    gradient = {name: torch.zeros_like(p) for name, p in problem.params.items()} | pulled.parameters
    h, influence = problem.model.initial_state(batch.rows), {}
    for t, error in enumerate(errors):
        step = problem.cell_step(batch, t, h, jacobians=True)
        h = step.state
        for name, immediate in step.parameter_jacobian.items():
            if name not in influence:
                influence[name] = torch.zeros_like(immediate)
            carried = torch.einsum("brs,bs...->br...", step.state_jacobian, influence[name])
            influence[name] = carried + immediate
            if error is not None:
                gradient[name] = gradient[name] + torch.einsum("bs,bs...->...", error, influence[name])
    return gradient


def distance(problem, batch):
    with problem.same_noise():
        ours, theirs = problem.flatten(rtrl(problem, batch)), problem.flatten(problem.gradient(batch)[1])
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("per_step", [False, True])
def test_rtrl_is_bptt(cell, noise, per_step):
    problem, batch = toy_sequence(cell, noise=NOISES[noise](), per_step=per_step, lengths=LENGTHS)
    problem.begin_step(4)
    # Seen: 4e-16.
    assert distance(problem, batch) < 1e-12


@pytest.mark.parametrize("site", SITES)
def test_a_mask_left_out_is_seen(site):
    """The negative control: the same rule without the noise of one site is off by more than a hundredth."""
    problem, batch = toy_sequence("gru", noise=Masks(site), per_step=True)
    with problem.same_noise():
        noisy = problem.flatten(problem.gradient(batch)[1])
        problem.model.noise.eval()
        quiet = problem.flatten(rtrl(problem, batch))
        problem.model.noise.train()
        found = problem.flatten(rtrl(problem, batch))
    assert (quiet - noisy).norm() > 1e-2 * noisy.norm()
    assert (found - noisy).norm() < 1e-12 * noisy.norm()


def test_a_masked_element_keeps_the_state():
    problem, batch = toy_sequence("lstm", lengths=LENGTHS)
    h = torch.randn(4, 10, generator=generator_for("h"), dtype=torch.float64)
    step = problem.cell_step(batch, 4, h, jacobians=True)
    still = torch.tensor([False, True, False, True])
    assert torch.equal(step.state[still], h[still])
    assert torch.equal(step.state_jacobian[still], torch.eye(10, dtype=torch.float64).expand(2, 10, 10))
    assert all(not value[still].any() and value[~still].any() for value in step.parameter_jacobian.values())
    assert (step.state[~still] - h[~still]).abs().min() > 0


def test_jacobians_are_central_differences():
    problem, batch = toy_sequence("gru", noise=Masks(*SITES))
    h = torch.randn(4, 5, generator=generator_for("h"), dtype=torch.float64)
    step = problem.cell_step(batch, 2, h, jacobians=True)
    weight = problem.params["cell.weight_state"]
    for place in ((0, 1), (11, 3)):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * 1e-6
                ends.append(problem.cell_step(batch, 2, h).state)
                weight[place] -= sign * 1e-6
        found = step.parameter_jacobian["cell.weight_state"][(..., *place)]
        assert (found - (ends[0] - ends[1]) / 2e-6).abs().max() < 1e-8
    for unit in range(5):
        shift = torch.zeros(4, 5, dtype=torch.float64)
        shift[:, unit] = 1e-6
        ends = [problem.cell_step(batch, 2, h + sign * shift).state for sign in (1, -1)]
        assert (step.state_jacobian[:, :, unit] - (ends[0] - ends[1]) / 2e-6).abs().max() < 1e-8


def test_steps_and_readouts_are_counted_as_what_they_are():
    problem, batch = toy_sequence("gru")
    ledger = problem.ledger
    with ledger.audit():
        states = walked(problem, batch)
    one_forward = ledger.forwards
    assert one_forward == 1
    flops = ledger.flops
    with ledger.audit():
        problem.readout(states[-1])
    assert ledger.forwards == one_forward
    # 2 B W C FLOPs: 4 rows, 5 units, 3 outputs.
    assert ledger.flops - flops == 2 * 4 * 5 * 3
    whole, _ = toy_sequence("gru")
    with whole.ledger.audit():
        whole.objective(batch)
    assert ledger.flops == whole.ledger.flops


def test_the_phase_stands_still():
    problem, batch = toy_sequence("rnn", noise=Masks("input"))
    problem.begin_step(2)
    first = walked(problem, batch)
    assert torch.equal(walked(problem, batch), first)
    assert problem.clock.phase == 0
    assert isinstance(problem.model, RecurrentModel)


@pytest.mark.parametrize("cell", ["leaky_rnn", *CELLS])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_local_derivatives_make_up_the_jacobians(cell, lengths):
    """Each unit by itself, and the recurrent weights between them, give the dense Jacobians of `cell_step`."""
    problem, batch = toy_sequence(cell, lengths=lengths)
    size, width = problem.model.cell.state_size, 5
    h = torch.randn(4, size, generator=generator_for("h"), dtype=torch.float64)
    local, dense = problem.local_step(batch, 4, h), problem.cell_step(batch, 4, h, jacobians=True)
    assert torch.equal(local.state, dense.state)
    weight = problem.params["cell.weight_state"].detach().reshape(-1, width, width)
    between = torch.einsum("bigk,gkl->bikl", local.recurrent, weight).reshape(4, size, width)
    found = torch.einsum("bijk,kl->bikjl", local.own, torch.eye(width).double()).reshape(4, size, size)
    found[:, :, :width] += between
    assert (found - dense.state_jacobian).abs().max() < 1e-15
    assert set(local.slopes) == set(dense.parameter_jacobian)
    for name, slope in local.slopes.items():
        own = slope[..., None] * local.presynaptic[name][:, None, None, None]
        whole = torch.einsum("bigkf,kl->bilgkf", own, torch.eye(width).double())
        # Of the dense one, the part (value i of unit l, row of unit k) is 0 unless l = k.
        expected = dense.parameter_jacobian[name].reshape(4, whole.shape[1], width, whole.shape[3], width, -1)
        assert (whole - expected).abs().max() < 1e-15


def test_a_cell_that_says_nothing_of_its_units_is_refused():
    problem, batch = toy_sequence("rnn", noise=Masks("input"))
    with pytest.raises(Refused, match="not known under noise; use dropout=none"):
        problem.local_step(batch, 0, problem.model.initial_state(4))
    problem, batch = toy_sequence("rnn")
    problem.model.cell.local = lambda *args: Cell.local(problem.model.cell, *args)
    with pytest.raises(Refused, match="RNNCell does not say what each unit does by itself; use algorithm=rtrl or bptt"):
        problem.local_step(batch, 0, problem.model.initial_state(4))


def test_a_leaky_cell_is_its_formula():
    problem, batch = toy_sequence("leaky_rnn")
    cell, h = problem.model.cell, torch.full((4, 5), 0.5, dtype=torch.float64)
    drive = batch.inputs[0] @ cell.weight_input.T + h @ cell.weight_state.T + cell.bias
    assert (cell(batch.inputs[0], h) - (0.8 * h + 0.2 * drive.tanh())).abs().max() < 1e-15
    problem, batch = toy_sequence("leaky_rnn", per_step=True)
    problem.begin_step(0)
    assert distance(problem, batch) < 1e-12
