"""Learners that misbehave, each in one way, and small honest ones."""

import ctypes
import os
import sys
import time

import numpy as np
import torch
from torch import Tensor

from altprop.algorithm import Algorithm, StepResult
from altprop.capabilities import Capability
from altprop.data import Batch
from altprop.optim import OptimizerFactory
from altprop.problem import Problem


class Honest(Algorithm):
    """Backprop in the fewest lines."""

    requires = frozenset({Capability.GRADIENT})
    state = ("updater",)

    def __init__(self, optimizer: OptimizerFactory) -> None:
        self.optimizer = optimizer

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self.optimizer)

    def _step(self, batch: Batch | None) -> Tensor | StepResult:
        assert batch is not None
        loss, grads = self.problem.gradient(batch)
        self.updater.apply(grads)
        return loss


class AlsoHonest(Algorithm):
    """Half the gradient, so that it is another learner."""

    requires = frozenset({Capability.GRADIENT})
    state = ("updater",)

    def __init__(self, optimizer: OptimizerFactory) -> None:
        self.optimizer = optimizer

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self.optimizer)

    def _step(self, batch: Batch | None) -> Tensor | StepResult:
        assert batch is not None
        loss, grads = self.problem.gradient(batch)
        self.updater.apply({name: 0.5 * grad for name, grad in grads.items()})
        return loss


class _Faulty(Algorithm):
    """Abstract: misbehaves at step 7."""

    def _setup(self, problem: Problem) -> None:
        self.count = 0

    def _step(self, batch: Batch | None) -> Tensor | StepResult:
        if self.problem.ledger.steps == 7:
            self._misbehave()
        return StepResult(loss=torch.tensor(1.0, device="cpu"))

    def _misbehave(self) -> None:
        """Do it."""


class Raises(_Faulty):
    def _misbehave(self) -> None:
        raise RuntimeError("boom <b>bold</b>")


class CallsExit(_Faulty):
    def _misbehave(self) -> None:
        sys.exit(3)


class LeavesHard(_Faulty):
    def _misbehave(self) -> None:
        os._exit(9)


class Segfaults(_Faulty):
    def _misbehave(self) -> None:
        ctypes.string_at(0)


class Hangs(_Faulty):
    def _misbehave(self) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            pass


class RunsOut(_Faulty):
    def _misbehave(self) -> None:
        raise MemoryError("no memory is left")


class Grows(_Faulty):
    def _misbehave(self) -> None:
        kept = [torch.ones(2**20, device="cpu") for _ in range(2000)]  # 8 GB, 4 MB at a time
        raise AssertionError(f"{len(kept)} tensors fitted")


class ReturnsNaN(_Faulty):
    def _step(self, batch: Batch | None) -> Tensor | StepResult:
        bad = self.problem.ledger.steps == 7
        return StepResult(loss=torch.tensor(float("nan") if bad else 1.0, device="cpu"))


class PoisonsAParameter(_Faulty):
    def _misbehave(self) -> None:
        with torch.no_grad():
            next(iter(self.problem.params.values())).view(-1)[0] = float("nan")


class FactorisesASingularMatrix(_Faulty):
    def _misbehave(self) -> None:
        torch.linalg.cholesky(torch.zeros(2, 2, device="cpu"))


class InvertsASingularArray(_Faulty):
    def _misbehave(self) -> None:
        np.linalg.inv(np.zeros((2, 2)))


class FactorisesNaN(PoisonsAParameter):
    def _misbehave(self) -> None:
        super()._misbehave()
        torch.linalg.cholesky(torch.full((2, 2), float("nan"), device="cpu"))


class Explodes(_Faulty):
    def _misbehave(self) -> None:
        with torch.no_grad():
            for p in self.problem.params.values():
                p.mul_(1e4)


class NamesLateWork(Honest):
    """It does work of its own from the tenth step on, a product a call."""

    def _step(self, batch: Batch | None) -> Tensor | StepResult:
        if self.problem.ledger.steps >= 9:
            with self.problem.ledger.work("late", per="call"):
                weight = next(iter(self.problem.params.values())).detach()
                weight @ weight.T
        return super()._step(batch)
