"""The rules that every task must obey."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from altprop import catalogue
from altprop.capabilities import PredictorKind
from altprop.conformance.case import _compose
from altprop.conformance.rules import NotApplicable
from altprop.errors import AltpropError
from altprop.resolve import build
from altprop.task import Task, TaskData

TaskRule = Callable[[str], str | None]


def make_task(name: str, *overrides: str) -> Task:
    """Build a task from its yaml."""
    return build(_compose((f"task={name}", *overrides), None)["task"], Task, "task")  # type: ignore[type-abstract]


@cache
def _data(name: str) -> tuple[Task, TaskData]:
    task = make_task(name)
    try:
        return task, task.data()
    except AltpropError as error:
        raise NotApplicable(f"its data is not here: {error}") from error


def declares_what_it_offers(name: str) -> str | None:
    """`offers` in the yaml and in the class are equal."""
    entry = catalogue.entries("task")[name]
    kind = type(make_task(name))
    if entry.capabilities("offers") != kind.offers:
        return f"the yaml offers {sorted(entry.capabilities('offers'))}, the class {sorted(kind.offers)}"
    return None


def names_its_first_loss(name: str) -> str | None:
    """The yaml says the loss, so that listings know whether it is a sum of squares."""
    entry = catalogue.entries("task")[name]
    stated = entry.values.get("loss") in catalogue.LEAST_SQUARES_LOSSES
    task = make_task(name)
    return (
        None
        if stated == task.loss.least_squares
        else f"the yaml says loss={entry.values.get('loss')}, the class {task.loss.name}"
    )


def keeps_its_splits_apart(name: str) -> str | None:
    """No row is in two splits, unless the task is judged in sample."""
    task, data = _data(name)
    if task._load().in_sample:
        raise NotApplicable("it is judged in sample")
    train = set(data.train.rows.tolist())
    if data.validation is not None and train & set(data.validation.rows.tolist()):
        return "rows of the validation split are in the training split"
    return None


def splits_by_its_data_seed_alone(name: str) -> str | None:
    """Loaded again it is the same, and no global generator moved or mattered."""
    _, first = _data(name)
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    states = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()
    again = make_task(name).data()
    if (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()) != states:
        return "loading moves a global generator"
    same = first.train.digest() == again.train.digest() and first.split_digest() == again.split_digest()
    return None if same and first.sha256 == again.sha256 else "loaded again it has other data or another split"


def fits_its_model(name: str) -> str | None:
    """Its default model gives outputs that its loss and metric take, in both precisions."""
    from altprop.conformance.case import Target, _compose
    from altprop.harness.building import build_parts
    from altprop.harness.cell import make_cell

    _data(name)
    target = Target("backprop", ("algorithm=backprop",), frozenset())
    for dtype in ("float32", "float64"):
        overrides = (*target.overrides, f"task={name}", f"dtype={dtype}")
        parts = build_parts(make_cell(_compose(overrides, None), overrides), 0)
        for split in (parts.data.train, *parts.data.tests.values()):
            with parts.problem.evaluating():
                metrics = parts.task.evaluate(parts.model, split, PredictorKind.OUTPUT)
            if parts.task.metric not in metrics:
                return f"its metric {parts.task.metric} is not among what it measures: {sorted(metrics)}"
            if not all(np.isfinite(value) for value in metrics.values()):
                return f"an untrained model measures {metrics}"
    return None


def states_its_figures(name: str) -> str | None:
    """Chance and targets are on the metric's scale and in order."""
    task = make_task(name)
    chance, targets = task.reference.chance, list(task.reference.targets.values())
    if chance is None:
        return "it states no chance level"
    sign = 1 if task.higher_is_better else -1
    if any(sign * value <= sign * chance for value in targets):
        return f"a target of {targets} is no better than chance, {chance}"
    return (
        None
        if [sign * v for v in targets] == sorted(sign * v for v in targets)
        else f"targets {targets} are not in order"
    )


TASK_RULES: dict[str, TaskRule] = {
    rule.__name__: rule
    for rule in (
        declares_what_it_offers,
        names_its_first_loss,
        keeps_its_splits_apart,
        splits_by_its_data_seed_alone,
        fits_its_model,
        states_its_figures,
    )
}
