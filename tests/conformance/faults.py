"""An honest learner, and others that differ from it by one fault each."""

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.datasets import load_iris
from torch import Tensor

from altprop.algorithm import Algorithm, StepResult
from altprop.capabilities import Capability
from altprop.data import Batch
from altprop.direction import DirectionAlgorithm
from altprop.optim import OptimizerFactory
from altprop.oracle import Oracle
from altprop.problem import Grads, Problem
from altprop.tasks.iris import Iris


class _Base(Algorithm):
    """Backprop, with places where a fault can stand."""

    requires = frozenset({Capability.GRADIENT})
    state = ("updater",)
    direction = "gradient"

    def __init__(self, optimizer: OptimizerFactory) -> None:
        self._optimizer = optimizer

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self._optimizer, direction=self.direction)

    def _step(self, batch: Batch | None) -> Tensor | StepResult:
        assert batch is not None
        batch = self._look(batch)
        loss, grads = self.problem.gradient(batch)
        self.updater.apply(self._bend(grads))
        return self._tell(loss, batch)

    def _look(self, batch: Batch) -> Batch:
        return batch

    def _bend(self, grads: Grads) -> Grads:
        return grads

    def _tell(self, loss: Tensor, batch: Batch) -> Tensor | StepResult:
        return loss

    def _scaled(self, grads: Grads, factor: float) -> Grads:
        """So close to 1 that it is still a gradient, and yet another number."""
        return {name: g * (1 + 1e-8 * factor) for name, g in grads.items()}


class Honest(_Base):
    """No fault."""


class HonestUnused(_Base):
    """No fault: it holds aliases of the model and objects that do not change."""

    def _setup(self, problem: Problem) -> None:
        super()._setup(problem)
        self.model, self.blocks = problem.model, list(problem.params.values())
        self.draws, self.table = problem.random, np.ones(3)


class HidesItsDraws(_Base):
    """It keeps what it drew for its seed in an object, where nobody finds it who stacks seeds."""

    direction = "other"

    def _setup(self, problem: Problem) -> None:
        super()._setup(problem)
        self.drawn = SimpleNamespace(factor=problem.random.uniform())

    def _bend(self, grads: Grads) -> Grads:
        return {name: g * self.drawn.factor for name, g in grads.items()}


class DrawsFromTorch(_Base):
    def _bend(self, grads: Grads) -> Grads:
        return self._scaled(grads, float(torch.rand((), device="cpu")))


class DrawsFromNumpy(_Base):
    def _bend(self, grads: Grads) -> Grads:
        return self._scaled(grads, np.random.rand())  # noqa: NPY002


class DrawsFromPython(_Base):
    def _bend(self, grads: Grads) -> Grads:
        return self._scaled(grads, random.random())


class DrawsInVain(_Base):
    def _setup(self, problem: Problem) -> None:
        super()._setup(problem)
        torch.rand((), device="cpu")


class ForgetsACount(_Base):
    def _setup(self, problem: Problem) -> None:
        super()._setup(problem)
        self.count = 0

    def _bend(self, grads: Grads) -> Grads:
        self.count += 1
        return self._scaled(grads, self.count)


class ForgetsInAnObject(_Base):
    class Memory:
        count = 0

    def _setup(self, problem: Problem) -> None:
        super()._setup(problem)
        self.memory = self.Memory()

    def _bend(self, grads: Grads) -> Grads:
        self.memory.count += 1
        return self._scaled(grads, self.memory.count)


class ForgetsItsOptimizer(Algorithm):
    requires = frozenset({Capability.GRADIENT})

    def __init__(self, optimizer: OptimizerFactory) -> None:
        self._optimizer = optimizer

    def _setup(self, problem: Problem) -> None:
        self.updater = problem.updater(self._optimizer)

    def _step(self, batch: Batch | None) -> Tensor:
        assert batch is not None
        loss, grads = self.problem.gradient(batch)
        self.updater.apply(grads)
        return loss


class RemembersEarlierRuns(_Base):
    seen: ClassVar[list[int]] = []

    def _bend(self, grads: Grads) -> Grads:
        self.seen.append(1)
        return self._scaled(grads, len(self.seen) / 10)


class HoldsAParameter(_Base):
    state = ("updater", "weight")

    def _setup(self, problem: Problem) -> None:
        super()._setup(problem)
        self.weight = next(iter(problem.params.values()))


class NamesWhatIsNotThere(_Base):
    state = ("updater", "velocity")


class OpensTheTask(_Base):
    def _setup(self, problem: Problem) -> None:
        super()._setup(problem)
        self.peeked = Iris().data().validation


class PeeksThroughFrames(_Base):
    def _bend(self, grads: Grads) -> Grads:
        frame: Any = sys._getframe()
        while frame is not None and "parts" not in frame.f_locals:
            frame = frame.f_back
        held = None if frame is None else frame.f_locals["parts"].data.validation
        return grads if held is None else self._scaled(grads, float(held.targets.double().mean()))


