"""Weight normalisation: torch's own, the paper's gradients, and who refuses it."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from altprop.algorithms.dropout.concrete import ConcreteDropout
from altprop.algorithms.feedback.weight_mirror import WeightMirror
from altprop.data import Batch, ModelSpec
from altprop.errors import Refused
from altprop.models.cnn import CNN
from altprop.models.mlp import MLP
from altprop.randomness import generator_for
from altprop.testing import make_problem, set_up, sgd, toy

MODELS = ("mlp", "residual_mlp", "cnn on signals", "cnn on images")


def moved(zoo, name, **options):
    """Return a net under weight normalisation away from where it began, and a batch."""
    model, x = zoo(name, normalisation="weight", **options)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator_for("moved"), dtype=p.dtype))
    problem = make_problem(model, "half_squared_error")
    return problem, Batch(x, torch.randn(7, 3, generator=generator_for("y"), dtype=torch.float64), torch.arange(7))


def test_it_begins_as_the_net_without(zoo, layered):
    model, x = zoo(layered, normalisation="weight")
    plain, _ = zoo(layered)
    # They are made in float32. Seen: 5e-9, and 4e-8 on images.
    assert (model(x) - plain(x)).abs().max() < 1e-6
    if layered != "linear":
        assert len(list(model.parameters())) > len(list(plain.parameters()))
        assert torch.equal(model.blocks[0].weight, plain.blocks[0].weight)


def twin(model):
    """Return the same net of torch's own layers, weights and lengths."""
    layers = []
    for block in model.blocks:
        if hasattr(block, "kernel"):
            kinds = {1: nn.Conv1d, 2: nn.Conv2d}
            layer = kinds[block.dims](*block.weight.shape[1::-1], block.kernel, block.stride, block.padding)
        else:
            layers += [nn.Flatten()]
            layer = nn.Linear(*block.weight.shape[::-1])
        layer = layer.double()
        with torch.no_grad():
            layer.weight.copy_(block.weight)
            layer.bias.copy_(block.bias)
            if block.norm is not None:
                parametrizations.weight_norm(layer)
                lengths = layer.parametrizations.weight.original0
                lengths.copy_(block.norm.weight.reshape(lengths.shape))
        layers += [layer, *([] if block.is_output else [nn.Tanh()])]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("name", ["mlp", "cnn on signals", "cnn on images"])
def test_it_is_torchs(zoo, name):
    problem, batch = moved(zoo, name)
    theirs = twin(problem.model)
    outputs = theirs(batch.inputs)
    # Seen: 4e-16 and 2e-15.
    assert (problem.outputs(batch) - outputs).abs().max() < 1e-13
    (0.5 * (outputs - batch.targets).square().sum(1).mean()).backward()
    ours = problem.gradient(batch)[1]
    layers = [layer for layer in theirs if hasattr(layer, "bias")]
    for index, layer in enumerate(layers):
        found = {n: ours[f"blocks.{index}.{n}"] for n in ("weight", "bias")}
        assert (found["bias"] - layer.bias.grad).abs().max() < 1e-13
        if problem.model.blocks[index].norm is None:
            assert (found["weight"] - layer.weight.grad).abs().max() < 1e-13
            continue
        pair = layer.parametrizations.weight
        assert (found["weight"] - pair.original1.grad).abs().max() < 1e-13
        assert (ours[f"blocks.{index}.norm.weight"] - pair.original0.grad.flatten()).abs().max() < 1e-13


def test_its_gradients_are_the_papers():
    """Equation 3: dg = dW . V / |V|, dV = g / |V| dW - g dg / |V|^2 V, dW that of the net without. Seen: 2e-16."""
    problem, batch = toy((5, 7, 3), normalisation="weight")
    block = problem.model.blocks[0]
    with torch.no_grad():
        block.norm.weight.mul_(1.7)
        block.weight.mul_(0.6)
    plain, _ = toy((5, 7, 3))
    with torch.no_grad():
        plain.model.blocks[0].weight.copy_(block.effective_weight())
    of_w = plain.gradient(batch)[1]["blocks.0.weight"]
    ours = problem.gradient(batch)[1]
    v, g = block.weight.detach(), block.norm.weight.detach()[:, None]
    length = v.norm(dim=1, keepdim=True)
    of_g = (of_w * v).sum(1, keepdim=True) / length
    assert (ours["blocks.0.norm.weight"] - of_g[:, 0]).abs().max() < 1e-14
    assert (ours["blocks.0.weight"] - (g / length * of_w - g * of_g / length**2 * v)).abs().max() < 1e-14
    assert (ours["blocks.0.weight"] * v).sum(1).abs().max() < 1e-14
    assert (of_w * v).sum(1).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_only_the_direction_of_v_counts(zoo, name):
    problem, batch = moved(zoo, name)
    before = problem.outputs(batch).detach()
    with torch.no_grad():
        problem.model.blocks[0].weight.mul_(3.0)
    assert (problem.outputs(batch) - before).abs().max() < 1e-13
    with torch.no_grad():
        problem.model.blocks[0].norm.weight.mul_(3.0)
    assert (problem.outputs(batch) - before).abs().max() > 1e-2


def test_units_without_weights_stay_finite():
    problem, batch = toy(normalisation="weight")
    with torch.no_grad():
        problem.model.blocks[0].weight[0] = 0.0
    loss, grads = problem.gradient(batch)
    assert loss.isfinite()
    assert all(grad.isfinite().all() for grad in grads.values())


def test_lsuv_scales_the_lengths():
    generator = generator_for(0, "parts")
    model = MLP(ModelSpec((20,), 5), [30] * 3, "tanh", "lsuv", "weight", generator=generator).double()
    x = torch.randn(64, 20, generator=generator).double()
    model.scale_outputs(x)
    for block in model.blocks:
        assert float(block.transform(x).detach().std(correction=0)) == pytest.approx(1.0, abs=1e-12)
        x = block(x)


@pytest.mark.parametrize("model", [MLP, CNN])
def test_rules_that_speak_of_a_layers_weight_are_refused(model):
    net = model(ModelSpec((1, 5), 3), [4, 4], normalisation="weight", generator=generator_for(0))
    with pytest.raises(Refused, match="needs a model that is a plain chain of blocks"):
        set_up(WeightMirror(sgd()), make_problem(net, "cross_entropy"))


def test_a_charge_on_weights_that_are_no_parameters_is_refused():
    with pytest.raises(Refused, match=r"made of other parameters; use model\.normalisation=none"):
        toy(noise=ConcreteDropout(), normalisation="weight")
