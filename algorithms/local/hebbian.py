"""Hebbian learning: hidden layers learn from what they are given and what they answer; a readout learns the labels."""

from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from altprop import (
    Batch,
    Block,
    Capability,
    DirectionAlgorithm,
    Grads,
    OptimizerFactory,
    Oracle,
    Problem,
    Refused,
    check_name,
    check_number,
    check_whole,
)
from altprop.algorithms.local.layers import chain, hidden_blocks, local_gradient, parameters_of
from altprop.testing import cosine, relative_error, set_up, sgd, toy

RULES = ("softhebb", "oja", "sanger", "krotov_hopfield")


class Hebbian(DirectionAlgorithm):
    r"""Move the weights of hidden layers by local plasticity, without labels; train the output layer by its gradient.

    With x what a hidden layer is given, u = W x without the bias, and y what its units answer, the mean over the rows
    of the batch, and over the positions of a feature map, of

        softhebb         dw_k = y_k (x - u_k w_k),    y = softmax(u / temperature) over the units,
        oja              dw_k = u_k (x - u_k w_k),
        sanger           dw_k = u_k (x - sum over j <= k of u_j w_j),
        krotov_hopfield  dw_k = g_k (x - u_k w_k),    g = 1 for the largest u, -delta for the one of the rank, else 0,

    is the way in which W goes: the optimizer gets minus it. Oja's rule turns every unit to the first principal axis of
    the (uncentred) inputs, Sanger's turns unit k to the k-th; both keep the length at 1. In SoftHebb's competition
    the units share the inputs among them, as a mixture model does; where the temperature is above the differences of u,
    all of them learn the mean input. In Krotov and Hopfield's the winner goes to what it won, to length 1, and whoever
    came close goes away from it, so that units do not settle on the same inputs. It
    needs weights that start longer than 1, as its authors' N(0, 1) are (`model.initialisation=unit_normal`): whoever
    wins gets shorter and leaves the field to others. From shorter ones, on inputs of one sign, one unit wins all rows
    and the rest are driven to where they never answer (digits, one layer of 64: accuracy .10 in place of .88).
    Biases stay as they were drawn. The next layer is given f(W x + b). Labels reach the output layer alone, which
    descends the task's loss.

    Args:
        optimizer: of the plasticity and of the output layer; directions are no gradients, so closures are refused.
        rule: softhebb, oja, sanger or krotov_hopfield.
        temperature: of softhebb's competition, in units of u.
        rank: place of the unit that krotov_hopfield moves away, 2 for the second largest u.
        delta: how far it goes, as a share of the winner's step; 0 for a competition without.

    Raises:
        AltpropError: for an unknown name, a temperature that is not positive, a rank below 2, or a negative delta.
        Refused: at set-up for a model without hidden layers, with parameters that are no weight or bias, or with a
            layer of fewer units than the rank.

    Papers: Oja 1982, A simplified neuron model as a principal component analyzer; Sanger 1989, Optimal unsupervised
    learning in a single-layer linear feedforward neural network; Moraitis, Toichkin, Journe, Chua and Guo 2022,
    SoftHebb: Bayesian inference in unsupervised Hebbian soft winner-take-all networks (arXiv:2107.05747); Krotov and
    Hopfield 2019, Unsupervised learning by competing hidden units (PNAS 116:7723), here at their p = 2, where the
    product that decides the competition is the plain one, and without their division of a step by its largest entry,
    for which the optimizer stands. In the deep
    version of Journe et al. 2023 (arXiv:2209.11883) losers learn with -y, and rates fall as lengths near their goal.
    The optimizer stands for such rates here, and with -y a loser longer than 1 that answers positively would grow
    without bound; so that is left out. They train layer by layer, then the readout; here all learn at once.
    """

    requires = frozenset({Capability.LAYERED, Capability.CHAIN, Capability.SUPERVISED})
    exempt = MappingProxyType(
        {"changes_nothing_without_an_error": "hidden layers learn from their inputs, with an error or without"}
    )

    def __init__(
        self,
        optimizer: OptimizerFactory,
        rule: str = "softhebb",
        temperature: float = 0.05,
        rank: int = 2,
        delta: float = 0.4,
    ) -> None:
        super().__init__(optimizer)
        self.rule = check_name(rule, "algorithm.rule", RULES)
        self.temperature = check_number(temperature, "algorithm.temperature", above=0.0)
        self.rank = check_whole(rank, "algorithm.rank", 2)
        self.delta = check_number(delta, "algorithm.delta", low=0.0)

    def _prepare(self, problem: Problem) -> None:
        narrow = min(block.weight.shape[0] for block in hidden_blocks(problem, "hebbian"))
        if self.rule == "krotov_hopfield" and narrow < self.rank:
            raise Refused(f"no unit has rank {self.rank} in a layer of {narrow}; use algorithm.rank={narrow} or less")
        covered = {id(p) for block in chain(problem) for p in (block.weight, block.bias)}
        left = [name for name, p in problem.params.items() if id(p) not in covered]
        if left:
            raise Refused(
                f"hebbian teaches weights and an output layer, not {left[0]}; "
                "use model.normalisation=none and a dropout without parameters"
            )

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        problem, x, direction = self.problem, batch.inputs, Grads()
        *hidden, last = chain(problem)
        for index, block in enumerate(hidden):
            z, back = problem.pull(block.transform, x, {"weight": block.weight})
            u = z - block.bias.detach().reshape(-1, *[1] * (z.dim() - 2))
            y = self._answer(u)
            count = u.numel() / u.shape[1]
            grown = back(y, inputs=False).parameters["weight"]
            direction[f"blocks.{index}.weight"] = (self._forgotten(block, y, u) - grown) / count
            direction[f"blocks.{index}.bias"] = torch.zeros_like(block.bias)
            with torch.no_grad():
                x = block.respond(z)
        loss = partial(problem.output_loss, batch=batch)
        value, _, found = local_gradient(problem, last, x, loss, parameters_of(problem, last))
        return value, direction | found

    def _answer(self, u: Tensor) -> Tensor:
        """Return what stands before x in a rule's formula, a number a unit, in the shape of u, (rows, K, ...)."""
        if self.rule == "softhebb":
            return (u / self.temperature).softmax(1)
        if self.rule != "krotov_hopfield":
            return u
        first = u.topk(self.rank, 1).indices
        won = torch.zeros_like(u).scatter(1, first[:, :1], 1.0)
        return won.scatter(1, first[:, -1:], -self.delta)

    def _forgotten(self, block: Block, y: Tensor, u: Tensor) -> Tensor:
        """Return what keeps the weights bounded, summed over rows and positions, shaped like them."""
        weight, ledger = block.weight.detach(), self.problem.ledger
        if self.rule != "sanger":
            each = (y * u).transpose(0, 1).flatten(1).sum(1)
            return each.reshape(-1, *[1] * (weight.dim() - 1)) * weight
        units = u.transpose(0, 1).flatten(1)
        with ledger.work("correlations", per="example", examples=u.shape[0]):
            together = (units @ units.mT).tril()
        with ledger.work("weights of the units before", per="call"):
            return (together @ weight.flatten(1)).reshape(weight.shape)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check the formulas, where Oja's and Sanger's rules end, and that no label and no layer above has a say."""
        return (
            Oracle("softhebb as the formula says", partial(_off, 0.05), 1e-14),
            Oracle("not at another temperature", partial(_off, 1.0), 0.05, differs=True),
            Oracle("krotov_hopfield as the formula says", partial(_off, 0.4, "krotov_hopfield"), 1e-14),
            Oracle("not with another delta", partial(_off, 0.3, "krotov_hopfield"), 0.05, differs=True),
            Oracle("krotov_hopfield: off the mean of what a unit won, at length 1", partial(_off_means, 0.0), 1e-9),
            Oracle("not so where others are driven away", partial(_off_means, 0.4), 0.1, differs=True),
            Oracle("oja: 1 - |cosine| with the first axis", partial(_from_axes, "oja", 1), 1e-6),
            Oracle("sanger: 1 - |cosine| with the first axes in order", partial(_from_axes, "sanger", 3), 1e-6),
            Oracle("not oja's", partial(_from_axes, "oja", 3), 0.5, differs=True),
            Oracle("oja: length off 1", partial(_length, "oja"), 1e-6),
            Oracle("sanger: length off 1", partial(_length, "sanger"), 1e-6),
            Oracle("labels do not change hidden updates", partial(_by_labels, "blocks.0.weight"), 0.0),
            Oracle("not that of the output layer", partial(_by_labels, "blocks.3.weight"), 0.05, differs=True),
            Oracle("a layer above does not change the update below", partial(_influence, 1, 0), 0.0),
            Oracle("not that of the layer itself", partial(_influence, 1, 1), 0.01, differs=True),
            Oracle("output layer's gradient is backprop's", _output_layer, 1e-15),
        )


def _ready(rule: str = "softhebb") -> tuple[Hebbian, Batch]:
    problem, batch = toy((5, 7, 6, 4, 3))
    return set_up(Hebbian(sgd(), rule), problem), batch


def _off(number: float, name: str = "softhebb") -> float:
    """Return the relative error of a competition against its formula at a temperature or delta, row after row."""
    rule, batch = _ready(name)
    expected, x = Grads(), batch.inputs
    for index, block in enumerate(chain(rule.problem)[:-1]):
        weight = block.weight.detach()
        total = torch.zeros_like(weight)
        for row in x:
            u = weight @ row
            y = (u / number).softmax(0) if name == "softhebb" else _won(u, number)
            total -= torch.stack([y[k] * (row - u[k] * weight[k]) for k in range(len(u))])
        expected[f"blocks.{index}.weight"] = total / len(x)
        x = block(x).detach()
    return relative_error(rule.direction(batch)[1], expected)


def _won(u: Tensor, delta: float) -> Tensor:
    """Return 1 for the largest of K answers, -delta for the next, else 0."""
    second, first = u.argsort()[-2:].tolist()
    return torch.tensor([1.0 if k == first else -delta if k == second else 0.0 for k in range(len(u))], dtype=u.dtype)


def _off_means(delta: float) -> float:
    """Return how far units are off the unit vectors of three clusters' means, after 300 steps on those."""
    problem, batch = toy((6, 3, 2), rows=30, activation="identity")
    means = torch.linalg.qr(problem.random.normal(6, 6)).Q[:3]
    batch.inputs.copy_(means.repeat_interleave(10, 0) + 0.1 * batch.inputs)
    block = chain(problem)[0]
    block.weight.data.copy_(0.5 * means + 0.1 * block.weight.detach())
    learner = set_up(Hebbian(sgd(1.0), "krotov_hopfield", delta=delta), problem)
    for _ in range(300):
        learner.step(batch)
    true = torch.stack([rows.mean(0) for rows in batch.inputs.split(10)])
    return relative_error({"w": block.weight.detach()}, {"w": true / true.norm(dim=1, keepdim=True)})


