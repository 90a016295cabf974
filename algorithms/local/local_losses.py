"""Local losses: a classifier beside every layer, and how alike examples of one class are, in place of an error."""

import math
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
    check_number,
)
from altprop.algorithms.local.layers import (
    add,
    chain,
    hidden_blocks,
    local_gradient,
    local_pass,
    output_shapes,
    parameters_of,
    shares,
    with_penalty,
)
from altprop.testing import relative_error, set_up, sgd, toy

LOSSES = ("predsim", "pred", "sim")


class LocalLosses(Algorithm):
    r"""Train every hidden layer by a loss of its own output, on a detached input; the output layer by the task's loss.

    With h_l = f(W_l h_(l-1) + b_l) for a batch of B examples and t its one-hot targets,

        pred     L_pred = the task's loss of A_l h_l + a_l, outputs of a classifier of the layer's own,
        sim      L_sim = mean over pairs (i, j) of (S(P_l h_l) - S(t))^2_ij, P_l a square matrix, or 3x3 filters,
        predsim  (1 - beta) L_pred + beta L_sim,

    where S is the adjusted cosine similarity: `S(x)_ij` is the cosine of x_i - mean(x_i) and x_j - mean(x_j), with the
    mean over an example's own values. Of a feature map with more than 3 channels S sees each channel's standard
    deviation over the positions. A_l, a_l and P_l (`heads`) learn with the layer, by the same loss. The output layer
    learns by the gradient of the task's loss on the detached last h. No error goes from one layer to another.

    Args:
        optimizer: of the model and of the heads.
        loss: predsim, pred or sim.
        beta: the share of L_sim in predsim, 0 to 1.

    Raises:
        AltpropError: for an unknown name or a share outside 0 to 1.
        Refused: at set-up for a model without hidden layers.

    Paper: Nokland and Eidnes 2019, Training neural networks with local error signals (arXiv:1901.06656). As in their
    code A_l begins at 0, the squared differences are averaged where the paper sums them, and no unsupervised term is
    added. They pool a feature map for A_l where it has more than 4096 values; here it sees the whole. Their blocks have
    batch normalisation (`model.normalisation=batch`).
    """

    requires = frozenset(
        {Capability.GRADIENT, Capability.LAYERED, Capability.CHAIN, Capability.SUPERVISED, Capability.CLASSES}
    )
    state = ("updater", "heads", "head_updater")

    updater: Updater

    def __init__(self, optimizer: OptimizerFactory, loss: str = "predsim", beta: float = 0.99) -> None:
        self._optimizer = optimizer
        self.loss = check_name(loss, "algorithm.loss", LOSSES)
        self.beta = check_number(beta, "algorithm.beta", 0.0, 1.0)

    def _setup(self, problem: Problem) -> None:
        heads: dict[str, Tensor] = {}
        like, outputs = next(problem.model.parameters()).detach(), problem.spec.outputs
        for index, shape in enumerate(output_shapes(problem, hidden_blocks(problem, "local_losses"))):
            if self.loss != "sim":
                heads[f"classifier_{index}"] = like.new_zeros(outputs, math.prod(shape))
                heads[f"bias_{index}"] = like.new_zeros(outputs)
            if self.loss != "pred":
                taps = [3] * (len(shape) - 1)
                bound = 1 / math.sqrt(shape[0] * math.prod(taps))
                heads[f"projection_{index}"] = problem.random.uniform(shape[0], shape[0], *taps, low=-bound, high=bound)
        self.heads = nn.ParameterDict({name: nn.Parameter(value) for name, value in heads.items()})
        self.updater = problem.updater(self._optimizer, direction="other")
        self.head_updater = problem.updater(self._optimizer, self.heads, direction="other")

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        with self.problem.same_noise():
            loss, direction, heads = self.gradients(batch)
            loss, direction = with_penalty(self.problem, loss, direction)
        self.updater.apply(direction)
        self.head_updater.apply(heads)
        return StepResult(loss)

    def gradients(self, batch: Batch) -> tuple[Tensor, Grads, Grads]:
        """Return the task's loss at the output, and what the model's parameters and the heads descend."""
        problem, x = self.problem, batch.inputs
        direction: Grads = {}
        *hidden, last = chain(problem)
        for index, block in enumerate(hidden):
            parameters = parameters_of(problem, block) | self._heads_of(index)
            told, x, back = local_pass(problem, block, partial(self._told, index), x, parameters)
            add(direction, back(self._cotangent(told, batch)))
        loss = partial(problem.output_loss, batch=batch)
        value, _, found = local_gradient(problem, last, x, loss, parameters_of(problem, last))
        add(direction, found)
        heads = {name: direction.pop(name) for name in self.heads}
        return value, direction, heads

    def _heads_of(self, index: int) -> dict[str, Tensor]:
        """Return what the heads of a layer learn."""
        return {name: p for name, p in self.heads.items() if name.endswith(f"_{index}")}

    def _told(self, index: int, h: Tensor) -> Tensor:
        """Return what a layer's losses are of, (B, C), (B, K) or (B, C + K): its classifier's outputs, then P h."""
        told = []
        if self.loss != "sim":
            told.append(functional.linear(h.flatten(1), self.heads[f"classifier_{index}"], self.heads[f"bias_{index}"]))
        if self.loss != "pred":
            told.append(projected(h, self.heads[f"projection_{index}"]))
        return torch.cat(told, 1)

    def _cotangent(self, told: Tensor, batch: Batch) -> Tensor:
        """Return the derivative of a layer's loss in what its heads tell."""
        problem, outputs = self.problem, self.problem.spec.outputs
        if self.loss == "pred":
            return problem.output_gradient(told, batch)
        weights, targets = shares(problem, batch), functional.one_hot(batch.targets, outputs).to(told.dtype)
        seen = told if self.loss == "sim" else told[:, outputs:]
        # The products of all pairs, forth and back: their number is that of the pairs.
        with torch.no_grad(), problem.ledger.work("similarity", per="example", examples=batch.rows**2):
            slope = similarity_gradient(seen, similarity(targets), weights)
        if self.loss == "sim":
            return slope
        return torch.cat([(1 - self.beta) * problem.output_gradient(told[:, :outputs], batch), self.beta * slope], 1)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check each layer's gradient against autograd of its loss, and that no layer teaches another."""
        return (
            *(
                Oracle(
                    f"{loss}: a layer's gradient = autograd of its loss on a detached input", partial(_off, loss), 1e-14
                )
                for loss in LOSSES
            ),
            Oracle("not with another beta", partial(_off, "predsim", 0.5), 0.05, differs=True),
            Oracle("not with the layers attached", partial(_off, "predsim", attached=True), 0.01, differs=True),
            Oracle("a layer above does not change the update below", partial(_influence, 1, 0), 0.0),
            Oracle("not that of the layer itself", partial(_influence, 1, 1), 0.01, differs=True),
            Oracle("output layer's gradient is backprop's", _output_layer, 1e-15),
        )


