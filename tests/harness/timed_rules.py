"""Learners whose steps take a known time of a clock that they move themselves."""

import torch
from torch import Tensor

from altprop.algorithm import Algorithm, StepResult
from altprop.data import Batch
from altprop.problem import Problem


class FakeTime:
    """CPU and wall seconds, and what a test makes learners do."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0
        self.raising = False
        self.order: list[str] = []

    def pass_by(self, seconds: float, idle: float = 0.0) -> None:
        self.cpu += seconds
        self.wall += seconds + idle


TIME = FakeTime()


class _Timed(Algorithm):
    """Abstract: works for `work` ms a step, half of it in a forward pass, and sleeps for `idle` ms."""

    work = 1.0
    idle = 0.0
    growth = 0.0
    state = ("count",)

    def _setup(self, problem: Problem) -> None:
        self.count = 0
        TIME.pass_by(50.0)  # what is built is never timed

    def _step(self, batch: Batch | None) -> Tensor | StepResult:
        assert batch is not None
        ledger = self.problem.ledger
        TIME.order.append(type(self).__name__)
        self.count += 1
        cost = (self.work + self.growth * self.count) / 1000
        if ledger._mode is not None and ledger.auditing:
            TIME.pass_by(10.0)  # an audit costs far more than a step
        with ledger.primitive("forward", batch.rows):
            TIME.pass_by(cost / 4)
            with ledger.primitive("hvp", batch.rows):
                TIME.pass_by(cost / 4)
            TIME.pass_by(cost / 4)
        TIME.pass_by(cost / 4, self.idle / 1000)
        return StepResult(loss=torch.tensor(1.0, device="cpu"), done=self._over())

    def _over(self) -> bool:
        return False


class Single(_Timed):
    pass


class Triple(_Timed):
    work = 3.0


class Sleeper(_Timed):
    idle = 9.0


class Slow(_Timed):
    work = 250.0


class Grows(_Timed):
    growth = 0.1


class Finishes(_Timed):
    def _over(self) -> bool:
        return self.count == 25


class Breaks(_Timed):
    def _step(self, batch: Batch | None) -> Tensor | StepResult:
        if TIME.raising and self.count == 15:
            raise RuntimeError("boom <b>bold</b>")
        return super()._step(batch)


class Fails(_Timed):
    def _step(self, batch: Batch | None) -> Tensor | StepResult:
        raise RuntimeError("it never ran")
