"""A planted circuit of one qubit: the parameter-shift rule, one shift a gate occurrence, is the analytic gradient."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from altprop import Algorithm, Batch, CircuitModel, Gate, ModelSpec, OptimizerFactory, Problem
from altprop.capabilities import Capability
from altprop.errors import AltpropError, Refused
from altprop.testing import make_problem, set_up, sgd, toy


class OneQubit(CircuitModel):
    """RY(a) RX(b) RY(x) RY(a) on |0>, and the expectation of Z; `a` turns two gates."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = ModelSpec((1,), 1)
        self.angles = torch.nn.Parameter(torch.tensor([0.4, 0.0], dtype=torch.float64))

    def gates(self) -> tuple[Gate, ...]:
        return Gate("angles", 0), Gate("angles", 1), Gate("angles", 0)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return <Z>, (B, 1); without RX it is cos(2 a + x)."""
        state = torch.zeros(len(inputs), 2, dtype=torch.complex128)
        state[:, 0] = 1
        state = _turned(state, self.angle(0), -1.0)
        state = _turned(state, self.angle(1), -1.0j, -1.0j)
        state = _turned(state, inputs[:, 0], -1.0)
        state = _turned(state, self.angle(2), -1.0)
        return (state[:, :1].abs().square() - state[:, 1:].abs().square()).double()


def _turned(state: Tensor, angle: Tensor, up: complex, down: complex = 1.0) -> Tensor:
    """Apply [[cos, up sin], [down sin, cos]] of half the angle: RY with (-1, 1), RX with (-i, -i)."""
    c, s = (angle / 2).cos(), (angle / 2).sin()
    return torch.stack([c * state[:, 0] + up * s * state[:, 1], down * s * state[:, 0] + c * state[:, 1]], 1)


class Declared(OneQubit):
    """Runs on a device, and says what a run costs; the product that stands for it here has a cost of its own."""

    flops_per_run: ClassVar[float | None] = 250.0

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) @ torch.eye(1, dtype=torch.float64)


class ParameterShift(Algorithm):
    """Mitarai et al. 2018: df / d angle = (f(angle + pi / 2) - f(angle - pi / 2)) / 2, summed over occurrences."""

    requires = frozenset({Capability.CIRCUIT})
    state = ("updater",)

    def __init__(self, optimizer: OptimizerFactory) -> None:
        self.optimizer = optimizer

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self.optimizer)

    def gradient(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        problem = self.problem
        outputs = problem.circuit(batch)
        slope = problem.output_gradient(outputs, batch)
        found = {name: torch.zeros_like(p).flatten() for name, p in problem.params.items()}
        for place, gate in enumerate(problem.model.gates()):
            up, down = (problem.circuit(batch, place, shift) for shift in (math.pi / 2, -math.pi / 2))
            found[gate.parameter][gate.element] += (slope * (up - down) / 2).sum()
        shaped = {name: found[name].reshape(p.shape) for name, p in problem.params.items()}
        return problem.output_loss(outputs, batch), shaped

    def _step(self, batch: Batch | None) -> Tensor:
        assert batch is not None
        loss, grads = self.gradient(batch)
        self.updater.apply(grads)
        return loss


def made(model: OneQubit | None = None) -> tuple[Problem, Batch]:
    problem = make_problem(OneQubit() if model is None else model, "half_squared_error", offers=frozenset())
    inputs = torch.linspace(-1, 2, 5, dtype=torch.float64)[:, None]
    return problem, Batch(inputs, inputs.sin(), torch.arange(5))


def test_the_circuit_is_its_closed_form() -> None:
    problem, batch = made()
    assert torch.allclose(problem.circuit(batch), (0.8 + batch.inputs).cos(), rtol=0, atol=1e-14)
    assert torch.allclose(problem.circuit(batch, 2, 0.3), (1.1 + batch.inputs).cos(), rtol=0, atol=1e-14)
    assert torch.allclose(problem.circuit(batch), (0.8 + batch.inputs).cos(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("turn", [0.0, 0.9])
def test_parameter_shift_is_the_gradient(turn: float) -> None:
    problem, batch = made()
    problem.assign(torch.tensor([0.4, turn], dtype=torch.float64))
    loss, grads = set_up(ParameterShift(sgd()), problem).gradient(batch)
    value, exact = problem.gradient(batch)
    assert abs(float(loss - value)) <= 1e-14
    assert float((grads["angles"] - exact["angles"]).norm()) <= 1e-12 * float(exact["angles"].norm())


def test_a_shift_of_the_parameter_is_no_shift_of_its_gates() -> None:
    """Shifting both gates of `a` at once gives cos(2 a + x + pi) - cos(2 a + x - pi) = 0, and no gradient."""
    problem, batch = made()
    values = []
    for shift in (math.pi / 2, -math.pi / 2):
        problem.assign(torch.tensor([0.4 + shift, 0.0], dtype=torch.float64))
        values.append(problem.circuit(batch))
    assert float((values[0] - values[1]).abs().max()) <= 1e-14


def test_runs_are_counted_at_what_the_model_declares() -> None:
    problem, batch = made(Declared())
    learner = set_up(ParameterShift(sgd()), problem)
    for _ in range(5):
        learner.step(batch)
    ledger = problem.ledger
    runs = 1 + 2 * 3
    assert ledger.calls("circuit") == 5 * runs
    assert ledger.flops_by_kind()["circuit"] == 5 * runs * 5 * 250.0
    assert ledger.residual == 0
    with problem.evaluating():
        problem.circuit(batch)
    assert ledger.calls("circuit") == 5 * runs


def test_what_is_no_circuit_is_refused() -> None:
    with pytest.raises(Refused, match="a quantum circuit"):
        set_up(ParameterShift(sgd()), toy()[0])
    problem, batch = made()
    with pytest.raises(AltpropError, match="gate 3 is not there: the circuit has 3"):
        problem.circuit(batch, 3, 1.0)
