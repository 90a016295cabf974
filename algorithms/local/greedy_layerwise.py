"""Greedy layer-wise training: one layer after the other learns under a classifier of its own, and then stands still."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from altprop import Algorithm, Batch, Capability, Grads, OptimizerFactory, Oracle, Problem, StepResult, Updater
from altprop.algorithms.local.layers import (
    chain,
    hidden_blocks,
    local_pass,
    output_shapes,
    parameters_of,
    with_penalty,
)
from altprop.testing import relative_error, set_up, sgd, toy


class GreedyLayerwise(Algorithm):
    r"""Train the layers in turn, each by the task's loss of a linear classifier on its own output.

    A model of H hidden layers has H stages, each an equal share of the budget. In stage l layer l and its classifier
    A_l, a_l descend

        the task's loss of A_l h_l + a_l,    h_l = f(W_l h_(l-1) + b_l),

    while the layers below, which had their stage, and those above, which wait for theirs, stay as they are. The
    classifier of the last hidden layer is the model's output layer; the others (`heads`) begin at 0. Predictions are
    those of the classifier of the present stage, so that a run that ends early predicts with what it has trained. No
    step goes further back than through one hidden layer; with one it is backpropagation.

    Args:
        optimizer: of each layer and of its classifier; every stage begins with a fresh one.

    Raises:
        Refused: at set-up for a model without hidden layers.

    Papers: Bengio, Lamblin, Popovici and Larochelle 2007, Greedy layer-wise training of deep networks, section 5 (its
    supervised variant, there of use as an initialisation only); Belilovsky, Eickenberg and Oyallon 2019,
    arXiv:1812.11446, who train convolutional nets so, with classifiers of up to three layers; here they have one. All
    layers at once with the same losses is `local_losses` with loss=pred.
    """

    requires = frozenset({Capability.GRADIENT, Capability.LAYERED, Capability.CHAIN, Capability.SUPERVISED})
    state = ("updaters", "heads", "head_updaters")

    updaters: list[Updater]
    head_updaters: list[Updater]

    def __init__(self, optimizer: OptimizerFactory) -> None:
        self._optimizer = optimizer

    def _setup(self, problem: Problem) -> None:
        shapes = output_shapes(problem, hidden_blocks(problem, "greedy_layerwise")[:-1])
        like, outputs = next(problem.model.parameters()).detach(), problem.spec.outputs
        self.heads = nn.ModuleList(
            nn.ParameterDict({"weight": like.new_zeros(outputs, math.prod(shape)), "bias": like.new_zeros(outputs)})
            for shape in shapes
        )
        self.updaters = [problem.updater(self._optimizer, block, direction="other") for block in chain(problem)]
        self.head_updaters = [problem.updater(self._optimizer, head, direction="other") for head in self.heads]

    @property
    def stage(self) -> int:
        """Index of the hidden layer that learns."""
        stages = len(self.heads) + 1
        return min(int(self.problem.progress * stages), stages - 1)

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        stage = self.stage
        with self.problem.same_noise():
            loss, direction, head = self.gradients(batch, stage)
        self.updaters[stage].apply(direction)
        classifier = self.updaters[-1] if stage == len(self.heads) else self.head_updaters[stage]
        classifier.apply(head)
        return StepResult(loss, {"stage": float(stage)})

    def gradients(self, batch: Batch, stage: int) -> tuple[Tensor, Grads, Grads]:
        """Return the loss of a stage, and what its layer and its classifier descend, by their own names."""
        problem, blocks, x = self.problem, chain(self.problem), batch.inputs
        with torch.no_grad():
            for block in blocks[:stage]:
                with problem.ledger.primitive("block_forward", batch.rows):
                    x = block(x)
        block, last = blocks[stage], stage == len(self.heads)
        own = parameters_of(problem, block) | (parameters_of(problem, blocks[-1]) if last else {})
        heads = {} if last else {f"head.{name}": p for name, p in self.heads[stage].named_parameters()}
        told, _, back = local_pass(problem, block, partial(self._told, stage), x, own | heads)
        found = back(problem.output_gradient(told, batch))
        value, direction = with_penalty(problem, problem.output_loss(told, batch), {name: found[name] for name in own})
        ids = {id(p): direction[name] for name, p in own.items()}
        ids |= {id(p): found[name] for name, p in heads.items()}
        classifier: nn.Module = blocks[-1] if last else self.heads[stage]
        layer, head = ({n: ids[id(p)] for n, p in m.named_parameters() if id(p) in ids} for m in (block, classifier))
        return value, layer, head

    def _told(self, stage: int, h: Tensor) -> Tensor:
        """Return the outputs of a stage's classifier, (B, C)."""
        if stage == len(self.heads):
            outputs: Tensor = chain(self.problem)[-1](h)
            return outputs
        head = dict(self.heads[stage].named_parameters())
        return functional.linear(h.flatten(1), head["weight"], head["bias"])

    def _predictor(self) -> Callable[[Tensor], Tensor] | None:
        return None if self.stage == len(self.heads) else self._predict

    def _predict(self, inputs: Tensor) -> Tensor:
        """Return the outputs (B, C) of the classifier of the present stage."""
        x, stage = inputs, self.stage
        for block in chain(self.problem)[: stage + 1]:
            x = block(x)
        return self._told(stage, x)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check the gradients of every stage against autograd, and which parameters a step moves in which stage."""
        return (
            *(
                Oracle(f"stage {stage + 1}: its gradient = autograd of its loss", partial(_off, stage), 1e-14)
                for stage in range(3)
            ),
            Oracle("not that of the whole net", partial(_off, 0, whole=True), 0.1, differs=True),
            Oracle("one hidden layer: backprop's gradient", _shallow, 1e-14),
            *(
                Oracle(
                    f"at {progress:.0%} of the budget layer {turn + 1} moves alone",
                    partial(_moved, progress, turn),
                    0.0,
                )
                for turn, progress in enumerate((0.0, 0.34, 1.0))
            ),
            Oracle("not another layer", partial(_moved, 0.34, 2), 1e-4, differs=True),
        )


def _ready(*hidden: int) -> tuple[GreedyLayerwise, Batch]:
    problem, batch = toy((5, *(hidden or (7, 6, 4)), 3))
    rule = set_up(GreedyLayerwise(sgd()), problem)
    for p in rule.heads.parameters():
        p.data += problem.random.normal(*p.shape)
    return rule, batch


def _off(stage: int, whole: bool = False) -> float:
    """Return the relative error of a stage's gradients against autograd of its loss, or of the whole net's."""
    rule, batch = _ready()
    _, layer, head = rule.gradients(batch, stage)
    blocks, x = chain(rule.problem), batch.inputs
    for block in blocks[:-1] if whole else blocks[: stage + 1]:
        x = block(x)
    last = whole or stage == len(rule.heads)
    classifier: nn.Module = blocks[-1] if last else rule.heads[stage]
    head_of = dict(classifier.named_parameters())
    told = blocks[-1](x) if last else functional.linear(x, head_of["weight"], head_of["bias"])
    wanted = {f"layer.{name}": p for name, p in blocks[stage].named_parameters()}
    wanted |= {} if whole else {f"head.{name}": p for name, p in head_of.items()}
    slopes = torch.autograd.grad(functional.cross_entropy(told, batch.targets), list(wanted.values()))
    found = {f"layer.{name}": value for name, value in layer.items()}
    found |= {} if whole else {f"head.{name}": value for name, value in head.items()}
    return relative_error(found, dict(zip(wanted, slopes, strict=True)))


def _shallow() -> float:
    """Return the relative error against the gradient of the loss, of a net with one hidden layer."""
    rule, batch = _ready(7)
    _, layer, head = rule.gradients(batch, 0)
    found = {f"blocks.0.{name}": value for name, value in layer.items()}
    found |= {f"blocks.1.{name}": value for name, value in head.items()}
    return relative_error(found, rule.problem.gradient(batch)[1])


def _moved(progress: float, turn: int) -> float:
    """Return by how much three steps move the layers but one; 1 where they do not move that one.

    In the last stage, two layers: the last hidden one and the output layer.
    """
    rule, batch = _ready()
    rule.problem.progress = progress
    before = [p.detach().clone() for p in rule.problem.model.parameters()]
    for _ in range(3):
        rule.step(batch)
    pairs = zip(rule.problem.model.parameters(), before, strict=True)
    moves = [float((p.detach() - old).abs().max()) for p, old in pairs]
    end = 2 * turn + (4 if rule.stage == len(rule.heads) else 2)
    return max(moves[: 2 * turn] + moves[end:], default=0.0) if min(moves[2 * turn : end]) > 0 else 1.0