class LearnsFromTheTest(_Base):
    """Takes rows and labels from where the task has them."""

    direction = "other"

    def _look(self, batch: Batch) -> Batch:
        if batch.targets.is_floating_point() or batch.inputs.shape[-1] != 4 or batch.inputs.dim() != 2:
            return batch
        x, y = load_iris(return_X_y=True)
        inputs = torch.as_tensor((x - x.mean(0)) / x.std(0), dtype=self.problem.dtype, device=self.problem.device)
        whole = torch.arange(len(y), device=self.problem.device)
        return Batch(inputs, torch.as_tensor(y, device=self.problem.device), whole)

    def _tell(self, loss: Tensor, batch: Batch) -> StepResult:
        return StepResult()


class SellsAWrongGradient(_Base):
    def _bend(self, grads: Grads) -> Grads:
        return {name: 1.02 * g if "bias" in name else g for name, g in grads.items()}


class SkipsTheNoiseOfTheInputs(DirectionAlgorithm):
    """Unrolls the bare cell by hand: right without noise, and under noise on states and weights."""

    requires = frozenset({Capability.GRADIENT, Capability.RECURRENT})
    gradient_is_exact = True

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        model = self.problem.model

        def by_hand() -> Tensor:
            h = model.initial_state(batch.rows)
            for x in batch.inputs:
                h = model.cell(x, h)
            return self.problem.output_loss(model.readout(h), batch)

        return self.problem.gradient(batch, loss=by_hand)


class LeavesGrad(_Base):
    def _tell(self, loss: Tensor, batch: Batch) -> Tensor:
        for p in self.problem.params.values():
            p.grad = torch.zeros_like(p)
        return loss


class StopsTraining(_Base):
    def _tell(self, loss: Tensor, batch: Batch) -> Tensor:
        self.problem.model.eval()
        return loss


class LearnsWhilePredicting(_Base):
    def _predictor(self) -> Callable[[Tensor], Tensor]:
        def predict(x: Tensor) -> Tensor:
            with torch.no_grad():
                for p in self.problem.params.values():
                    p.mul_(1 - 1e-9)
            return self.problem.model(x)

        return predict


class SwitchesGradientsOff(_Base):
    def _tell(self, loss: Tensor, batch: Batch) -> Tensor:
        torch.set_grad_enabled(False)
        return loss


class ForgetsADevice(_Base):
    def _bend(self, grads: Grads) -> Grads:
        one = torch.ones(1)
        return {name: g * one for name, g in grads.items()}


class KnowsOnePrecision(_Base):
    def _bend(self, grads: Grads) -> Grads:
        one = torch.ones(1, dtype=torch.float64, device=self.problem.device)
        return {name: g * one for name, g in grads.items()}


class HidesRareWork(_Base):
    def _bend(self, grads: Grads) -> Grads:
        if self.problem.ledger.steps % 5 == 4:
            big = self.problem.random.normal(100, 100)
            big @ big
        return grads


class HidesPeriodicWork(_Base):
    """Once in ten steps, and never in an audited one."""

    def _bend(self, grads: Grads) -> Grads:
        if self.problem.ledger.steps % 10 == 9:
            big = self.problem.random.normal(100, 100)
            big @ big
        return grads


class NamesPeriodicWork(_Base):
    """No fault: the same work with a name, some of it from step 9 on."""

    def _bend(self, grads: Grads) -> Grads:
        ledger, big = self.problem.ledger, self.problem.random.normal(40, 40)
        if ledger.steps % 10 == 9:
            with ledger.work("refresh", per="call"):
                big @ big
        if ledger.steps >= 9:
            with ledger.work("late", per="call"):
                big @ big[0]
        return grads


class HonestAndDone(_Base):
    """No fault: it learns all that it can in two steps, says that it is done, and no third one is asked of it."""

    state = ("updater", "taken")

    def _setup(self, problem: Problem) -> None:
        super()._setup(problem)
        self.taken = 0

    def _step(self, batch: Batch | None) -> StepResult:
        assert batch is not None
        if self.taken == 2:
            raise AssertionError("it was done")
        self.taken += 1
        losses = []
        for _ in range(60):
            loss, grads = self.problem.gradient(batch)
            self.updater.apply(grads)
            losses.append(loss)
        return StepResult(loss=losses[0], done=self.taken == 2)


class HonestGrowth(_Base):
    """No fault: its first layer gains a unit now and then, the first after two steps."""

    state = ("updater", "units")
    not_stacked = "it grows"
    direction = "other"  # the step that grows moves nothing

    def _setup(self, problem: Problem) -> None:
        super()._setup(problem)
        self.units = 0

    def _bend(self, grads: Grads) -> Grads:
        if self.problem.ledger.steps % 8 == 2 and hasattr(self.problem.model, "resize"):
            self._grow(self.units + 1)
            return {name: torch.zeros_like(p) for name, p in self.problem.params.items()}
        return grads

    def _grow(self, units: int) -> None:
        model = self.problem.layered
        width = int(model.blocks[0].weight.shape[0])
        model.resize(0, width + units - self.units, self.problem.random.generator)
        self.units = units
        self.updater.rebind()

    def _structure(self, saved: Any) -> None:
        if saved["units"] != self.units:
            self._grow(saved["units"])


