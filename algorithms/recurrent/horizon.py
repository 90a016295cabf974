"""How far back each rule sends credit, read off what it gives to parameters that act at one time alone."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from altprop import Algorithm, Batch, Grads, Problem, Refused
from altprop.resolve import resolve_class
from altprop.testing import make_problem, sgd


class Rule(Protocol):
    """A learner that gives its direction without a step."""

    def setup(self, problem: Problem) -> None: ...

    def direction(self, batch: Batch) -> tuple[Tensor, Grads]: ...


# By name, so that the key of a run does not hang on rules that merely stand beside it.
RULES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "truncated_10": ("truncated_bptt.TruncatedBPTT", {"k1": 5, "k2": 10, "update": "sequence"}),
    "truncated_25": ("truncated_bptt.TruncatedBPTT", {"k1": 5, "k2": 25, "update": "sequence"}),
    "rtrl": ("rtrl.RTRL", {}),
    "snap_1": ("snap.SnAp", {}),
    "uoro": ("uoro.UORO", {}),
    "kf_rtrl": ("kf_rtrl.KFRTRL", {}),
    "eprop": ("eprop.EProp", {}),
    "rflo": ("rflo.RFLO", {}),
}


def rule_of(name: str) -> Rule:
    """Return a new learner of `RULES`."""
    place, options = RULES[name]
    kind: Any = resolve_class(f"altprop.algorithms.recurrent.{place}", Algorithm)
    rule: Rule = kind(sgd(), **options)
    return rule


def credit_by_time(problem: Problem, batch: Batch, rules: Iterable[str]) -> dict[str, Tensor]:
    r"""Return rule -> (T, B), how much credit for the loss at the last time it sends to each time of each row.

    The input gets a value for each time t of each row, which is 1 there and 0 elsewhere, under weights of 0: nothing
    that the network computes changes, and the gradient in these weights is dL/da_t, a_t being the projected input of
    the cell, W_x x_t + b. So what a rule gives for them is what it takes for dL/da_t, whatever way it has. Its norm is
    told. For "bptt", which is always there, it is the norm of dL/dh_t times what the cell's own slope lets pass.

    Args:
        problem: with a recurrent model, of which copies are measured, in float64.
        batch: whole sequences of equal length; of targets at each time the last one counts.
        rules: names in `RULES`.

    Raises:
        Refused: for sequences of unequal length, and under noise.
    """
    if batch.mask is not None or problem.uncounted.noise is not None:
        raise Refused("credit is told by its lag, for sequences of equal length without noise")
    wide, final = _widened(problem, batch)
    found = {"bptt": wide.gradient(final)[1]}
    for name in rules:
        rule = rule_of(name)
        rule.setup(_widened(problem, batch)[0])
        found[name] = rule.direction(final)[1]
    steps, rows = batch.inputs.shape[:2]
    return {name: _of_each_time(grads, steps, rows) for name, grads in found.items()}


def _widened(problem: Problem, batch: Batch) -> tuple[Problem, Batch]:
    """Return the problem with an input for each time of each row, under weights of 0, and the batch with them."""
    steps, rows, inputs = batch.inputs.shape
    model = copy.deepcopy(problem.model).double()
    cell = getattr(model.cell, "layers", [model.cell])[0]
    cell.weight_input = nn.Parameter(
        torch.cat([cell.weight_input.detach(), cell.weight_input.new_zeros(len(cell.weight_input), steps * rows)], 1)
    )
    model.spec = replace(model.spec, input_shape=(inputs + steps * rows,), per_step=False)
    marks = torch.eye(steps * rows, dtype=torch.float64, device=batch.inputs.device).reshape(steps, rows, -1)
    targets = batch.targets[-1] if batch.per_step else batch.targets
    targets = targets.double() if targets.is_floating_point() else targets
    final = replace(batch, inputs=torch.cat([batch.inputs.double(), marks], 2), targets=targets, reset=None)
    made = make_problem(model, problem.loss.name, seed=problem.random.seed, offers=problem.offers, train_size=rows)
    return made, final


def _of_each_time(grads: Grads, steps: int, rows: int) -> Tensor:
    """Return the norm of what stands for the gradient of a row's own loss in the marks, (T, B)."""
    marks = next(value for name, value in grads.items() if name.endswith("weight_input"))[:, -steps * rows :]
    return rows * marks.square().sum(0).sqrt().reshape(steps, rows)


def horizon_table(problem: Problem, batch: Batch) -> dict[str, Any]:
    """Return the table `horizon`: rule, lag of a time before the last, and the median over rows of the credit there."""
    found = credit_by_time(problem, batch, RULES)
    names: list[str] = []
    lags: list[int] = []
    credit: list[float] = []
    for name, values in found.items():
        typical = values.median(1).values.flip(0).tolist()
        names += [name] * len(typical)
        lags += range(len(typical))
        credit += [float(f"{value:.4g}") for value in typical]
    return {"rule": names, "lag": lags, "credit": credit}


def first_rows(batch: Batch, count: int) -> Batch:
    """Return the first rows of a batch of sequences."""
    targets = batch.targets[:, :count] if batch.per_step else batch.targets[:count]
    return Batch(batch.inputs[:, :count], targets, batch.index[:count])
