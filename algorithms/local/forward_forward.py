"""The forward-forward algorithm: each layer tells examples with their own label from such with another one."""

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
    check_number,
)
from altprop.algorithms.local.layers import (
    add,
    chain,
    hidden_blocks,
    local_gradient,
    output_shapes,
    parameters_of,
    shares,
    with_penalty,
)
from altprop.testing import monte_carlo, relative_error, set_up, sgd, toy

NEGATIVES = ("hard", "uniform")
PREDICTIONS = ("goodness", "readout")
LAYERS = ("all", "upper")


class ForwardForward(Algorithm):
    r"""Let the activity of every hidden layer be high for true pairs of input and label, and low for false ones.

    A pair (x, t), t (B, C) one-hot, enters the first layer; each layer hands its direction on and keeps its length:

        y_1 = f(W_1 x + V t + b_1),    y_l = f(W_l n_(l-1) + b_l),    n_l = y_l / root mean square of y_l.

    With n_l units the goodness is `G_l = sum of y_l^2`, and `sigmoid(G_l - theta n_l)` is the layer's probability that
    the pair is true. Layer l descends its own loss on a detached input, for the label y of the row (+) and a wrong one
    (-), with `theta` the argument `threshold`:

        1/2 mean over rows of [softplus(theta n_l - G_l^+) + softplus(G_l^- - theta n_l)].

    A wrong label is never the true one. With `negatives=hard` it is drawn with the probabilities that a softmax readout
    gives the wrong classes, in a pass with the neutral label 1/C; so what is drawn, alone, depends on the layers above.
    The readout is the model's last block on n of the last hidden layer, and a linear map of each n_l between it and the
    first layer; it learns by its own gradient and teaches no layer below.

    A prediction is made in one of two ways:

        goodness    the class whose label gives the largest sum of G_l - theta n_l over the hidden `layers`: C passes.
        readout     the readout's outputs, in one pass with the neutral label.

    A step makes a positive and a negative pass and, for hard negatives or the readout, a neutral one; each is counted.

    Args:
        optimizer: of the model and of V and the readout's further maps (`own`).
        threshold: theta, the goodness of a unit at which a pair is as likely true as false.
        negatives: hard or uniform.
        prediction: goodness or readout.
        layers: whose goodness predicts, all, or upper: all but the first, where there are more.

    Raises:
        AltpropError: for unknown names or a threshold that is not positive.
        Refused: at set-up for a model without hidden layers, or with batch normalisation.

    Paper: Hinton 2022, The forward-forward algorithm: some preliminary investigations (arXiv:2212.13345), section 3.3.
    He writes the label over the first ten pixels, which are black in MNIST; here it has weights V of its own, for other
    inputs have no pixels to spare. His threshold is the number of units, theta = 1, which small and convolutional nets
    take long to reach, and the upper layers predict; with two narrow layers the last one alone is often wrong where
    their sum is right. His peer normalisation, which keeps units from falling silent, is left out. Some codes draw
    negatives from a shuffled batch, where a tenth carries the true label.
    """

    requires = frozenset(
        {Capability.GRADIENT, Capability.LAYERED, Capability.CHAIN, Capability.SUPERVISED, Capability.CLASSES}
    )
    state = ("updater", "own", "own_updater")
    trains_model = True

    updater: Updater

    def __init__(
        self,
        optimizer: OptimizerFactory,
        threshold: float = 0.3,
        negatives: str = "hard",
        prediction: str = "goodness",
        layers: str = "all",
    ) -> None:
        self._optimizer = optimizer
        self.threshold = check_number(threshold, "algorithm.threshold", above=0.0)
        self.negatives = check_name(negatives, "algorithm.negatives", NEGATIVES)
        self.prediction = check_name(prediction, "algorithm.prediction", PREDICTIONS)
        self.layers = check_name(layers, "algorithm.layers", LAYERS)

    def _setup(self, problem: Problem) -> None:
        problem.refuse_batch_norm("goodnesses of single examples")
        hidden = hidden_blocks(problem, "forward_forward")
        classes, units = problem.spec.outputs, hidden[0].weight.shape[0]
        bound = 1 / math.sqrt(classes)
        own = {"label": problem.random.uniform(units, classes, low=-bound, high=bound)}
        for index, shape in enumerate(output_shapes(problem, hidden)[1:-1], 1):
            own[f"readout_{index}"] = hidden[0].weight.detach().new_zeros(classes, math.prod(shape))
        self.own = nn.ParameterDict({name: nn.Parameter(value) for name, value in own.items()})
        self.updater = problem.updater(self._optimizer, direction="other")
        self.own_updater = problem.updater(self._optimizer, self.own, direction="other")

    @property
    def reads_out(self) -> bool:
        """Whether there is a readout to learn: for negatives, or for predictions."""
        return self.negatives == "hard" or self.prediction == "readout"

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        with problem.same_noise():
            loss, direction, own = self.gradients(batch)
            loss, direction = with_penalty(problem, loss, direction)
        self.updater.apply(direction)
        self.own_updater.apply(own)
        return StepResult(scalars={"local_loss": loss})

    def gradients(self, batch: Batch) -> tuple[Tensor, Grads, Grads]:
        """Return the sum of the hidden layers' losses, and what the model's parameters and `own` descend."""
        direction: Grads = {}
        logits = self._read_out(batch, direction) if self.reads_out else None
        wrong = self.wrong_labels(batch, logits)
        total = batch.inputs.new_zeros(())
        weights = shares(self.problem, batch) / 2
        for labels, sign in ((batch.targets, 1.0), (wrong, -1.0)):
            total = total + self._contrast(batch.inputs, labels, partial(self._loss, sign, weights), direction)
        own = {name: direction.pop(name) for name in self.own if name in direction}
        return total, direction, own

    def _contrast(self, x: Tensor, labels: Tensor, loss: Callable[[Tensor], Tensor], into: Grads) -> Tensor:
        """Run pairs through the hidden layers; add each layer's gradient to `into` and return the sum of the losses."""
        total, label = x.new_zeros(()), one_hot(labels, self.problem.spec.outputs, x.dtype)
        for index, block in enumerate(chain(self.problem)[:-1]):
            layer = partial(self._layer, index, label=label)
            parameters = parameters_of(self.problem, block)
            if index == 0:
                parameters["label"] = self.own["label"]
            value, y, found = local_gradient(self.problem, layer, x, loss, parameters)
            add(into, found)
            total, x = total + value, normalised(y)
        return total

    def _layer(self, index: int, x: Tensor, label: Tensor) -> Tensor:
        """Return y_l, shaped like the output of the block; the label (B, C) enters the first."""
        block = chain(self.problem)[index]
        z = block.transform(x)
        if index == 0:
            z = z + (label @ self.own["label"].T).reshape(*z.shape[:2], *[1] * (z.dim() - 2))
        return block.respond(z)

    def _loss(self, sign: float, weights: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a layer on true pairs (sign 1) or false ones (-1), a scalar."""
        return (weights * functional.softplus(-sign * self._log_odds(y))).sum()

    def _log_odds(self, y: Tensor) -> Tensor:
        """Return G - theta n, (B,), the log odds that a pair is true."""
        return goodness(y) - self.threshold * y[0].numel()

    def wrong_labels(self, batch: Batch, logits: Tensor | None) -> Tensor:
        """Draw a label (B,) for each row that is not its own, by the readout's outputs (B, C) where they are wanted."""
        classes = self.problem.spec.outputs
        if self.negatives == "uniform" or logits is None:
            logits = batch.inputs.new_zeros(batch.rows, classes)
        own = one_hot(batch.targets, classes, torch.bool)
        # The mask comes before the softmax: a readout that is sure leaves something for the others.
        wrong = logits.detach().masked_fill(own, -math.inf).softmax(1)
        return self.problem.random.multinomial(wrong, 1)[:, 0]

    def _passes(self, x: Tensor, label: Tensor) -> list[Tensor]:
        """Return y_l of all hidden layers for pairs, without a graph."""
        outputs: list[Tensor] = []
        with torch.no_grad():
            for index in range(len(chain(self.problem)) - 1):
                with self.problem.ledger.primitive("block_forward", len(x)):
                    outputs.append(self._layer(index, x, label))
                x = normalised(outputs[-1])
        return outputs

    def _features(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return n_l of the layers between the first and the last hidden one, (B, n_l), and n of the last."""
        classes = self.problem.spec.outputs
        *middle, last = self._passes(x, x.new_full((len(x), classes), 1 / classes))
        return [normalised(y).flatten(1) for y in middle[1:]], normalised(last)

    def _logits(self, between: list[Tensor], last: Tensor) -> Tensor:
        """Return the readout's outputs, (B, C)."""
        outputs: Tensor = chain(self.problem)[-1](last)
        for index, x in enumerate(between, 1):
            outputs = outputs + x @ self.own[f"readout_{index}"].T
        return outputs

    def _read_out(self, batch: Batch, into: Grads) -> Tensor:
        """Make a neutral pass, add the readout's gradient to `into` and return its outputs."""
        problem = self.problem
        between, last = self._features(batch.inputs)
        parameters = parameters_of(problem, chain(problem)[-1])
        parameters |= {name: p for name, p in self.own.items() if name != "label"}
        loss = partial(problem.output_loss, batch=batch)
        _, logits, found = local_gradient(problem, partial(self._logits, between), last, loss, parameters)
        add(into, found)
        return logits

    def _predictor(self) -> Callable[[Tensor], Tensor]:
        return self.read if self.prediction == "readout" else self.goodness_of_classes

    def read(self, x: Tensor) -> Tensor:
        """Return the readout's outputs (B, C), in one pass."""
        between, last = self._features(x)
        with torch.no_grad(), self.problem.ledger.primitive("block_forward", len(x)):
            return self._logits(between, last)

    def goodness_of_classes(self, x: Tensor) -> Tensor:
        """Return the log odds of the layers, summed, for each class as the label, (B, C), in C passes."""
        classes, columns = self.problem.spec.outputs, []
        for label in torch.eye(classes, dtype=x.dtype, device=x.device):
            passed = self._passes(x, label.expand(len(x), -1))
            if self.layers == "upper":
                passed = passed[1:] or passed
            columns.append(torch.stack([self._log_odds(y) for y in passed]).sum(0))
        return torch.stack(columns, 1)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check each layer's gradient, that no layer teaches another, and what the negatives are."""
        return (
            Oracle("a layer's gradient = autograd of its goodness on a detached input", partial(_off, 0.3), 0.0),
            Oracle("not with another threshold", partial(_off, 0.5), 0.05, differs=True),
            Oracle("a layer above does not change the update below", partial(_influence, 1, 0), 0.0),
            Oracle("not that of the layer itself", partial(_influence, 1, 1), 0.05, differs=True),
            Oracle("not that of the layer above it", partial(_influence, 0, 1), 0.01, differs=True),
            Oracle("a negative never has the true label", partial(_true_labels, "hard"), 0.0),
            Oracle("negatives follow the readout: abs z", partial(_negatives, "hard"), 4.0),
            Oracle("not uniform ones", partial(_negatives, "uniform"), 4.0, differs=True),
        )


def goodness(y: Tensor) -> Tensor:
    """Return the sum of squares (B,) of activities (B, ...).

    >>> goodness(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([25.,  1.])
    """
    return y.flatten(1).square().sum(1)


def normalised(y: Tensor) -> Tensor:
    """Return activities (B, ...) over their root mean square in each example; 0 stays 0.

    >>> normalised(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).square().mean(1)
    tensor([1., 0.])
    """
    rms = y.flatten(1).square().mean(1).sqrt()
    return y / (rms + 1e-8).reshape(-1, *[1] * (y.dim() - 1))


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return 1 at each label (B,) and 0 elsewhere, (B, C)."""
    return (labels[:, None] == torch.arange(classes, device=labels.device)).to(dtype)


def _ready(negatives: str = "uniform") -> tuple[ForwardForward, Batch]:
    problem, batch = toy((5, 7, 6, 4, 3), activation="relu")
    return set_up(ForwardForward(sgd(), negatives=negatives), problem), batch


def _off(threshold: float) -> float:
    """Return the relative error of the hidden layers' gradients against those written out, at a threshold."""
    rule, batch = _ready()
    before = rule.problem.random.state_dict()
    wrong = rule.wrong_labels(batch, None)
    rule.problem.random.load_state_dict(before)
    _, direction, own = rule.gradients(batch)
    *hidden, _ = chain(rule.problem)
    expected: Grads = {}
    for sign, labels in ((1, batch.targets), (-1, wrong)):
        x = batch.inputs
        for index, block in enumerate(hidden):
            wanted = {f"blocks.{index}.weight": block.weight, f"blocks.{index}.bias": block.bias}
            z = functional.linear(x, block.weight, block.bias)
            if index == 0:
                wanted["label"] = rule.own["label"]
                z = z + functional.one_hot(labels, 3).to(x.dtype) @ rule.own["label"].T
            y = z.relu()
            odds = y.square().sum(1) - threshold * y.shape[1]
            loss = (functional.softplus(-sign * odds) / (2 * len(x))).sum()
            for name, value in zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True):
                expected[name] = expected.get(name, 0) + value
            x = normalised(y.detach())
    return relative_error({**direction, **own}, expected)


def _influence(changed: int, seen: int) -> float:
    """Return the relative change of one block's gradient where the weights of another, or its own, are changed."""
    found = []
    for factor in (1.0, 1.5):
        rule, batch = _ready()
        chain(rule.problem)[changed].weight.data[::2] *= factor
        name = f"blocks.{seen}.weight"
        found.append({name: rule.gradients(batch)[1][name]})
    return relative_error(found[1], found[0])


def _true_labels(negatives: str, draws: int = 500) -> float:
    """Return how many of the negatives of a readout that is sure of the truth carry the true label."""
    rule, batch = _ready(negatives)
    sure = 1e3 * one_hot(batch.targets, 3, torch.float64)
    return float(sum(int((rule.wrong_labels(batch, sure) == batch.targets).sum()) for _ in range(draws)))


def _negatives(negatives: str) -> float:
    """Return the abs z-score of how often each label is drawn, against the readout's odds of the wrong ones."""
    rule, batch = _ready(negatives)
    logits = rule.problem.random.normal(8, 3)
    wrong = logits.exp() * (1 - one_hot(batch.targets, 3, torch.float64))
    expected = wrong / wrong.sum(1, keepdim=True)
    return monte_carlo(lambda: one_hot(rule.wrong_labels(batch, logits), 3, torch.float64), expected, 2000)