class GrowsAndForgets(HonestGrowth):
    """It does not rebuild what it had."""

    def _structure(self, saved: Any) -> None:
        pass


class NeverShrinks(HonestGrowth):
    """It rebuilds what is greater than the present."""

    def _structure(self, saved: Any) -> None:
        if saved["units"] > self.units:
            self._grow(saved["units"])


class CallsItWorkPerExample(_Base):
    """It costs the same on any number of examples."""

    def _look(self, batch: Batch) -> Batch:
        big = self.problem.random.normal(100, 100)
        with self.problem.ledger.work("refresh", per="example", examples=batch.rows):
            big @ big
        return batch


class CallsItWorkPerCall(_Base):
    """It costs as much as there are examples."""

    def _look(self, batch: Batch) -> Batch:
        big = self.problem.random.normal(batch.rows, 1000)
        with self.problem.ledger.work("projection", per="call"):
            big @ big[0]
        return batch


class HidesWorkInCharged(_Base):
    def _bend(self, grads: Grads) -> Grads:
        big = self.problem.random.normal(100, 100)
        with self.problem.ledger.charged():
            big @ big
        return grads


class CountsStepsTwice(_Base):
    def _tell(self, loss: Tensor, batch: Batch) -> Tensor:
        self.problem.ledger.steps += 1
        return loss


class TellsALaterLoss(_Base):
    def _tell(self, loss: Tensor, batch: Batch) -> Tensor:
        return self.problem.objective(batch)


class TellsAnAttachedLoss(_Base):
    def _tell(self, loss: Tensor, batch: Batch) -> StepResult:
        return StepResult(loss=loss.requires_grad_())


class RefusesNothing(_Base):
    requires = frozenset()

    def _bend(self, grads: Grads) -> Grads:
        assert self.problem.layered.blocks[0].weight.dim() == 2
        return grads


class ReplacesAFinalMethod(_Base):
    """Its own set-up looks at no requirement."""

    def setup(self, problem: Problem) -> None:  # type: ignore[misc]
        self.problem = problem
        self._setup(problem)


class IgnoresItsLabels(_Base):
    direction = "other"

    def _look(self, batch: Batch) -> Batch:
        return replace(batch, targets=self.problem.random.integers(0, 3, *batch.targets.shape).to(batch.targets.dtype))

    def _tell(self, loss: Tensor, batch: Batch) -> StepResult:
        return StepResult()


class WalksAtRandom(_Base):
    direction = "other"

    def _bend(self, grads: Grads) -> Grads:
        return {name: self.problem.random.normal(*g.shape) for name, g in grads.items()}


class FailsItsOracle(_Base):
    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        return (Oracle("it is exact", lambda: 1e-3, 1e-9),)


class HasAVacuousControl(_Base):
    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        return (
            Oracle("it is exact", lambda: 0.0, 1e-9),
            Oracle("not so elsewhere", lambda: 0.0, 1e-3, differs=True),
        )


class ExcusesItself(_Base):
    exempt = {"leaves_no_grad": "it is tidy enough"}  # noqa: RUF012


class ExemptWalk(WalksAtRandom):
    exempt = {"learns_from_its_labels": "it walks at random and says so"}  # noqa: RUF012


class HonestDiagnostics(_Base):
    """No fault: it draws, passes forward and differentiates while it measures itself."""

    def _probe(self, batch: Batch) -> Any:
        direction = self.problem.random.normal(self.problem.flat().numel())
        slope = self.problem.jvp(batch, self.problem.unflatten(direction))[1]
        return {"slope": slope, "loss_on_probes": self.problem.objective(batch), "gap": float("nan")}


class LearnsWhileMeasuring(HonestDiagnostics):
    def _probe(self, batch: Batch) -> Any:
        with torch.no_grad():
            next(iter(self.problem.params.values())).mul_(1 + 1e-12)
        return {}


class DrawsFromTorchWhileMeasuring(HonestDiagnostics):
    def _probe(self, batch: Batch) -> Any:
        return {"draw": torch.rand((), device="cpu")}


class MeasuresAWord(HonestDiagnostics):
    def _probe(self, batch: Batch) -> Any:
        return {"mood": "good"}


class MeasuresNothingNamed(HonestDiagnostics):
    def _probe(self, batch: Batch) -> Any:
        return 1.0


class TakesANameOfTheProbes(HonestDiagnostics):
    def _probe(self, batch: Batch) -> Any:
        return {"alignment": 1.0}
