import json
import math
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from altprop.data import Batch, ModelSpec
from altprop.models.cnn import CNN
from altprop.models.point import Point
from altprop.models.recurrent import RecurrentModel
from altprop.models.shortcut import ShortcutMLP
from altprop.noise import MultiplicativeNoise
from altprop.optim import OptimizerFactory
from altprop.probes.basic import LAYER, SIGNALS, WHOLE, BasicProbes, slope
from altprop.testing import make_problem, set_up, toy


class Mask(MultiplicativeNoise):
    """Dropout with p = .5, as small as it gets."""

    sites = frozenset({"unit"})

    def _mask(self, like: Tensor, shape: torch.Size, site: str, layer: int) -> Tensor:
        return 2.0 * (self.clock.uniform(shape, site, layer, 0, like) < 0.5).to(like.dtype)


def move(problem, direction, scale=-0.1):
    with torch.no_grad():
        for name, p in problem.params.items():
            p += scale * direction[name]


def row_of(problem, batch, direction, scale=-0.1, **options):
    probe = BasicProbes(problem, batch, 0, **options)
    probe.before()
    move(problem, direction, scale)
    return probe.after(False)


def test_gradient_descent_on_the_probe_batch_is_read_exactly():
    problem, batch = toy(activation="tanh", rows=16)
    before = problem.flat()
    _, grads = problem.gradient(batch)
    gradient = problem.flatten(grads)
    row = row_of(problem, batch, grads, -1e-6)
    values = row["values"]
    assert row["note"] is None
    assert tuple(values) == WHOLE
    assert values["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-12)
    assert values["update_norm"] == pytest.approx(1e-6 * float(gradient.norm()), rel=1e-8)
    assert values["update_ratio"] == pytest.approx(1e-6 * float(gradient.norm() / before.norm()), rel=1e-8)
    assert values["alignment"] == pytest.approx(1.0, abs=1e-12)
    assert values["alignment_low"] == -values["alignment_high"]
    # First-order: the drop is what the slope predicts up to O(step).
    assert values["descent_efficiency"] == pytest.approx(1.0, abs=1e-4)
    for index, block in enumerate(problem.model.blocks):
        layer = row["layers"][f"blocks.{index}"]
        assert tuple(layer) == LAYER
        rms = float(grads[f"blocks.{index}.weight"].norm()) / math.sqrt(block.weight.numel())
        assert layer["gradient_rms"] == pytest.approx(rms, rel=1e-12)
        assert layer["alignment"] == pytest.approx(1.0, abs=1e-12)
    json.dumps(row)


def test_the_signal_is_held_against_the_gradient_of_its_own_batch():
    """A learner without an optimizer that goes down the gradient of another batch: 1 there, less on the probe batch."""
    problem, batch = toy(rows=16)
    fed = toy(rows=8, seed=3)[1]
    probe = BasicProbes(problem, batch, 0)
    probe.before(fed)
    grads = problem.gradient(fed)[1]
    assert torch.equal(probe._seen.of_batch, problem.flatten(grads))
    move(problem, grads)
    row = probe.after(False)
    assert row["values"]["signal_alignment"] == pytest.approx(1.0, abs=1e-9)
    assert row["layers"]["blocks.1"]["signal_alignment"] == pytest.approx(1.0, abs=1e-9)
    assert row["values"]["alignment"] < 0.9


@pytest.mark.parametrize("noise", [None, Mask()])
def test_the_signal_is_what_the_optimizer_is_handed(noise):
    """Adam's step is no gradient, and what it was handed is that of the batch, under the masks of the step."""
    from altprop.algorithms.backprop.backprop import Backprop

    problem, batch = toy((5, 30, 30, 3), rows=16, noise=noise)
    learner = set_up(Backprop(OptimizerFactory("torch.optim.Adam", lr=0.01)), problem)
    probe = BasicProbes(problem, batch, 0)
    cosines = []
    for seed in range(1, 6):
        fed = toy((5, 30, 30, 3), rows=8, seed=seed)[1]
        probe.before(fed)
        learner.step(fed)
        row = probe.after(False)
        assert row["values"]["signal_alignment"] == pytest.approx(1.0, abs=1e-9)
        cosines.append(row["values"]["alignment"])
    assert max(cosines) < 0.95
    assert problem.heard is None


def test_update_ratio_is_of_the_real_update_and_not_of_lr_times_gradient():
    problem, batch = toy()
    sign = {name: torch.ones_like(p) for name, p in problem.params.items()}
    before = {name: p.detach().clone() for name, p in problem.params.items()}
    row = row_of(problem, batch, sign, -0.01)
    first = torch.cat([before["blocks.0.weight"].flatten(), before["blocks.0.bias"]])
    assert row["layers"]["blocks.0"]["update_ratio"] == pytest.approx(
        0.01 * math.sqrt(first.numel()) / float(first.norm()), rel=1e-9
    )


def test_ascent_has_alignment_minus_one_and_no_efficiency():
    problem, batch = toy()
    _, grads = problem.gradient(batch)
    row = row_of(problem, batch, grads, +0.01)
    assert row["values"]["alignment"] == pytest.approx(-1.0, abs=1e-12)
    assert row["values"]["descent_efficiency"] is None


def test_random_step_lies_in_the_band_and_has_no_efficiency():
    problem, batch = toy((20, 30, 30, 3), rows=64)
    noise = {name: problem.random.normal(*p.shape) for name, p in problem.params.items()}
    row = row_of(problem, batch, noise, 1e-3)
    values = row["values"]
    assert values["alignment_low"] < values["alignment"] < values["alignment_high"]
    assert values["descent_efficiency"] is None


def test_efficiency_of_a_quadratic_has_its_closed_form():
    """L = 1/2 |x|^2, step -s x: the drop is (s - s^2/2) |x|^2 and the slope predicts s |x|^2, so 1 - s/2."""
    problem, batch = point([3.0] * 50)
    _, grads = problem.gradient(batch)
    assert row_of(problem, batch, grads, -0.5)["values"]["descent_efficiency"] == pytest.approx(0.75, abs=1e-12)


def point(start):
    spec = ModelSpec((0,), len(start), start=tuple(start))
    model = Point(spec, generator=torch.Generator())
    problem = make_problem(model, "half_squared_error")
    return problem, Batch(torch.zeros(1, 0).double(), torch.zeros(1, len(start)).double(), torch.zeros(1).long())


def test_point_has_whole_values_alone():
    problem, batch = point([1.0, 2.0])
    _, grads = problem.gradient(batch)
    row = row_of(problem, batch, grads)
    assert row["layers"] == {}
    assert row["values"]["alignment_high"] == pytest.approx(math.cos(math.pi * 0.025), abs=1e-4)
    assert row["values"]["backward_slope"] is None
    assert row["values"]["descent_efficiency"] == pytest.approx(0.95, abs=1e-9)


def test_step_without_change_says_so():
    problem, batch = toy()
    probe = BasicProbes(problem, batch, 0)
    probe.before()
    row = probe.after(False)
    assert row["note"] == "no update"
    for name in ("update_norm", "update_ratio", "alignment", "descent_efficiency"):
        assert row["values"][name] is None
    assert row["layers"]["blocks.0"]["update_ratio"] is None
    assert row["values"]["gradient_norm"] > 0


def test_frozen_layer_is_blank_and_the_others_are_not():
    problem, batch = toy()
    _, grads = problem.gradient(batch)
    grads = {n: g if n.startswith("blocks.2") else torch.zeros_like(g) for n, g in grads.items()}
    row = row_of(problem, batch, grads)
    assert row["note"] is None
    assert row["layers"]["blocks.0"]["alignment"] is None
    assert row["layers"]["blocks.0"]["update_ratio"] is None
    assert row["layers"]["blocks.2"]["alignment"] == pytest.approx(1.0)


def test_the_band_of_the_whole_weighs_its_layers_by_this_very_step():
    """Where one layer moves alone, its null cosines are all there is, over the share of its gradient in the whole."""
    problem, batch = toy()
    _, grads = problem.gradient(batch)
    row = row_of(problem, batch, {n: g if n.startswith("blocks.1") else torch.zeros_like(g) for n, g in grads.items()})
    own = torch.cat([g.flatten() for n, g in grads.items() if n.startswith("blocks.1")]).norm()
    share = float(own / problem.flatten(grads).norm())
    assert 0.1 < share < 0.9
    expected = share * row["layers"]["blocks.1"]["alignment_high"]
    assert row["values"]["alignment_high"] == pytest.approx(expected, rel=1e-9)


def test_own_model_is_not_applicable():
    problem, batch = toy()
    probe = BasicProbes(problem, batch, 0)
    for _ in range(2):
        probe.before()
        row = probe.after(True)
        assert row["note"] == "not applicable"
        assert row["layers"] == {}
        assert set(row["values"].values()) == {None}


@pytest.mark.parametrize("normalisation", ["none", "layer"])
def test_signals_are_those_of_each_examples_own_loss(normalisation):
    """dL/dz of every example alone, by autograd on the blocks one by one; the spread of z by its definition."""
    problem, batch = toy((5, 8, 7, 6, 3), activation="sigmoid", rows=16, normalisation=normalisation)
    row = row_of(problem, batch, problem.gradient(batch)[1], 0.0)
    before, after, x = [], [], batch.inputs
    for block in problem.model.blocks:
        before.append(block.transform(x))
        after.append(block.respond(before[-1]))
        x = after[-1]
    each = problem.loss.per_element(x, batch.targets).sum()
    grads = torch.autograd.grad(each, [*before, *after])
    lengths = [float(g.square().sum(1).mean().sqrt()) for g in grads]
    for index, z in enumerate(one.detach() for one in before):
        layer = row["layers"][f"blocks.{index}"]
        assert layer["backward_signal"] == pytest.approx(lengths[index], rel=1e-9)
        assert layer["passed"] == pytest.approx(lengths[index] / lengths[4 + index], rel=1e-9)
        assert layer["forward_signal"] == pytest.approx(float((z - z.mean(0)).square().mean().sqrt()), rel=1e-9)
    assert row["values"]["backward_slope"] == pytest.approx(slope(lengths[3::-1]), rel=1e-9)


def test_weights_hide_what_becomes_of_a_signal_and_signals_do_not():
    """Ten relu layers of variance 1/n: the signal falls to a twentieth or so, and the weights' gradients stay level."""
    problem, batch = toy((32,) * 11 + (10,), activation="relu", rows=128)
    with torch.no_grad():
        for p in problem.params.values():
            p.copy_(problem.random.normal(*p.shape) / math.sqrt(32) * (p.dim() > 1))
    row = row_of(problem, batch, problem.gradient(batch)[1])
    layers = list(row["layers"].values())
    assert row["values"]["backward_slope"] == pytest.approx(math.log10(math.sqrt(0.5)), abs=0.05)
    assert layers[0]["backward_signal"] < 0.1 * layers[-1]["backward_signal"]
    assert layers[0]["gradient_rms"] > 0.3 * layers[5]["gradient_rms"]


def test_a_net_that_passes_nothing_on_has_signals_of_zero_and_no_slope():
    problem, batch = toy()
    with torch.no_grad():
        for p in problem.params.values():
            p.zero_()
    row = row_of(problem, batch, problem.gradient(batch)[1])
    assert tuple(row["layers"]["blocks.0"])[1:4] == SIGNALS
    assert row["layers"]["blocks.0"]["backward_signal"] == 0
    assert row["values"]["backward_slope"] is None


def test_slope_is_the_least_squares_line():
    logs = [-3.0, -2.5, -2.6, -1.0]
    expected = torch.linalg.lstsq(
        torch.tensor([[i, 1.0] for i in range(4)], dtype=torch.float64),
        torch.tensor(logs, dtype=torch.float64)[:, None],
    )
    assert slope([10**value for value in logs]) == pytest.approx(float(expected.solution[0]), abs=1e-12)
    assert slope([0.0, 1.0]) is None
    assert slope([1.0, math.inf]) is None
    assert slope([1.0]) is None


def test_dead_units_are_counted():
    problem, batch = toy((5, 8, 8, 3), activation="relu", rows=32)
    with torch.no_grad():
        problem.params["blocks.1.bias"][:3] = -100.0
        problem.params["blocks.1.bias"][3:6] = 100.0
        hidden = problem.model.blocks[1](problem.model.blocks[0](batch.inputs))
        # The last two are off on some rows and on on others: alive.
        problem.params["blocks.1.bias"][6:] -= (hidden[:, 6:].amin(0) + hidden[:, 6:].amax(0)) / 2
        assert ((problem.model.blocks[1](problem.model.blocks[0](batch.inputs))[:, 6:] > 0).any(0)).all()
    _, grads = problem.gradient(batch)
    layers = row_of(problem, batch, grads)["layers"]
    assert layers["blocks.1"]["dead_fraction"] == 3 / 8
    assert layers["blocks.1"]["saturated_fraction"] is None
    assert layers["blocks.2"]["dead_fraction"] is None


def test_saturated_outputs_are_counted():
    problem, batch = toy((5, 8, 8, 3), activation="tanh", rows=32)
    with torch.no_grad():
        problem.params["blocks.0.weight"].zero_()
        problem.params["blocks.0.bias"].copy_(torch.tensor([-20.0, 20.0, -2.0, 2.0, -1.7, 1.7, 0.0, 0.1]))
    _, grads = problem.gradient(batch)
    layer = row_of(problem, batch, grads)["layers"]["blocks.0"]
    # |tanh| > .95 means |z| > 1.83; at 20 nothing passes, not even in float64.
    assert layer["saturated_fraction"] == 4 / 8
    assert layer["dead_fraction"] == 2 / 8


@pytest.mark.parametrize("normalisation", ["none", "batch", "layer"])
def test_probes_change_nothing(normalisation):
    """Weights, buffers, modes, `.grad`, streams, masks and ledger are the same with probes and without."""

    def run(probed: bool):
        problem, batch = toy((6, 8, 8, 3), rows=32, normalisation=normalisation, noise=Mask(), activation="relu")
        problem.model.blocks[0].eval()
        probe = BasicProbes(problem, batch, 0, refresh=2)
        torch.manual_seed(0)
        losses = []
        for step in range(5):
            if probed:
                probe.before()
            problem.begin_step(step)
            loss, grads = problem.gradient(batch)
            move(problem, grads)
            losses.append(loss)
            move(problem, {name: problem.random.normal(*p.shape) for name, p in problem.params.items()}, 1e-3)
            problem.ledger.count_step(32)
            if probed:
                with torch.no_grad():
                    probe.after(False)
        state = problem.state_dict()
        modes = [module.training for module in problem.model.modules()]
        assert not any(module._forward_hooks for module in problem.model.modules())
        assert not any("respond" in vars(block) for block in problem.model.blocks)
        grads_left = [p.grad for p in problem.params.values()]
        return state, torch.stack(losses), modes, grads_left, torch.get_rng_state(), problem.ledger.summary()

    on, off = run(True), run(False)
    assert on[0]["model"].keys() == off[0]["model"].keys()
    for name, value in off[0]["model"].items():
        assert torch.equal(on[0]["model"][name], value), name
    assert torch.equal(on[0]["random"]["generator"], off[0]["random"]["generator"])
    assert on[0]["clock"] == off[0]["clock"]
    assert torch.equal(on[1], off[1])
    assert on[2] == off[2]
    assert on[3] == off[3] == [None] * len(on[3])
    assert torch.equal(on[4], off[4])
    assert on[5] == off[5]


@pytest.mark.parametrize("noise", [False, True])
def test_values_are_those_of_evaluation_mode(noise):
    """Under dropout and batch normalisation the gradient is that of the function that predicts."""
    problem, batch = toy((6, 8, 8, 3), rows=32, normalisation="batch", noise=Mask() if noise else None)
    problem.gradient(batch)
    problem.model.eval()
    loss, grads = problem.gradient(batch)
    problem.model.train()
    move(problem, grads, 0.0)
    probe = BasicProbes(problem, batch, 0)
    probe.before()
    assert float(loss) == probe._seen.loss
    assert torch.equal(probe._seen.gradient, problem.flatten(grads))
    move(problem, grads, -1e-6)
    values = probe.after(False)["values"]
    assert values["alignment"] == pytest.approx(1.0, abs=1e-12)
    assert values["descent_efficiency"] == pytest.approx(1.0, abs=1e-3)


def test_weights_that_train_are_compared_where_others_predict():
    """`evaluating` shows the averaged weights; both sides of the step must be of one kind."""
    problem, batch = toy()
    _, grads = problem.gradient(batch)

    class Swapping:
        @contextmanager
        def swapped(self):
            kept = problem.flat()
            problem.assign(torch.zeros_like(kept))
            yield
            problem.assign(kept)

    swapping = Swapping()
    problem._updaters.add(swapping)
    row = row_of(problem, batch, grads, -1e-6)
    assert row["values"]["alignment"] == pytest.approx(1.0, abs=1e-12)
    assert row["values"]["descent_efficiency"] == pytest.approx(1.0, abs=1e-3)


def test_resumed_probes_go_on_bit_for_bit():
    def rows(break_at: int | None):
        problem, batch = toy(rows=16)
        probe = BasicProbes(problem, batch, 0, refresh=4)
        found = []
        for step in range(7):
            if step == break_at:
                saved = probe.state_dict()
                probe = BasicProbes(problem, batch, 0, refresh=4)
                probe.load_state_dict(saved)
            probe.before()
            move(problem, problem.gradient(batch)[1])
            found.append(probe.after(False))
        return found

    plain = rows(None)
    for break_at in range(1, 7):
        assert rows(break_at) == plain


def test_grown_model_is_compared_on_the_common_names():
    problem, batch = toy()
    probe = BasicProbes(problem, batch, 0)
    probe.before()
    _, grads = problem.gradient(batch)
    move(problem, grads)
    block = problem.model.blocks[2]
    block.weight = nn.Parameter(torch.cat([block.weight.detach(), block.weight.detach()[:1]]))
    block.bias = nn.Parameter(torch.cat([block.bias.detach(), block.bias.detach()[:1]]))
    row = probe.after(False)
    assert set(row["layers"]) == {"blocks.0", "blocks.1"}
    assert row["values"]["alignment"] == pytest.approx(1.0, abs=1e-12)


def test_non_finite_weights_are_told_and_do_not_raise():
    problem, batch = toy()
    probe = BasicProbes(problem, batch, 0)
    probe.before()
    move(problem, {name: torch.full_like(p, math.nan) for name, p in problem.params.items()})
    row = probe.after(False)
    assert math.isnan(row["values"]["update_norm"])
    assert row["values"]["descent_efficiency"] is None
    probe.before()
    move(problem, {name: torch.ones_like(p) for name, p in problem.params.items()})
    assert probe.after(False)["values"]["backward_slope"] is None


def test_shortcuts_have_layers_and_count_their_own_units():
    """A hidden block hands its input on; only what it adds are its units."""
    spec = ModelSpec((4,), 3)
    model = ShortcutMLP(spec, [6, 6], activation="relu", generator=torch.Generator().manual_seed(0)).double()
    problem = make_problem(model, "cross_entropy")
    batch = Batch(torch.ones(8, 4).double(), torch.arange(8) % 3, torch.arange(8))
    with torch.no_grad():
        problem.params["blocks.1.bias"][:2] = -100.0
        problem.params["blocks.1.bias"][2:] = 100.0
    _, grads = problem.gradient(batch)
    row = row_of(problem, batch, grads)
    assert row["layers"]["blocks.1"]["dead_fraction"] == 2 / 6
    assert row["values"]["backward_slope"] is not None
    assert row["layers"]["blocks.0"]["alignment"] == pytest.approx(1.0, abs=1e-12)
    # A measured band, wider than that of random directions.
    assert row["layers"]["blocks.2"]["alignment_high"] > 1.96 / math.sqrt(16 * 3 + 3)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_recurrent_models_have_a_row_for_cell_and_readout(cell):
    spec = ModelSpec((2,), 1, sequence=True)
    model = RecurrentModel(spec, cell, [5], generator=torch.Generator().manual_seed(0)).double()
    problem = make_problem(model, "mse")
    x = torch.randn(7, 4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = Batch(x, torch.ones(4, 1).double(), torch.arange(4), reset=torch.ones(4, dtype=torch.bool))
    _, grads = problem.gradient(batch)
    row = row_of(problem, batch, grads, -1e-5)
    assert set(row["layers"]) == {"cell", "readout"}
    assert row["values"]["alignment"] == pytest.approx(1.0, abs=1e-9)
    assert row["values"]["backward_slope"] is None
    assert row["values"]["descent_efficiency"] == pytest.approx(1.0, abs=1e-3)


def test_convolutions_have_all_values():
    spec = ModelSpec((1, 12), 3)
    model = CNN(spec, generator=torch.Generator().manual_seed(0)).double()
    problem = make_problem(model, "cross_entropy")
    x = torch.randn(16, 1, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = Batch(x, torch.arange(16) % 3, torch.arange(16))
    _, grads = problem.gradient(batch)
    row = row_of(problem, batch, grads, -1e-5)
    for layer in row["layers"].values():
        assert layer["alignment"] == pytest.approx(1.0, abs=1e-9)
        assert 0 < layer["alignment_high"] < 1
    assert row["layers"]["blocks.0"]["dead_fraction"] is not None
    assert row["values"]["backward_slope"] is not None
