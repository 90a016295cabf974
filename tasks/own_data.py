"""The base of tasks on data of the user's: what is measured, and what chance is, is found out from the data."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from altprop import Capability, ModelSpec, Source, Split, Task, check_name
from altprop.tables import balance
from altprop.tasks.common import Array, draw_test_rows

CLASS_METRICS = {"accuracy": True, "balanced_accuracy": True, "macro_f1": True, "log_loss": False}
VALUE_METRICS = {"nmse": False, "r2": True, "mse": False, "mae": False}
"""Metrics of classes and of quantities, and whether more of each is better."""


@dataclass(frozen=True)
class Prepared:
    """Data of a user's, ready to learn from.

    Attributes:
        source: with targets that are class numbers, or quantities (N, C) in units of the deviation over its rows.
        inputs: shape of one example.
        outputs: classes, or quantities.
        classes: their names; () for quantities.
        deviation: of a quantity over the rows that may be trained on, in its own units.
    """

    source: Source
    inputs: tuple[int, ...]
    outputs: int
    classes: tuple[str, ...] = ()
    deviation: float = 1.0


class OwnDataTask(Task, ABC):
    """Abstract task whose data decide whether it has classes or quantities.

    Classes: accuracy leads, beside balanced accuracy (the mean recall), macro F1 (the mean over classes) and, where the
    loss is the cross-entropy, the log-loss. Quantities: `nmse`, the squared error in units of the variance of the rows
    that may be trained on, leads, beside R^2, and mse and mae in the target's own units. Chance is what always saying
    the frequency of the classes, or the mean, among those rows reaches on the test set.

    Args:
        prepared: the data.
        metric: the leading one of those above; None takes the first.
        chance: see `Task`; None takes what is said above.
        common: see `Task`.

    Raises:
        AltpropError: for another metric.
    """

    losses: ClassVar[tuple[str, ...]] = (
        "cross_entropy",
        "one_hot_squared_error",
        "hinge",
        "half_squared_error",
        "mse",
        "huber",
    )
    offers: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.SUPERVISED, Capability.CLASSES, Capability.VECTORS, Capability.LEAST_SQUARES}
    )

    def __init__(
        self, prepared: Prepared, metric: str | None = None, *, chance: float | None = None, **common: Any
    ) -> None:
        self._prepared = prepared
        known: Mapping[str, bool] = CLASS_METRICS if prepared.classes else VALUE_METRICS
        losses = self.losses[:3] if prepared.classes else self.losses[3:]
        if (common.get("loss") or losses[0]) != "cross_entropy":
            known = {name: more for name, more in known.items() if name != "log_loss"}
        leading = next(iter(known)) if metric is None else check_name(metric, "task.metric", known)
        offers = {Capability.SUPERVISED} | ({Capability.CLASSES} if prepared.classes else set())
        self._decide(
            frozenset(offers | ({Capability.VECTORS} if len(prepared.inputs) == 1 else set())),
            losses,
            leading,
            {name: more for name, more in known.items() if name != leading},
            higher_is_better=known[leading],
        )
        super().__init__(chance=self._chance(leading) if chance is None else chance, **common)

    @property
    @final
    def spec(self) -> ModelSpec:
        return ModelSpec(self._prepared.inputs, self._prepared.outputs)

    @final
    def _load(self) -> Source:
        return self._prepared.source

    @final
    def _notes(self) -> tuple[str, ...]:
        if not self._prepared.classes:
            return ()
        counts = torch.bincount(self._prepared.source.train.targets, minlength=self._prepared.outputs).tolist()
        note = balance(dict(zip(self._prepared.classes, counts, strict=True)))
        return () if note is None else (note,)

    def _chance(self, metric: str) -> float:
        """Return what a predictor reaches on the test set that knows no inputs."""
        train, test = self._prepared.source.train, self._prepared.source.tests["test"]
        if self._prepared.classes:
            counts = torch.bincount(train.targets, minlength=self._prepared.outputs).double()
            outputs = (counts / counts.sum()).clamp(min=1e-12).log().expand(len(test), -1)
            return class_metrics(outputs, test.targets)[metric]
        return self._value_metrics(torch.zeros_like(test.targets), test.targets)[metric]

    @final
    def _metrics(self, outputs: Tensor, split: Split) -> dict[str, float]:
        if not self._prepared.classes:
            return self._value_metrics(outputs, split.targets)
        found = class_metrics(outputs, split.targets)
        return {name: found[name] for name in (self.metric, *self.metrics)}

    def _value_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        off, targets = (outputs - targets).double(), targets.double()
        nmse, around = float(off.square().mean()), float((targets - targets.mean(0)).square().mean())
        unit = self._prepared.deviation
        r2 = 1 - nmse / around if around > 0 else 0.0
        return {"nmse": nmse, "r2": r2, "mse": nmse * unit**2, "mae": float(off.abs().mean()) * unit}


def class_metrics(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Return the metrics of classes from logits (N, C) and targets (N,), over the classes that occur.

    >>> found = class_metrics(torch.eye(2, dtype=torch.float64)[[0, 0, 0, 0]], torch.tensor([0, 0, 0, 1]))
    >>> found["accuracy"], found["balanced_accuracy"], round(found["macro_f1"], 4)
    (0.75, 0.5, 0.4286)
    """
    predicted, classes = outputs.argmax(-1), outputs.shape[-1]
    right = torch.bincount(targets[predicted == targets], minlength=classes).double()
    true, said = (torch.bincount(x, minlength=classes).double() for x in (targets, predicted))
    recall, f1 = right / true, 2 * right / (true + said)
    return {
        "accuracy": float((predicted == targets).double().mean()),
        "balanced_accuracy": float(recall[true > 0].mean()),
        "macro_f1": float(f1[true + said > 0].mean()),
        "log_loss": float(functional.cross_entropy(outputs.double(), targets)),
    }


def split_rows(count: int, share: float, name: str, seed: int, labels: Array | None) -> tuple[Array, Array]:
    """Draw a share of the rows for the test set, in proportion to the classes: (rows to train on, test rows)."""
    held = min(max(1, round(share * count)), count - 1)
    train, test = draw_test_rows(count, held, name, seed, labels)
    # Classes of few rows each round to no test row at all.
    return (train, test) if len(test) else draw_test_rows(count, held, name, seed)


def class_numbers(values: list[Any], classes: tuple[Any, ...]) -> Array:
    """Return the place of each value among the classes, (N,) int64."""
    place = {value: number for number, value in enumerate(classes)}
    return np.array([place[value] for value in values], dtype=np.int64)