def projected(h: Tensor, projection: Tensor) -> Tensor:
    """Return P h, (B, K), of activities (B, K) or, of a feature map (B, K, ...), what S sees of the filtered map."""
    if h.dim() == 2:
        return functional.linear(h, projection)
    convolve = functional.conv1d if h.dim() == 3 else functional.conv2d
    z = convolve(h, projection, padding=1)
    return z.flatten(2).std(2) if z.shape[1] > 3 and z[0, 0].numel() > 1 else z.flatten(1)


def similarity(x: Tensor) -> Tensor:
    """Return the adjusted cosine similarity of the rows of x (B, K), (B, B).

    >>> similarity(torch.eye(3)[[0, 0, 1]])
    tensor([[ 1.0000,  1.0000, -0.5000],
            [ 1.0000,  1.0000, -0.5000],
            [-0.5000, -0.5000,  1.0000]])
    """
    unit, _ = centred_units(x)
    return unit @ unit.mT


def centred_units(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row of x (B, K) without its mean, over its length, and that length (B, 1).

    A row of equal values becomes 0. Lengths are at least 1e-4, so that a layer that fell silent has a derivative.
    """
    centred = x - x.mean(1, keepdim=True)
    length = (centred.square().sum(1, keepdim=True) + 1e-8).sqrt()
    return centred / length, length


def similarity_gradient(x: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Return the derivative in x of sum over pairs of w_i w_j (S(x) - wanted)^2_ij, (B, K).

    Args:
        x: (B, K).
        wanted: (B, B), symmetric.
        weights: w (B,), of the rows.
    """
    unit, length = centred_units(x)
    slope = 4 * (weights[:, None] * weights * (unit @ unit.mT - wanted)) @ unit
    # Rows of the slope have the mean 0 already, as those of `unit` do.
    return (slope - unit * (slope * unit).sum(1, keepdim=True)) / length


def _ready(loss: str) -> tuple[LocalLosses, Batch]:
    problem, batch = toy((5, 7, 6, 4, 3))
    rule = set_up(LocalLosses(sgd(), loss, beta=0.8), problem)
    for name, p in rule.heads.items():
        if not name.startswith("projection"):
            p.data += problem.random.normal(*p.shape)
    return rule, batch


def _off(loss: str, beta: float = 0.8, attached: bool = False) -> float:
    """Return the relative error of all gradients against autograd of the losses as written, detached or not."""
    rule, batch = _ready(loss)
    _, direction, heads = rule.gradients(batch)
    *hidden, _ = chain(rule.problem)
    x, total = batch.inputs, torch.zeros((), dtype=torch.float64, device="cpu")
    share = {"pred": 0.0, "sim": 1.0, "predsim": beta}[loss]
    wanted = similarity(functional.one_hot(batch.targets, 3).double())
    for index, block in enumerate(hidden):
        x = block(x if attached else x.detach())
        if loss != "sim":
            logits = x @ rule.heads[f"classifier_{index}"].T + rule.heads[f"bias_{index}"]
            total = total + (1 - share) * functional.cross_entropy(logits, batch.targets)
        if loss != "pred":
            centred = x @ rule.heads[f"projection_{index}"].T
            centred = centred - centred.mean(1, keepdim=True)
            unit = centred / (centred.square().sum(1, keepdim=True) + 1e-8).sqrt()
            total = total + share * (unit @ unit.T - wanted).square().mean()
    parameters = dict(rule.heads) | {n: p for n, p in rule.problem.params.items() if not n.startswith("blocks.3")}
    expected = torch.autograd.grad(total, list(parameters.values()))
    return relative_error(direction | heads, dict(zip(parameters, expected, strict=True)))


def _influence(changed: int, seen: int) -> float:
    """Return the relative change of one block's gradient where the weights of another, or its own, are changed."""
    found = []
    for factor in (1.0, 1.5):
        rule, batch = _ready("predsim")
        chain(rule.problem)[changed].weight.data[::2] *= factor
        name = f"blocks.{seen}.weight"
        found.append({name: rule.gradients(batch)[1][name]})
    return relative_error(found[1], found[0])


def _output_layer() -> float:
    rule, batch = _ready("predsim")
    reference = rule.problem.gradient(batch)[1]
    last = {name: value for name, value in reference.items() if name.startswith("blocks.3.")}
    return relative_error(rule.gradients(batch)[1], last)
