"""One training run: steps up to the next mark, evaluations on the grid, probes, and the trace of all that."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from altprop.capabilities import PredictorKind, evaluated_as
from altprop.data import Batch, Split
from altprop.harness.building import Parts
from altprop.harness.settings import Settings
from altprop.monte_carlo import MonteCarlo
from altprop.randomness import Random, derive_seed
from altprop.records.status import RunStatus
from altprop.task import Predictor

OVERSPENT = 0.01
"""Share of the budget by which a last step may overspend it; one that is dearer is not taken."""
UNSPENT_STEPS = 1000
"""Steps after which a run that has spent nothing is ended: its learner and task never spend this currency."""
COUNTERS = ("flops", "samples", "forward_equivalents", "forwards", "backwards", "hvps", "evaluations")


class TrainingRun:
    """One run, step by step. `block` is the unit that Lightning sees.

    Args:
        parts: of the run.
        settings: of the harness.
        seed: of the run.
        tested: whether the test sets are opened at its end; trials of a tuning leave them closed.
    """

    def __init__(self, parts: Parts, settings: Settings, seed: int, tested: bool = True) -> None:
        self.parts, self.settings, self.budget = parts, settings, settings.budget
        self.seed, self.tested = seed, tested
        self.position = 0
        self.mark = 0
        self.status: RunStatus | None = None
        self.reason = ""
        self.last_finite_step = 0
        self.dearest = 0.0
        self.trace: list[dict[str, Any]] = []
        self.clock: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.wall_seconds = 0.0
        self.probe_seconds = 0.0
        self.evaluation_seconds = 0.0
        self.stop_requested = False
        self.outputs: dict[str, Tensor] = {}
        self.train_metrics: dict[str, float] = {}
        self.own_model = parts.algorithm.own_model
        self.probes: Any = None
        if settings.probes != "off":
            self.probes = _tier(settings.probes)(parts.problem, parts.probe_batch, parts.task.data_seed)

    # Where the run stands.

    @property
    def spent(self) -> float:
        """What has been spent by all processes, in the declared currency."""
        return self._shared(self.parts.problem.ledger.spent(self.budget.currency), self.budget.currency)

    def _shared(self, value: float, name: str) -> float:
        """Return a count over all processes: steps and updates are common, seconds are averaged, the rest adds up."""
        ranks = self.parts.problem.ranks
        if ranks.size == 1 or name in ("steps", "updates"):
            return value
        total = ranks.total(value)
        return total / ranks.size if name == "seconds" else total

    def counts(self) -> dict[str, float]:
        """Return the ledger's counts over all processes."""
        return {name: self._shared(value, name) for name, value in self.parts.problem.ledger.summary().items()}

    @property
    def fraction(self) -> float:
        """Share of the budget that has been spent."""
        return self.spent / self.budget.amount

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.status is not None

    @property
    def guide(self) -> tuple[str, Split]:
        """Name and rows of the split that is evaluated at every mark."""
        validation = self.parts.data.validation
        return ("train", self.parts.data.train) if validation is None else ("validation", validation)

    def begin(self) -> None:
        """Evaluate the untrained learner, once."""
        if self.mark == 0 and not self.trace:
            self._evaluate()

    def block(self) -> None:
        """Take steps up to the next mark, at most `budget.block`; the first of them is probed.

        A block is never cut short from outside: probes and loss rows stand at its ends, and a resumed run must put
        them where an undisturbed one does.
        """
        algorithm, feed, ledger = self.parts.algorithm, self.parts.feed, self.parts.problem.ledger
        problem, budget = self.parts.problem, self.budget
        threshold = budget.amount * self.mark / budget.grid
        losses: list[Tensor] = []
        told: list[Mapping[str, float | Tensor]] = []
        first = ledger.steps
        seconds = budget.currency == "seconds"
        base, cpu, wall = ledger.seconds + ledger.audit_seconds, time.process_time(), time.perf_counter()
        done = cut = context_ended = False
        spent = self.spent
        for count in range(budget.block):
            saved = self.snapshot() if self.may_overspend(spent) else None
            if count == 0 and self.probes is not None:
                self.before_probe(batch=feed.batch(self.position))
                cpu, wall = time.process_time(), time.perf_counter()
            batch = feed.batch(self.position)
            result = algorithm.step(batch)
            self.position += 1
            context_ended = batch is not None and batch.last and bool(feed.contexts)
            if count == 0 and self.probes is not None:
                wait_for(problem.device)
                base += time.process_time() - cpu
                self.wall_seconds += time.perf_counter() - wall
                self.probe()
                cpu, wall = time.process_time(), time.perf_counter()
            if seconds:
                ledger.seconds = base + time.process_time() - cpu - ledger.audit_seconds
            before, spent = spent, self.spent
            self.dearest = max(self.dearest, spent - before)
            if saved is not None and spent > self.most:
                self.undo(saved)
                cut, context_ended = True, False
                break
            if result.loss is not None:
                losses.append(result.loss)
            if result.scalars:
                told.append(result.scalars)
            problem.progress = min(1.0, spent / budget.amount)
            if result.done:
                done = True
                break
            if spent >= threshold or context_ended:
                break
        wait_for(problem.device)
        ledger.seconds = base + time.process_time() - cpu - ledger.audit_seconds
        self.wall_seconds += time.perf_counter() - wall
        self.close(losses, told, first, done, cut)
        if context_ended:
            self._end_context()

    @property
    def most(self) -> float:
        """What the last step may bring the spending to."""
        return self.budget.amount * (1 + OVERSPENT)

    def may_overspend(self, spent: float) -> bool:
        """Return whether the next step may bring what is spent above the most. The first step is taken anyway.

        Steps of one learner differ in cost; one is taken to be at most four times as dear as the dearest before it.
        """
        return self.dearest > 0 and self.budget.currency != "seconds" and spent + 4 * self.dearest > self.most

    def snapshot(self) -> dict[str, Any]:
        """Return the state to come back to where the next step overspends the budget."""
        algorithm, problem = self.parts.algorithm, self.parts.problem
        where = {"position": self.position, "rows": len(self.trace)}
        return {"problem": problem.state_dict(), "algorithm": algorithm.state_dict(), **where}

    def undo(self, saved: dict[str, Any]) -> None:
        """Go back to a snapshot: equal budgets are equal, and a step that overspends is as if it were not taken."""
        self.parts.algorithm.restore(saved)
        self.position = saved["position"]
        del self.trace[saved["rows"] :]

    def close(
        self,
        losses: list[Tensor],
        told: Sequence[Mapping[str, float | Tensor]],
        first: int,
        done: bool,
        cut: bool = False,
    ) -> None:
        """Write down what a block showed, and evaluate where it ends at a mark.

        Args:
            losses: scalars, of its steps.
            told: the scalars of each step whose rule told some.
            first: steps before the block.
            done: whether the learner has nothing left to do.
            cut: whether the next step would overspend the budget.
        """
        threshold = self.budget.amount * self.mark / self.budget.grid
        self._note_losses(losses, told, first)
        if self.over:
            return
        if self.parts.problem.ledger.steps >= UNSPENT_STEPS and not self.spent:
            words = f"{UNSPENT_STEPS:,} steps spent no {self.budget.currency.replace('_', ' ')}"
            self._end(RunStatus.REFUSED, f"{words}, so the run would never end; say budget.currency=steps")
            return
        known = [row["step"] for row in self.trace if row["kind"] == "evaluation"][-1:]
        if self.spent >= threshold or done or (cut and known != [self.parts.problem.ledger.steps]):
            self._evaluate()
        if done and not self.over:
            self._end(RunStatus.COMPLETED, "The learner says that it is done.")
        if cut and not self.over:
            self._end(RunStatus.COMPLETED, "Another step would have overspent the budget.")

    def _end(self, status: RunStatus, reason: str = "") -> None:
        self.status, self.reason = status, reason or status.sentence

    # What is written down.

    def _note_losses(self, losses: list[Tensor], told: Sequence[Mapping[str, float | Tensor]], first: int) -> None:
        mean = None
        step = self.parts.problem.ledger.steps
        if losses:
            stacked = torch.stack(losses).double().cpu()
            finite = torch.isfinite(stacked)
            mean = float(stacked[finite].mean()) if bool(finite.any()) else None
            if not bool(finite.all()):
                bad = first + int((~finite).nonzero()[0])
                self.last_finite_step = bad
                self._end(RunStatus.NON_FINITE, f"The loss is not finite at step {bad}.")
        if not self.over:
            total = sum(float(p.detach().abs().sum()) for p in self.parts.model.parameters())
            if math.isfinite(total):
                self.last_finite_step = step
            else:
                self._end(
                    RunStatus.NON_FINITE,
                    f"A parameter stopped being finite between steps {self.last_finite_step} and {step}.",
                )
        if mean is not None or told:
            row = {"kind": "train", "step": step, "fraction": self.fraction, "loss": mean}
            numbers = [{name: float(value) for name, value in each.items()} for each in told]
            scalars = {"scalars": numbers[-1], "scalar_means": _means(numbers)} if told else {"scalars": {}}
            self.trace.append({**row, **scalars})

    @property
    def probed(self) -> bool:
        """Whether the first step of each block is probed."""
        return self.probes is not None

    def before_probe(self, look: Any = None, batch: Batch | None = None) -> None:
        """Look at the learner before a step that is probed.

        Args:
            look: what the probes see, where that is known already (of stacked seeds).
            batch: that the step is fed, where it is not.
        """
        started = time.perf_counter()
        if look is None:
            self.probes.before(batch)
        else:
            self.probes.remember(look)
        self.probe_seconds += time.perf_counter() - started

    def probe(self, loss: Tensor | None = None) -> None:
        """Look at it afterwards, and write down what the step did.

        Args:
            loss: on the probe batch after the step, where that is known already.
        """
        started = time.perf_counter()
        row = self.probes.after(self.own_model, loss)
        own = self.probes.own(self.parts.algorithm)
        ledger = self.parts.problem.ledger
        where = {"step": ledger.steps, "fraction": self.fraction, "flops": ledger.flops}
        self.trace.append({"kind": "probe", **where, **row, **({"own": own} if own else {})})
        self.probe_seconds += time.perf_counter() - started

    def evaluate(self, split: Split, name: str) -> dict[str, float]:
        """Evaluate the learner as it stands on a split, neither timed nor counted.

        What an evaluation draws (samples, episodes) is the same at all marks of a run and other on each split.
        """
        started = time.perf_counter()
        algorithm, problem = self.parts.algorithm, self.parts.problem
        random = Random(derive_seed(self.parts.evaluation_seed, name), problem.device, problem.dtype)
        outputs = self.outputs.pop(name, None)
        with algorithm.predictor() as predict:
            given = predict if outputs is None else _known(predict, split.inputs, outputs)
            metrics = self.parts.task.evaluate(given, split, algorithm.kind, random)
        self.evaluation_seconds += time.perf_counter() - started
        return metrics

    def _evaluate(self) -> None:
        """Evaluate at the present mark, and end the run where that says so."""
        name, guide = self.guide
        metrics = self.evaluate(guide, name)
        self._row(name, metrics)
        ledger, budget, task = self.parts.problem.ledger, self.budget, self.parts.task
        self.clock.append(
            {
                "step": ledger.steps,
                "fraction": self.fraction,
                "cpu_seconds": ledger.learner_seconds,
                "wall_seconds": self.wall_seconds,
                "probe_seconds": self.probe_seconds,
            }
        )
        self._remember_best(metrics)
        first = next(row for row in self.trace if row["kind"] == "evaluation")["metrics"].get("loss")
        loss = metrics.get("loss")
        while self.mark <= budget.grid and self.spent >= budget.amount * self.mark / budget.grid:
            self.mark += 1
        if loss is not None and not math.isfinite(loss):
            self._end(RunStatus.NON_FINITE, f"The loss at the evaluation after step {ledger.steps} is not finite.")
        elif loss is not None and first is not None and loss > budget.divergence * (abs(first) + 1):
            self._end(RunStatus.DIVERGED, f"The loss rose from {first:.3g} to {loss:.3g} by step {ledger.steps}.")
        elif budget.stop_at_target and task.reference.targets and self._reached(metrics):
            self._end(RunStatus.REACHED_TARGET)
        elif self.spent >= budget.amount:
            self._end(RunStatus.COMPLETED)
        elif budget.patience is not None and self._since_best() >= budget.patience:
            self._end(RunStatus.COMPLETED, f"{budget.patience} evaluations brought no better one: stopped early.")

    def _since_best(self) -> int:
        """Return how many evaluations there were since the best one."""
        best = self.best["step"] if self.best else -1
        return sum(row["split"] == "validation" and row["step"] > best for row in self.trace if "split" in row)

    def _end_context(self) -> None:
        """Evaluate where a context of a stream ends; the learner never sees what comes out.

        These are the validation rows of each context, and every test set where the tests are opened at all.
        """
        name = self.parts.feed.context_at(self.position - 1)
        tests = self.parts.data.tests if self.tested else {}
        for label, split in {**self._validation_by_context, **{_label(test): tests[test] for test in tests}}.items():
            self._row(label, self.evaluate(split, label.removeprefix("test/")))
            self.trace[-1]["context_end"] = name

    @cached_property
    def _validation_by_context(self) -> dict[str, Split]:
        whole = self.parts.data.validation
        if whole is None:
            return {}
        parts = self.parts.task._contexts(whole)
        return {f"validation/{name}": whole.take(rows) for name, rows in parts.items() if len(rows)}

    def matrix(self, of: str) -> dict[str, dict[str, float | None]]:
        """Return context that ended -> set -> leading metric, for a stream of contexts.

        Args:
            of: "test" or "validation": which sets.
        """
        found: dict[str, dict[str, float | None]] = {}
        for row in self.trace:
            kind, _, name = str(row.get("split")).partition("/")
            if "context_end" in row and kind == of:
                found.setdefault(row["context_end"], {})[name or kind] = row["metrics"].get(self.parts.task.metric)
        return found

    def _row(self, split: str, metrics: dict[str, float]) -> None:
        ledger = self.parts.problem.ledger
        summary = self.counts()
        self.trace.append(
            {
                "kind": "evaluation",
                "split": split,
                "step": ledger.steps,
                "fraction": self.fraction,
                "grid": min(self.mark, self.budget.grid) / self.budget.grid,
                **{name: summary[name] for name in COUNTERS},
                "metrics": metrics,
            }
        )

    def better(self, a: float, b: float) -> bool:
        """Return whether metric value a is better than b."""
        return a > b if self.parts.task.higher_is_better else a < b

    def _reached(self, metrics: dict[str, float]) -> bool:
        values = self.parts.task.reference.targets.values()
        hardest = max(values) if self.parts.task.higher_is_better else min(values)
        value = metrics.get(self.parts.task.metric)
        return value is not None and (value == hardest or self.better(value, hardest))

    def _remember_best(self, metrics: dict[str, float]) -> None:
        if self.parts.data.validation is None:
            return
        value = metrics.get(self.parts.task.metric)
        if value is None or not math.isfinite(value) or (self.best and not self.better(value, self.best["value"])):
            return
        self.best = {
            "value": value,
            "step": self.parts.problem.ledger.steps,
            "problem": {"model": {name: v.detach().clone() for name, v in self.parts.model.state_dict().items()}},
            "algorithm": self.parts.algorithm.state_dict(),
        }

    # The end.

    def test(self) -> tuple[dict[str, dict[str, float]], float | None]:
        """Open the test sets: (set -> metrics of the final state, test metric of the best validation state).

        With `budget.patience` the best state is the final one.
        """
        if self.budget.patience is not None and self.best is not None:
            self.parts.algorithm.restore(self.best)
        final = {name: self.evaluate(split, name) for name, split in self.parts.data.tests.items()}
        for name, metrics in final.items():
            self._row(_label(name), metrics)
        self.train_metrics = self._on_training_rows()
        if self.best is None or "test" not in self.parts.data.tests:
            return final, None
        self.parts.algorithm.restore(self.best)
        metrics = self.evaluate(self.parts.data.tests["test"], "test")
        self._row("test_best", metrics)
        return final, metrics.get(self.parts.task.metric)

    def _on_training_rows(self) -> dict[str, float]:
        """Return the metrics of outputs on training rows, at most as many as the test set has, spread over all."""
        train, test = self.parts.data.train, self.parts.data.tests.get("test")
        kind = evaluated_as(self.parts.algorithm.kind, self.parts.task.kinds)
        if kind is not PredictorKind.OUTPUT or not test or not len(train):
            return {}
        count = min(len(train), len(test))
        rows = torch.arange(count, device=train.inputs.device) * len(train) // count
        return self.evaluate(train if count == len(train) else train.take(rows), "train")

    def state_dict(self) -> dict[str, Any]:
        """Return all that an exact resume needs, in weights_only-safe types."""
        return {
            "problem": self.parts.problem.state_dict(),
            "algorithm": self.parts.algorithm.state_dict(),
            "probes": self.probes.state_dict() if self.probes is not None else {},
            **{name: getattr(self, name) for name in _SAVED},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put a state of `state_dict` back."""
        self.parts.algorithm.restore(state)
        if self.probes is not None:
            self.probes.load_state_dict(state["probes"])
        for name in _SAVED:
            setattr(self, name, state[name])


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given, so that the clock read next has it all."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _label(test: str) -> str:
    """Return the name of a test set in the trace."""
    return "test" if test == "test" else f"test/{test}"


def _known(predict: Predictor, inputs: Tensor, outputs: Tensor) -> Predictor:
    """Return a predictor whose outputs (of all passes, where it averages several) on these inputs are known."""
    run = predict.passes if isinstance(predict, MonteCarlo) else predict

    def answer(x: Tensor, **named: Any) -> Tensor:
        return outputs if x is inputs else run(x, **named)

    return replace(predict, passes=answer) if isinstance(predict, MonteCarlo) else answer


def _means(told: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each scalar over the steps that told it."""
    names = dict.fromkeys(name for scalars in told for name in scalars)
    return {name: fmean(scalars[name] for scalars in told if name in scalars) for name in names}


_SAVED = (
    "position",
    "mark",
    "last_finite_step",
    "dearest",
    "trace",
    "clock",
    "best",
    "wall_seconds",
    "probe_seconds",
    "evaluation_seconds",
)


def _tier(name: str) -> Callable[..., Any]:
    """Return what makes the probes of a tier; the dearer ones are imported where they are wanted."""
    if name == "basic":
        from altprop.probes.basic import probes as basic

        return basic
    if name == "standard":
        from altprop.probes.standard import probes as standard

        return standard
    from altprop.probes.full import probes as full

    return full
