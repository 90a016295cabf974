"""Synthetic gradients: every hidden layer learns at once, from what a module of its own predicts the gradient to be."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from altprop import (
    Batch,
    Capability,
    DirectionAlgorithm,
    Grads,
    OptimizerFactory,
    Oracle,
    Problem,
    check_whole,
)
from altprop.algorithms.local.layers import add, chain, hidden_blocks, output_shapes, parameters_of, shares
from altprop.testing import against_backprop, relative_error, set_up, sgd, toy

TAPS = 3
"""Length of a module's filters on feature maps, which keep their size."""


class GradientModule(nn.Module):
    """A net M of ReLU layers that predicts the gradient in a layer's output from that output, and begins at 0.

    On a feature map its layers are convolutions, and a label is a constant map.

    Args:
        shape: of a layer's output for one example.
        label: values that are told beside it, 0 for none.
        depth: hidden layers of M, of as many units (or channels) as the output has.
        problem: whose stream draws the weights, uniform between -1 and 1 over the root of their inputs; those of the
            last layer and all biases start at 0.
    """

    def __init__(self, shape: tuple[int, ...], label: int, depth: int, problem: Problem) -> None:
        super().__init__()
        units, taps = shape[0], [TAPS] * (len(shape) - 1)
        sizes = [units + label, *[units] * (depth + 1)]
        like = next(problem.model.parameters()).detach()
        weights = []
        for inputs, outputs in pairwise(sizes[:-1]):
            bound = 1 / math.sqrt(inputs * math.prod(taps))
            weights.append(problem.random.uniform(outputs, inputs, *taps, low=-bound, high=bound))
        weights.append(like.new_zeros(units, sizes[-2], *taps))
        self.weights = nn.ParameterList([nn.Parameter(weight) for weight in weights])
        self.biases = nn.ParameterList([nn.Parameter(like.new_zeros(units)) for _ in weights])

    def forward(self, h: Tensor, label: Tensor | None) -> Tensor:
        """Return M(h, label), shaped like h, (B, n) or (B, K, ...), for labels (B, C) or None."""
        apply = (functional.linear, partial(functional.conv1d, padding=1), partial(functional.conv2d, padding=1))
        layer = apply[h.dim() - 2]
        if label is not None:
            label = label.reshape(*label.shape, *[1] * (h.dim() - 2))
            h = torch.cat([h, label.expand(*label.shape[:2], *h.shape[2:])], 1)
        last = len(self.weights) - 1
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = layer(h, weight, bias)
            h = h if place == last else h.relu()
        return h