def _trained(rule: str, units: int) -> tuple[Tensor, Tensor]:
    """Return the weights (K, 5) after 1,000 steps on fixed data, and the principal axes of those, (5, 5), in rows."""
    problem, batch = toy((5, units, 3), rows=50, activation="identity")
    scales = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.2], dtype=torch.float64, device="cpu")
    mixed = torch.linalg.qr(problem.random.normal(5, 5)).Q
    batch.inputs.copy_(torch.linalg.qr(batch.inputs).Q * 50**0.5 * scales @ mixed)
    learner = set_up(Hebbian(sgd(0.05), rule), problem)
    for _ in range(1000):
        learner.step(batch)
    return chain(problem)[0].weight.detach(), mixed


def _from_axes(rule: str, units: int) -> float:
    """Return the largest 1 - |cosine| between a unit's weights and the principal axis of its place."""
    weight, axes = _trained(rule, units)
    return max(1 - abs(cosine(row, axis)) for row, axis in zip(weight, axes, strict=False))


def _length(rule: str) -> float:
    return float((_trained(rule, 3)[0].norm(dim=1) - 1).abs().max())


def _by_labels(name: str) -> float:
    """Return the relative change of a direction where the labels are others."""
    rule, batch = _ready()
    first = rule.direction(batch)[1][name]
    batch.targets.copy_((batch.targets + 1) % 3)
    return relative_error({name: rule.direction(batch)[1][name]}, {name: first})


def _influence(changed: int, seen: int) -> float:
    """Return the relative change of one block's direction where the weights of another, or its own, are changed."""
    found = []
    for factor in (1.0, 1.5):
        rule, batch = _ready()
        chain(rule.problem)[changed].weight.data[::2] *= factor
        name = f"blocks.{seen}.weight"
        found.append({name: rule.direction(batch)[1][name]})
    return relative_error(found[1], found[0])


def _output_layer() -> float:
    rule, batch = _ready()
    reference = rule.problem.gradient(batch)[1]
    last = {name: value for name, value in reference.items() if name.startswith("blocks.3.")}
    return relative_error(rule.direction(batch)[1], last)
