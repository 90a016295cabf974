"""Echo state network: the recurrent weights stay as they were drawn, and ridge regression finds the readout."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from altprop import Algorithm, Batch, Capability, Grads, Oracle, Problem, StepResult, check_number
from altprop.algorithms.recurrent.traces import refuse_others
from altprop.testing import set_up, toy_sequence


class Reservoir(Algorithm):
    """Run the sequences forward, sum up the moments of their states, and regress the targets on the states so far.

    With z = [h_t, 1] of the N valid times so far that have a target y (a class as its one-hot vector), after each batch

        (1/N sum z z^T + ridge diag(1, ..., 1, 0)) [W, b]^T = 1/N sum z y^T.

    From the end of the first epoch on that is the regression on all training sequences. In the first step the recurrent
    weights of each gate are scaled to a spectral radius, and nothing else of the cell changes: it is what a rule must
    beat that claims to learn recurrence. The readout minimises squared errors; under cross-entropy
    its outputs are scores for the classes and no log-probabilities, so that accuracy is meaningful and the loss is not.

    Args:
        spectral_radius: largest absolute eigenvalue of each gate's recurrent weights; None leaves them as they are.
        ridge: penalty on W, in units of the mean square of a state's value; at least 0.

    Raises:
        AltpropError: for values outside these.
        Refused: for a model that is no cell with a readout, and under noise.

    Paper: Jaeger, The "echo state" approach to analysing and training recurrent neural networks, GMD report 148, 2001.
    His reservoirs are sparse and far wider (`model.hidden`), and he drops the first times, where states still depend on
    the start; here sequences begin at the start state and all times count.
    """

    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.RECURRENT, Capability.SUPERVISED})
    state = ("gram", "cross", "number", "begun")
    trains_model = True

    def __init__(self, spectral_radius: float | None = 0.9, ridge: float = 1e-4) -> None:
        radius = spectral_radius
        self.spectral_radius = None if radius is None else check_number(radius, "algorithm.spectral_radius", above=0.0)
        self.ridge = check_number(ridge, "algorithm.ridge", 0.0)

        self.gram: Tensor
        self.cross: Tensor
        self.number: Tensor

    def _setup(self, problem: Problem) -> None:
        refuse_others(problem, "a reservoir")
        first, size = problem.params["readout.weight"].detach(), problem.model.cell.width + 1
        self.gram, self.cross = first.new_zeros(size, size), first.new_zeros(size, problem.spec.outputs)
        self.number, self.begun = first.new_zeros(()), False

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        problem = self.problem
        if not self.begun and self.spectral_radius is not None:
            self._scale(self.spectral_radius)
        self.begun = True
        states = problem.unroll(batch, problem.model.initial_state(batch.rows), 0, batch.inputs.shape[0])
        seen = (states if batch.per_step else states[-1])[..., : problem.model.cell.width]
        with torch.no_grad(), problem.ledger.work("moments", per="example", examples=batch.rows):
            gram, cross, number = moments(seen, batch, problem.spec.outputs)
        self.gram, self.cross, self.number = self.gram + gram, self.cross + cross, self.number + number
        with torch.no_grad(), problem.ledger.work("ridge regression", per="call"):
            divisor = self.number.clamp(min=1)
            found = solved(self.gram / divisor, self.cross / divisor, self.ridge)
        self._assign({"readout.weight": found[:-1].mT, "readout.bias": found[-1]})
        return StepResult()

    def _scale(self, radius: float) -> None:
        """Scale the recurrent weights, which is no update of a learner's."""
        name, problem = "cell.weight_state", self.problem
        with problem.ledger.work("spectral radius", per="call"):
            weight = scaled(problem.params[name].detach(), radius)
        self._assign({name: weight}, update=False)

    def _assign(self, some: Grads, *, update: bool = True) -> None:
        """Write some of the parameters."""
        problem = self.problem
        every = {name: p.detach() for name, p in problem.params.items()}
        problem.assign(problem.flatten({**every, **some}), update=update)

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        return (
            Oracle("gradient of the penalised objective in the readout is 0", partial(_slope, 0.1, 0.1), 1e-12),
            Oracle("not at half the ridge", partial(_slope, 0.1, 0.05), 1e-3, differs=True),
            Oracle("the cell is as it was drawn", partial(_moved, "cell."), 0.0),
            Oracle("not the readout", partial(_moved, "readout."), 1e-2, differs=True),
        )


def scaled(weight: Tensor, radius: float) -> Tensor:
    """Return weights (G W, W) with a spectral radius in each gate; weights of 0 stay so."""
    gates = weight.reshape(-1, weight.shape[1], weight.shape[1])
    largest = torch.linalg.eigvals(gates).abs().amax(-1)[:, None, None]
    return (gates * torch.where(largest > 0, radius / largest, 1.0)).reshape(weight.shape)


def moments(seen: Tensor, batch: Batch, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return sum z z^T (W + 1, W + 1), sum z y^T (W + 1, C) and the number () over the targets that count.

    Args:
        seen: (B, W) or (T, B, W), of the states.
        batch: whose targets and masks.
        outputs: C.
    """
    targets = batch.targets
    if not targets.is_floating_point():
        targets = functional.one_hot(targets, outputs).to(seen.dtype)
    counts = torch.ones_like(seen[..., 0]) if batch.weights is None else batch.weights.expand(seen.shape[:-1])
    counts = counts.to(seen.dtype)[..., None]
    z = torch.cat([seen, torch.ones_like(seen[..., :1])], -1)
    # What does not count may hold anything, NaN too.
    y = torch.where(counts > 0, targets, 0.0).flatten(0, -2)
    z = (z * counts).flatten(0, -2)
    return z.mT @ z, z.mT @ y, counts.sum()


def solved(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """Return [W, b]^T (W + 1, C); where the moments are singular, what has the least norm but for rounding."""
    size = gram.diagonal()[:-1].mean()
    penalty = torch.full_like(cross[:, 0], ridge) * size
    penalty[-1] = 0.0
    # Units that do not differ on any sequence leave nothing to solve by: a trace of the largest moment holds them.
    floor = torch.finfo(gram.dtype).eps * len(gram) * gram.diagonal().amax()
    found: Tensor = torch.linalg.solve(gram + torch.diag(penalty + floor), cross)
    return found


def _slope(ridge: float, claimed: float) -> float:
    """Return |d/dW (objective + claimed/2 |W|^2)| over |d objective/dW|, at the solution under a ridge."""
    problem, batch = toy_sequence("rnn", steps=9, rows=20, lengths=[9, 4] * 10, per_step=True)
    set_up(Reservoir(ridge=ridge), problem).step(batch)
    states = problem.unroll(batch, problem.model.initial_state(20), 0, 9)
    assert batch.mask is not None
    size = float(states[batch.mask].square().mean())
    gradient = problem.gradient(batch)[1]
    weight, slope = problem.params["readout.weight"].detach(), gradient["readout.weight"]
    return float((slope + claimed * size * weight).norm() / slope.norm() + gradient["readout.bias"].norm())


def _moved(prefix: str) -> float:
    """Return the largest change of a parameter of the cell or of the readout."""
    problem, batch = toy_sequence("gru")
    before = {name: p.detach().clone() for name, p in problem.params.items()}
    set_up(Reservoir(spectral_radius=None), problem).step(batch)
    return max(float((p.detach() - before[n]).abs().max()) for n, p in problem.params.items() if n.startswith(prefix))
