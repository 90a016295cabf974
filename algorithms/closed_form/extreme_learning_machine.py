"""Extreme learning machine: hidden layers stay as they were drawn, and ridge regression finds the readout at once."""

from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional

from altprop import (
    Algorithm,
    Batch,
    BatchMode,
    Block,
    Capability,
    Oracle,
    Problem,
    Refused,
    StepResult,
    check_number,
)
from altprop.testing import set_up, toy


class ExtremeLearningMachine(Algorithm):
    """Regress the targets on what the random hidden layers make of the training set, once; then nothing is left to do.

    With z = [h, 1] of the N rows, h the output of the last hidden layer, and y their targets (a class as its one-hot
    code), the last block gets

        (1/N sum z z^T + ridge s diag(1, ..., 1, 0)) [W, b]^T = 1/N sum z y^T,    s the mean square of a value of h.

    It is the control `frozen_features` with its minimum found in one step: no hidden layer learns, no gradient is
    taken, and no optimizer. The readout minimises squared errors; under cross-entropy its outputs are scores for the
    classes and no log-probabilities, so that accuracy is meaningful and the loss is not.

    Args:
        ridge: penalty on W, in units of the mean square of a hidden value; at least 0.

    Raises:
        AltpropError: for a ridge below 0.
        Refused: at set-up for a model without hidden layers, under noise and under batch normalisation.

    Paper: Huang, Zhu and Siew 2006, Extreme learning machine: theory and applications, Neurocomputing 70. They have one
    hidden layer and the pseudo-inverse, which is the limit of no ridge; here hidden layers are the model's, and as it
    initialises them. As many units as rows give no error on the training set, which is their theorem.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.LAYERED, Capability.CHAIN, Capability.SUPERVISED})
    batch = BatchMode.FULL
    trains_model = True

    def __init__(self, ridge: float = 1e-3) -> None:
        self.ridge = check_number(ridge, "algorithm.ridge", 0.0)

    def _setup(self, problem: Problem) -> None:
        *self._hidden, self._last = (cast("Block", block) for block in problem.layered.blocks)
        if not self._hidden:
            raise Refused(
                "an extreme learning machine has random hidden layers, and this model has none; use model=mlp"
            )
        if problem.uncounted.noise is not None:
            raise Refused("an extreme learning machine sees each row once, so noise has no mean; use dropout=none")
        problem.refuse_batch_norm("random features of a row alone")

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem, h = self.problem, batch.inputs
        with torch.no_grad():
            for block in self._hidden:
                with problem.ledger.primitive("block_forward", batch.rows):
                    h = block(h)
            with problem.ledger.work("moments", per="example", examples=batch.rows):
                gram, cross = moments(h.flatten(1), batch, problem.spec.outputs)
            with problem.ledger.work("ridge regression", per="call"):
                found = solved(gram, cross, self.ridge)
        last = {id(self._last.weight): found[:-1].mT, id(self._last.bias): found[-1]}
        values = {name: last.get(id(p), p.detach()) for name, p in problem.params.items()}
        problem.assign(problem.flatten(values))
        return StepResult(done=True)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check that the readout is the minimum, that nothing else moves, and Huang's theorem."""
        return (
            Oracle("gradient of the penalised objective in the readout is 0", partial(_slope, 0.1, 0.1), 1e-12),
            Oracle("not at half the ridge", partial(_slope, 0.1, 0.05), 1e-3, differs=True),
            Oracle("as many units as rows: no error", partial(_misfit, 8), 1e-8),
            Oracle("not with fewer", partial(_misfit, 4), 1e-3, differs=True),
            Oracle("hidden layers are as they were drawn", partial(_moved, ("blocks.0", "blocks.1")), 0.0),
            Oracle("not the readout", partial(_moved, ("blocks.2",)), 1e-2, differs=True),
        )


def moments(h: Tensor, batch: Batch, outputs: int) -> tuple[Tensor, Tensor]:
    """Return the means over the rows that count of z z^T, (n + 1, n + 1), and of z y^T, (n + 1, C).

    Args:
        h: (B, n), outputs of the last hidden layer.
        batch: whose targets and weights.
        outputs: C.
    """
    y = batch.targets
    if not y.is_floating_point():
        y = functional.one_hot(y, outputs).to(h.dtype)
    y, z = y.reshape(len(h), outputs), torch.cat([h, torch.ones_like(h[:, :1])], 1)
    if batch.weights is None:
        return z.mT @ z / len(h), z.mT @ y / len(h)
    weights = batch.weights.to(h.dtype)[:, None]
    shared = z * weights / weights.sum().clamp(min=1)
    # What does not count may hold anything, NaN too.
    return shared.mT @ z, shared.mT @ torch.where(weights > 0, y, 0.0)


def solved(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """Return [W, b]^T (n + 1, C); where the moments are singular, what has the least norm but for rounding."""
    penalty = torch.full_like(cross[:, 0], ridge) * gram.diagonal()[:-1].mean()
    penalty[-1] = 0.0
    # Units that do not differ on any row leave nothing to solve by: a trace of the largest moment holds them.
    floor = torch.finfo(gram.dtype).eps * len(gram) * gram.diagonal().amax()
    found: Tensor = torch.linalg.solve(gram + torch.diag(penalty + floor), cross)
    return found


def _solved(ridge: float, sizes: tuple[int, ...]) -> tuple[Problem, Batch]:
    """Return a problem whose readout has been solved for, and its batch."""
    problem, batch = toy(sizes, loss="half_squared_error")
    set_up(ExtremeLearningMachine(ridge), problem).step(batch)
    return problem, batch


def _slope(ridge: float, claimed: float) -> float:
    """Return |d/dW (objective + claimed s/2 |W|^2)| over |d objective/dW|, at the solution under a ridge."""
    problem, batch = _solved(ridge, (5, 7, 6, 3))
    slope = problem.gradient(batch)[1]
    weight = problem.params["blocks.2.weight"].detach()
    size = float(problem.walk(batch).block_outputs[1].square().mean())
    off = (slope["blocks.2.weight"] + claimed * size * weight).norm() + slope["blocks.2.bias"].norm()
    return float(off / slope["blocks.2.weight"].norm())


def _misfit(units: int) -> float:
    """Return the objective on eight rows, solved for without a ridge."""
    problem, batch = _solved(0.0, (5, units, 3))
    return float(problem.objective(batch))


def _moved(prefixes: tuple[str, ...]) -> float:
    """Return the largest change of a parameter whose name begins so."""
    problem, batch = toy()
    before = {name: p.detach().clone() for name, p in problem.params.items()}
    set_up(ExtremeLearningMachine(), problem).step(batch)
    return max(float((p - before[n]).detach().abs().max()) for n, p in problem.params.items() if n.startswith(prefixes))
