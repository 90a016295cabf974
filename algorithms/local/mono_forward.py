"""Mono-Forward: every hidden layer is its own classifier, and no error goes from one to the one below."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from altprop import (
    Algorithm,
    Batch,
    Capability,
    Grads,
    OptimizerFactory,
    Oracle,
    Problem,
    StepResult,
    Updater,
    check_name,
)
from altprop.algorithms.local.layers import (
    add,
    chain,
    hidden_blocks,
    local_pass,
    output_shapes,
    parameters_of,
    with_penalty,
)
from altprop.testing import relative_error, set_up, sgd, toy

PREDICTIONS = ("last", "sum")


class MonoForward(Algorithm):
    """Let the goodness of a hidden layer be a score for each class, and train the layer to score the true one highest.

    With h_l = f(W_l h_(l-1) + b_l) on a detached h_(l-1), hidden layer l and its projection M_l, (C, n_l), descend

        the task's loss of G_l = M_l h_l, the layer's goodness of each class.

    The last hidden layer's projection is the model's output layer, with its bias. So the two descend the objective
    itself, and with one hidden layer Mono-Forward is backpropagation; every layer below learns for its own classifier.
    The prediction is the goodness of the last hidden layer, `last`: the model's outputs, or the `sum` over all.

    Args:
        optimizer: of the model and of the projections of the other hidden layers (`projections`).
        prediction: last or sum.

    Raises:
        AltpropError: for an unknown name.
        Refused: at set-up for a model without hidden layers.

    Paper: Gong, Li and Abdulla 2025, Mono-Forward: backpropagation-free algorithm for efficient neural network training
    harnessing local errors (arXiv:2501.09238), with softmax cross-entropy, and both predictions. A feature map is
    projected as a whole.
    """

    requires = frozenset({Capability.GRADIENT, Capability.LAYERED, Capability.CHAIN, Capability.SUPERVISED})
    state = ("updater", "projections", "projection_updater")
    trains_model = True

    updater: Updater

    def __init__(self, optimizer: OptimizerFactory, prediction: str = "last") -> None:
        self._optimizer = optimizer
        self.prediction = check_name(prediction, "algorithm.prediction", PREDICTIONS)

    def _setup(self, problem: Problem) -> None:
        projections = {}
        for index, shape in enumerate(output_shapes(problem, hidden_blocks(problem, "mono_forward"))[:-1]):
            size = math.prod(shape)
            draw = problem.random.uniform(
                problem.spec.outputs, size, low=-1 / math.sqrt(size), high=1 / math.sqrt(size)
            )
            projections[f"projection_{index}"] = nn.Parameter(draw)
        self.projections = nn.ParameterDict(projections)
        self.updater = problem.updater(self._optimizer, direction="other")
        self.projection_updater: Updater | None = None
        if projections:
            self.projection_updater = problem.updater(self._optimizer, self.projections, direction="other")

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        with self.problem.same_noise():
            loss, direction, projections = self.gradients(batch)
            loss, direction = with_penalty(self.problem, loss, direction)
        self.updater.apply(direction)
        if self.projection_updater is not None:
            self.projection_updater.apply(projections)
        return StepResult(loss)

    def gradients(self, batch: Batch) -> tuple[Tensor, Grads, Grads]:
        """Return the task's loss at the output, and what the model's parameters and the projections descend."""
        problem, x = self.problem, batch.inputs
        direction: Grads = {}
        *below, top, last = chain(problem)
        for index, block in enumerate(below):
            own = {f"projection_{index}": self.projections[f"projection_{index}"]}
            project = partial(self.goodness, index)
            scores, x, back = local_pass(problem, block, project, x, parameters_of(problem, block) | own)
            add(direction, back(problem.output_gradient(scores, batch)))
        h, below_top = problem.pull(top, x, parameters_of(problem, top))
        outputs, below_last = problem.pull(last, h, parameters_of(problem, last))
        found = below_last(problem.output_gradient(outputs, batch))
        add(direction, found.parameters)
        add(direction, below_top(found.inputs, inputs=False).parameters)
        projections = {name: direction.pop(name) for name in self.projections}
        return problem.output_loss(outputs, batch), direction, projections

    def goodness(self, index: int, h: Tensor) -> Tensor:
        """Return M h, (B, C), of what a hidden layer but the last gives."""
        return functional.linear(h.flatten(1), self.projections[f"projection_{index}"])

    def _predictor(self) -> Callable[[Tensor], Tensor] | None:
        return self.summed if self.prediction == "sum" else None

    def summed(self, x: Tensor) -> Tensor:
        """Return the goodness of each class, (B, C), summed over the hidden layers."""
        total = x.new_zeros(len(x), self.problem.spec.outputs)
        *below, top, last = chain(self.problem)
        with torch.no_grad():
            for index, block in enumerate(below):
                with self.problem.ledger.primitive("block_forward", len(x)):
                    x = block(x)
                    total = total + self.goodness(index, x)
            for block in (top, last):
                with self.problem.ledger.primitive("block_forward", len(x)):
                    x = block(x)
        return total + x

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that one hidden layer is backpropagation, each layer's gradient, and that none teaches another."""
        return (
            Oracle("one hidden layer: backprop", partial(_against_backprop, (5, 7, 3)), 1e-15),
            Oracle("not two", partial(_against_backprop, (5, 7, 6, 3)), 0.05, differs=True),
            Oracle("a layer's gradient = autograd of its loss on a detached input", partial(_off, False), 1e-14),
            Oracle("not with the layers attached", partial(_off, True), 0.05, differs=True),
            Oracle("a layer above does not change the update below", partial(_influence, 1, 0), 0.0),
            Oracle("not that of the layer itself", partial(_influence, 1, 1), 0.01, differs=True),
        )


def _ready(sizes: tuple[int, ...] = (5, 7, 6, 4, 3)) -> tuple[MonoForward, Batch]:
    problem, batch = toy(sizes)
    return set_up(MonoForward(sgd()), problem), batch


def _against_backprop(sizes: tuple[int, ...]) -> float:
    rule, batch = _ready(sizes)
    return relative_error(rule.gradients(batch)[1], rule.problem.gradient(batch)[1])


def _off(attached: bool) -> float:
    """Return the relative error of all gradients against autograd of the losses as written, detached or not."""
    rule, batch = _ready()
    _, direction, projections = rule.gradients(batch)
    *below, top, last = chain(rule.problem)
    x, total = batch.inputs, torch.zeros((), dtype=torch.float64, device="cpu")
    for index, block in enumerate(below):
        x = block(x if attached else x.detach())
        total = total + functional.cross_entropy(x @ rule.projections[f"projection_{index}"].T, batch.targets)
    total = total + functional.cross_entropy(last(top(x if attached else x.detach())), batch.targets)
    parameters = dict(rule.problem.params) | dict(rule.projections)
    expected = torch.autograd.grad(total, list(parameters.values()))
    return relative_error(direction | projections, dict(zip(parameters, expected, strict=True)))


def _influence(changed: int, seen: int) -> float:
    """Return the relative change of one block's gradient where the weights of another, or its own, are changed."""
    found = []
    for factor in (1.0, 1.5):
        rule, batch = _ready()
        chain(rule.problem)[changed].weight.data[::2] *= factor
        name = f"blocks.{seen}.weight"
        found.append({name: rule.gradients(batch)[1][name]})
    return relative_error(found[1], found[0])
