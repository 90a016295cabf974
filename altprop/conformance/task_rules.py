"""The rules that every task must obey."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from altprop import catalogue
from altprop.capabilities import Capability, PredictorKind, evaluated_as
from altprop.conformance.case import NotApplicable, composed, difference, refuse_unless_given
from altprop.conformance.state import generator_states, global_generators
from altprop.data import Split, TaskData
from altprop.errors import AltpropError, near
from altprop.harness.building import build_parts
from altprop.harness.cell import make_cell
from altprop.losses import NoLoss
from altprop.noise import NoiseClock
from altprop.objective import Objective
from altprop.randomness import Random
from altprop.resolve import build
from altprop.task import Task


@dataclass(frozen=True)
class TaskTarget:
    """A task under examination.

    Attributes:
        name: of the yaml.
        config_dir: a folder with further yaml files, or None.
        overrides: what else is set, such as the file of a table.
    """

    name: str
    config_dir: str | None = None
    overrides: tuple[str, ...] = ()

    @property
    def entry(self) -> catalogue.Entry:
        """Its yaml."""
        return catalogue.entries("task", () if self.config_dir is None else (self.config_dir,))[self.name]


TaskRule = Callable[[TaskTarget], str | None]


def find_task(name: str, config_dir: str | None = None, overrides: tuple[str, ...] = ()) -> TaskTarget:
    """Return the task of that name.

    Raises:
        AltpropError: for an unknown name, a yaml that cannot be used, or an option that it leaves to its user.
    """
    known = catalogue.entries("task", () if config_dir is None else (config_dir,))
    if name not in known:
        raise AltpropError(f"task={name} is unknown; {near(name, known)}")
    if known[name].problem:
        raise AltpropError(f"task={name}: {known[name].problem}")
    refuse_unless_given("task", known[name], overrides)
    return TaskTarget(name, config_dir, overrides)


def make_task(target: TaskTarget) -> Task:
    """Build a task from its yaml."""
    config = composed((f"task={target.name}", *target.overrides), target.config_dir)["task"]
    return build(config, Task, "task")  # type: ignore[type-abstract]


@cache
def _data(target: TaskTarget) -> tuple[Task, TaskData]:
    task = make_task(target)
    try:
        return task, task.data()
    except AltpropError as error:
        raise NotApplicable(f"its data is not here: {error}") from error


def says_whether_it_is_least_squares(target: TaskTarget) -> str | None:
    """Listings and refusals know whether its loss is a sum of squares: from its name, or from `offers`."""
    task = make_task(target)
    if "offers" in vars(task):
        raise NotApplicable("its data decide which losses it has")
    said = Capability.LEAST_SQUARES in (catalogue.task_offers(target.entry.values) or ())
    loss = task.loss
    if said == loss.least_squares:
        return None
    return f"its loss {loss.name} is {'a' if loss.least_squares else 'no'} sum of squares, and `offers` says otherwise"


def keeps_its_splits_apart(target: TaskTarget) -> str | None:
    """No row is in two splits, unless the task is evaluated in sample."""
    task, data = _data(target)
    source = task._load()
    if source.in_sample:
        raise NotApplicable("it is evaluated in sample")
    if data.validation is not None and set(data.train.rows.tolist()) & set(data.validation.rows.tolist()):
        return "rows of the validation split are in the training split"
    known = set(_contents(source.train))
    for name, split in data.tests.items():
        if all(row in known for row in _contents(split)):
            return f"every row of the split {name!r} may be trained on as well"
    return None


def _contents(split: Split) -> list[bytes]:
    """Return the bytes of each row, inputs and targets."""
    batches = (split.batch(torch.tensor([row], device=split.rows.device)) for row in range(len(split)))
    return [b.inputs.cpu().numpy().tobytes() + b.targets.cpu().numpy().tobytes() for b in batches]


def splits_by_its_data_seed_alone(target: TaskTarget) -> str | None:
    """Loaded again it is the same, and no global generator moved or mattered."""
    _, first = _data(target)
    with global_generators(5):
        before = generator_states()
        again = make_task(target).data()
        after = generator_states()
    if difference(before, after) is not None:
        return "loading moves a global generator"
    same = first.split_digest() == again.split_digest() and first.sha256 == again.sha256
    splits = zip((first.train, *first.tests.values()), (again.train, *again.tests.values()), strict=True)
    same = same and all(one.digest() == other.digest() for one, other in splits)
    return None if same else "loaded again it has other data or another split"


def fits_its_model(target: TaskTarget) -> str | None:
    """Its default model gives outputs that its loss and metric take, in both precisions."""
    _data(target)
    if evaluated_as(PredictorKind.MODEL, make_task(target).kinds) is None:
        raise NotApplicable("it evaluates no model by itself")
    for dtype in ("float32", "float64"):
        overrides = ("algorithm=null", f"task={target.name}", f"dtype={dtype}", *target.overrides)
        parts = build_parts(make_cell(composed(overrides, target.config_dir), overrides), 0)
        for split in (parts.data.train, *parts.data.tests.values()):
            with parts.problem.evaluating():
                metrics = parts.task.evaluate(parts.model, split, PredictorKind.MODEL)
            if parts.task.metric not in metrics:
                return f"its metric {parts.task.metric} is not among what it measures: {sorted(metrics)}"
            if not all(np.isfinite(value) for value in metrics.values()):
                return f"an untrained model measures {metrics}"
    return None


def differentiates_its_loss(target: TaskTarget) -> str | None:
    """Its loss's gradient and curvature products are the derivatives of its value, and so is what is reduced."""
    task, data = _data(target)
    if isinstance(task.loss, NoLoss):
        raise NotApplicable("it has no loss of outputs")
    batch = data.train.batch(torch.arange(min(5, len(data.train)), device="cpu"))
    shape = batch.targets.shape[:-1] if batch.targets.is_floating_point() else batch.targets.shape
    drawn = Random(0, torch.device("cpu"), torch.float64)
    outputs, v = (drawn.normal(*shape, task.spec.outputs) for _ in range(2))
    outputs.requires_grad_()
    objective = Objective(torch.nn.Identity(), task.loss, NoiseClock(0))
    (gradient,) = torch.autograd.grad(objective.output_loss(outputs, batch), outputs, create_graph=True)
    (product,) = torch.autograd.grad((gradient * v).sum(), outputs)
    if not torch.allclose(objective.output_gradient(outputs, batch), gradient, rtol=1e-9, atol=1e-12):
        return f"`gradient` of its loss {task.loss.name} is not the derivative of `per_element`"
    if not torch.allclose(objective.output_curvature(outputs, v, batch), product, rtol=1e-9, atol=1e-12):
        return f"`curvature_product` of its loss {task.loss.name} is not that of the Hessian of `per_element`"
    return None


def states_its_figures(target: TaskTarget) -> str | None:
    """Chance and targets are on the metric's scale and in order."""
    task = make_task(target)
    chance, targets = task.reference.chance, list(task.reference.targets.values())
    if chance is None:
        return "it states no chance level"
    sign = 1 if task.higher_is_better else -1
    if any(sign * value <= sign * chance for value in targets):
        return f"a target of {targets} is no better than chance, {chance}"
    if [sign * v for v in targets] != sorted(sign * v for v in targets):
        return f"targets {targets} are not in order"
    return None


TASK_RULES: dict[str, TaskRule] = {
    rule.__name__: rule
    for rule in (
        says_whether_it_is_least_squares,
        keeps_its_splits_apart,
        splits_by_its_data_seed_alone,
        fits_its_model,
        differentiates_its_loss,
        states_its_figures,
    )
}