class SyntheticGradients(DirectionAlgorithm):
    r"""Let a module beside every hidden layer predict the gradient in its output, and the layer learn from that.

    With h_l = f_l(h_(l-1)), (B, n_l), the output of layer l, L_i the loss of a row and y_i its label, the module M_l
    predicts dL_i/dh_l from h_l (and the label, where `labels`), and the layers l < L descend

        dW_l = mean over rows of  M_l(h_l, y)^T df_l(h_(l-1))/dW_l,

    before the layers above have run; the output layer has the gradient of the loss. A module learns from what the
    layer above finds at the same weights: its own prediction, or the loss, taken back through it once,

        T_l = M_(l+1)(h_(l+1), y) df_(l+1)(h_l)/dh_l,    T_(L-1) = dL_i/dh_(L-1),
        the module's loss = mean over rows and units of (M_l(h_l, y) - T_l)^2,    T_l held fixed,

    so that no error goes further than one layer in a step, and the true gradient reaches layer l through L - l
    modules, one after another, each bootstrapped on the one above. No update of a layer waits for the layers above, and
    none uses their weights; the targets of the modules do: each goes through the transposed weights of one layer.
    The modules' passes, forth and back, are counted among the blocks'.

    Where every T_l is a linear function of h_l and y (linear layers and squared error), linear modules that see the
    label can be exact, and the rule is backpropagation; modules that do not see it predict the mean over the labels.

    Args:
        optimizer: of the model and, with a state of its own, of the modules; directions are no gradients, so closures
            are refused.
        labels: whether modules are told the label, a class as its one-hot code (cDNI), beside the layer's output.
        depth: hidden layers of each module; 0 for linear ones.

    Raises:
        AltpropError: for a depth below 0.
        Refused: at set-up for a model without hidden layers.

    Paper: Jaderberg et al. 2017, Decoupled neural interfaces using synthetic gradients (arXiv:1608.05343): feed-forward
    nets, every layer decoupled, DNI and cDNI. There modules have up to two hidden layers of 1024 batch-normalised
    units, or 128 filters of 5x5; here they are as wide as the layer. They predict the gradient of a row's own loss,
    whatever the batch. Layers and modules learn in one step: the asynchronous schedules of the paper save time where
    layers run on machines of their own, and not here.
    """

    requires = frozenset({Capability.GRADIENT, Capability.LAYERED, Capability.CHAIN, Capability.SUPERVISED})
    state = ("modules", "module_updater")

    def __init__(self, optimizer: OptimizerFactory, labels: bool = True, depth: int = 0) -> None:
        super().__init__(optimizer)
        self.labels = bool(labels)
        self.depth = check_whole(depth, "algorithm.depth", 0)

    def _prepare(self, problem: Problem) -> None:
        shapes = output_shapes(problem, hidden_blocks(problem, "synthetic gradients"))
        label = problem.spec.outputs if self.labels else 0
        self.modules = nn.ModuleList([GradientModule(shape, label, self.depth, problem) for shape in shapes])
        self.module_updater = problem.updater(self._optimizer, self.modules, direction="other")
        self._slopes: Grads = {}

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        loss, direction, self._slopes = self.gradients(batch)
        return loss, direction

    def _update(self, direction: Grads) -> None:
        slopes, self._slopes = self._slopes, {}
        self.module_updater.apply(slopes)
        self.updater.apply(direction)

    def gradients(self, batch: Batch) -> tuple[Tensor, Grads, Grads]:
        """Return the loss, and what the layers and the modules descend, by their names in the model and in `modules`.

        Layers run and learn in order: no more than one of them and the modules at its two ends is kept at a time. All
        that is carried is a row's gradient times what the row weighs in the mean over the batch.
        """
        problem, blocks = self.problem, chain(self.problem)
        label, weights, x = self._label(batch), shares(problem, batch), batch.inputs
        direction: Grads = {}
        slopes: Grads = {}
        learn: Callable[[Tensor], Grads] | None = None
        for place, block in enumerate(blocks):
            h, back = problem.pull(block, x, parameters_of(problem, block))
            if place < len(self.modules):
                signal, learn_next = self._predicted(place, h, label, weights)
            else:
                signal, learn_next = problem.output_gradient(h, batch), None
            found = back(signal, inputs=learn is not None)
            add(direction, found.parameters)
            if learn is not None and found.inputs is not None:
                slopes |= learn(found.inputs)
            x, learn = h, learn_next
        return problem.output_loss(x, batch), direction, slopes

    def _predicted(
        self, place: int, h: Tensor, label: Tensor | None, weights: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], Grads]]:
        """Return what a module predicts, and target -> the gradient of its loss, by the names in `modules`."""
        module = self.modules[place]
        told, back = self.problem.pull(partial(module, label=label), h, dict(module.named_parameters()))
        told = told * weights.reshape(-1, *[1] * (h.dim() - 1))

        def learn(target: Tensor) -> Grads:
            own = back(2 / h[0].numel() * (told - target), inputs=False).parameters
            return {f"{place}.{name}": value for name, value in own.items()}

        return told, learn

    def _label(self, batch: Batch) -> Tensor | None:
        """Return what modules are told of the targets, (B, C); 0 of a row whose target may not be used."""
        if not self.labels:
            return None
        label = batch.targets
        if not label.is_floating_point():
            label = functional.one_hot(label, self.problem.spec.outputs).to(batch.inputs.dtype)
        label = label.reshape(batch.rows, -1)
        return label if batch.weights is None else torch.where(batch.weights[:, None] > 0, label, 0.0)

    def _probe(self, batch: Batch) -> Mapping[str, Tensor | float]:
        """Return what share of the true gradient in the hidden outputs the modules do not predict."""
        problem = self.problem
        walk = problem.walk(batch)
        signal = problem.divisor(batch) * problem.output_gradient(walk.outputs, batch)
        missed, whole = torch.zeros_like(signal[0, 0]), torch.zeros_like(signal[0, 0])
        label, outputs = self._label(batch), walk.block_outputs
        with torch.no_grad():
            for place in reversed(range(len(self.modules))):
                signal = walk.send(place + 1, walk.delta(place + 1, signal))
                missed = missed + (self.modules[place](outputs[place], label) - signal).square().sum()
                whole = whole + signal.square().sum()
        return {"unpredicted": (missed / whole).sqrt()}

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that exact modules give backprop and stay, what modules learn from, and that layers are decoupled."""
        return (
            Oracle("linear net, exact modules: backprop", lambda: _with_exact_modules()[0], 1e-12),
            Oracle("and these have nothing to learn", lambda: _with_exact_modules()[1], 1e-12),
            Oracle("not in a tanh net", lambda: _with_exact_modules("tanh")[0], 0.05, differs=True),
            Oracle("where they have something to learn", lambda: _with_exact_modules("tanh")[1], 0.01, differs=True),
            Oracle("not without the label", lambda: _with_exact_modules(labels=False)[0], 0.05, differs=True),
            Oracle("layers and modules descend what is written above", _off, 1e-13),
            Oracle("a module's target is not the true gradient", lambda: _off(true=True), 0.05, differs=True),
            Oracle("that of the last one is", lambda: _off((5, 7, 3), true=True), 1e-13),
            Oracle("a layer above does not change the update below", partial(_influence, 1, 0), 0.0),
            Oracle("not that of the layer itself", partial(_influence, 1, 1), 0.01, differs=True),
        )


def _with_exact_modules(activation: str = "identity", labels: bool = True) -> tuple[float, float]:
    """Return the error against backprop, and the largest slope of a module, for modules exact in a linear net.

    With A = W_L .. W_(l+1) and A h + c the outputs, dL_i/dh_l = A^T (A h_l + c - y) for half a squared error.
    """
    problem, batch = toy(activation=activation, loss="half_squared_error")
    rule = set_up(SyntheticGradients(sgd(), labels), problem)
    product, offset = torch.eye(3, dtype=problem.dtype), torch.zeros(3, dtype=problem.dtype)
    for module, block in zip(reversed(rule.modules), reversed(chain(problem)), strict=False):
        offset = offset + product @ block.bias.detach()
        product = product @ block.weight.detach()
        exact = product.T @ torch.cat([product, -torch.eye(3, dtype=problem.dtype)], 1)
        weight, bias = cast("GradientModule", module).weights[0], cast("GradientModule", module).biases[0]
        weight.data.copy_(exact[:, : weight.shape[1]])
        bias.data.copy_(product.T @ offset)
    slopes = rule.gradients(batch)[2]
    return against_backprop(rule, batch), max(float(slope.abs().max()) for slope in slopes.values())


def _ready(sizes: tuple[int, ...] = (5, 7, 6, 4, 3)) -> tuple[SyntheticGradients, Batch]:
    """Return the rule on a tanh net with modules of one hidden layer that predict something."""
    problem, batch = toy(sizes)
    rule = set_up(SyntheticGradients(sgd(), depth=1), problem)
    for p in rule.modules.parameters():
        p.data += problem.random.normal(*p.shape)
    return rule, batch


def _off(sizes: tuple[int, ...] = (5, 7, 6, 4, 3), true: bool = False) -> float:
    """Return the relative error of all gradients against autograd of the losses as written.

    Args:
        sizes: of the net.
        true: whether the claim is that modules learn from the true gradient.
    """
    rule, batch = _ready(sizes)
    _, direction, slopes = rule.gradients(batch)
    problem, blocks = rule.problem, chain(rule.problem)
    label = functional.one_hot(batch.targets, 3).double()
    outputs = [h.requires_grad_() for h in problem.walk(batch).block_outputs[:-1]]
    told = [module(h.detach(), label) for module, h in zip(rule.modules, outputs, strict=True)]
    total = problem.output_loss(blocks[-1](outputs[-1].detach()), batch)
    for block, x, signal in zip(blocks, [batch.inputs, *outputs], told, strict=False):
        total = total + (signal.detach() * block(x.detach())).sum() / batch.rows
    for place, (h, prediction) in enumerate(zip(outputs, told, strict=True)):
        y = blocks[place + 1](h)
        if true:
            for block in blocks[place + 2 :]:
                y = block(y)
        if true or place == len(told) - 1:
            value = batch.rows * problem.output_loss(y, batch)
        else:
            value = (told[place + 1].detach() * y).sum()
        (target,) = torch.autograd.grad(value, h)
        total = total + (prediction - target).square().mean()
    parameters = dict(problem.params) | dict(rule.modules.named_parameters())
    expected = torch.autograd.grad(total, list(parameters.values()))
    return relative_error(direction | slopes, dict(zip(parameters, expected, strict=True)))


def _influence(changed: int, seen: int) -> float:
    """Return the relative change of one block's direction where the weights of another, or its own, are changed."""
    found = []
    for factor in (1.0, 1.5):
        rule, batch = _ready()
        chain(rule.problem)[changed].weight.data[::2] *= factor
        name = f"blocks.{seen}.weight"
        found.append({name: rule.gradients(batch)[1][name]})
    return relative_error(found[1], found[0])
