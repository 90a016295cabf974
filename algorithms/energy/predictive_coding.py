"""Predictive coding: every layer's activity settles between what is predicted of it and what it must predict."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from altprop import (
    Batch,
    Capability,
    ChainWalk,
    DirectionAlgorithm,
    Grads,
    OptimizerFactory,
    Oracle,
    Problem,
    Refused,
    check_name,
    check_number,
    check_whole,
)
from altprop.testing import against_backprop, relative_error, set_up, sgd, step_error, toy

VARIANTS = ("strict", "fixed_prediction", "zero_divergence", "incremental")


class PredictiveCoding(DirectionAlgorithm):
    r"""Let the activities of the hidden layers descend an energy first, and then the weights.

    With f_l block l of L, v_0 the inputs, v_l its activity, (B, n_l), mu_l = f_l(v_(l-1)) what is predicted of it and
    the loss l_i of a row i, the energy of the row is

        E_i = 1/2 sum_(l < L) |v_l - mu_l|^2 + p l_i(mu_L),    p = output_precision,

    and with e_l = v_l - mu_l, e_L = -p dl_i/dmu_L and J_l = dmu_l/dv_(l-1), activities start at v_l = mu_l and take
    `steps` of

        v_l <- v_l - rate (e_l - J_(l+1)^T e_(l+1)).

    The direction is the mean over rows of dE_i/dW / p, that is -(dmu_l/dW_l)^T e_l / p. Variants:

        strict           predictions and J follow the activities; the loss's gradient is reached as p -> 0, with an
                         error of order p, and `steps` must suffice to settle.
        fixed_prediction mu_l and J_l stay those of the forward pass (Millidge, Tschantz and Buckley): with rate 1 and
                         at least L - 1 steps it is backpropagation.
        zero_divergence  rate 1, and block l takes its direction at step L - l, when the error gets there: it is
                         backpropagation (Song et al.); `steps` and `rate` are not used.
        incremental      weights take a step with every step of the activities (Salvatori et al.): `steps` updates a
                         batch.

    Steps are stable while rate (1 + |J|^2) < 2, with |J| the largest singular value of any J_l; the diagnostics say how
    much of the energy settling took away, which is below 0 where it ran off.

    An activity is what a block puts out, f(W v + b), as in the frameworks of today; Whittington and Bogacz have W f(v).
    The task's own loss stands at the output, where they clamp v_L to the target under 1/2 |v_L - mu_L|^2. Dropout is
    part of f_l, with the same masks throughout.

    Args:
        optimizer: the optimizer axis; directions are no gradients, so closures are refused.
        variant: see above.
        steps: of the activities, at least 1.
        rate: of the activities, above 0 and at most 1.
        output_precision: p, above 0.

    Raises:
        AltpropError: for an unknown variant or a number out of range.

    Paper: Whittington and Bogacz 2017, An approximation of the error backpropagation algorithm in a predictive coding
    network; Millidge, Tschantz and Buckley 2020, arXiv:2006.04182; Song, Lukasiewicz, Xu and Bogacz, NeurIPS 2020;
    Salvatori et al. 2022, arXiv:2212.00720.
    """

    requires = frozenset({Capability.GRADIENT, Capability.LAYERED, Capability.CHAIN})

    def __init__(
        self,
        optimizer: OptimizerFactory,
        variant: str = "strict",
        steps: int = 20,
        rate: float = 0.1,
        output_precision: float = 1.0,
    ) -> None:
        super().__init__(optimizer)
        self.variant = check_name(variant, "algorithm.variant", VARIANTS)
        self.steps = check_whole(steps, "algorithm.steps", 1)
        self.rate = check_number(rate, "algorithm.rate", above=0.0, high=1.0)
        self.precision = check_number(output_precision, "algorithm.output_precision", above=0.0)
        self._unfinished: tuple[Batch, list[Tensor]] | None = None

    def _prepare(self, problem: Problem) -> None:
        if self.variant == "incremental" and problem.uncounted.noise is not None:
            raise Refused(
                "incremental predictive coding updates weights amid its masks; use dropout=none or another variant"
            )

    def _direction(self, batch: Batch) -> tuple[Tensor, Grads]:
        problem = self.problem
        walk = problem.walk(batch)
        loss = problem.output_loss(walk.outputs, batch)
        if self.variant == "zero_divergence":
            return loss, self._direction_on_arrival(batch, walk)
        values = walk.block_outputs[:-1]
        steps = 1 if self.variant == "incremental" else self.steps
        walk, errors = self.settled(batch, walk, values, steps)
        if self.variant == "incremental":
            self._unfinished = batch, values
        return loss, self._descent(batch, walk.pull(errors).parameters)

    def _update(self, direction: Grads) -> None:
        self.updater.apply(direction)
        if self._unfinished is None:
            return
        (batch, values), self._unfinished = self._unfinished, None
        for _ in range(1, self.steps):
            walk, errors = self.settled(batch, self.problem.walk(batch, values), values, 1)
            direction = self._descent(batch, walk.pull(errors).parameters)
            penalty = self.problem.penalty()
            slopes = {} if penalty is None else penalty[1]
            self.updater.apply({n: value + slopes[n] if n in slopes else value for n, value in direction.items()})

    def _descent(self, batch: Batch, ascent: Grads) -> Grads:
        """Return dE/dW / p of the mean over rows from the pulled errors, which are minus the energy's slope."""
        scale = -1 / (self.problem.divisor(batch) * self.precision)
        return {name: scale * value for name, value in ascent.items()}

    def settled(
        self, batch: Batch, walk: ChainWalk, values: list[Tensor], steps: int
    ) -> tuple[ChainWalk, list[Tensor]]:
        """Let the activities take steps, and return the predictions and the errors that are left.

        Args:
            batch: that is learned from.
            walk: predictions at the start.
            values: v_1 .. v_(L-1); replaced in place.
            steps: of the activities.
        """
        errors = self._errors(batch, walk, values)
        for _ in range(steps):
            values[:] = self._moved(walk, values, errors, self.rate)
            if self.variant != "fixed_prediction":
                walk = walk.at(values)
            errors = self._errors(batch, walk, values)
        return walk, errors

    def _errors(self, batch: Batch, walk: ChainWalk, values: list[Tensor]) -> list[Tensor]:
        """Return e_l of all blocks; a row's own gradient is that of the batch times the rows that count."""
        problem = self.problem
        with torch.no_grad():
            hidden = [v - mu for v, mu in zip(values, walk.block_outputs[:-1], strict=True)]
        weight = -self.precision * problem.divisor(batch)
        return [*hidden, weight * problem.output_gradient(walk.outputs, batch)]

    def _moved(self, walk: ChainWalk, values: list[Tensor], errors: list[Tensor], rate: float) -> list[Tensor]:
        """Return the activities after one step down the energy."""
        back = [walk.send(index, walk.delta(index, error)) for index, error in enumerate(errors[1:], 1)]
        with torch.no_grad():
            return [v - rate * (e - b) for v, e, b in zip(values, errors[:-1], back, strict=True)]

    def _direction_on_arrival(self, batch: Batch, walk: ChainWalk) -> Grads:
        """Return the direction of each block at the step in which the error first gets there, from the top down."""
        values, found = walk.block_outputs[:-1], Grads()
        last = len(values)
        for index in range(last, -1, -1):
            errors = self._errors(batch, walk, values)
            found.update(walk.pull(errors, parameters={index}).parameters)
            if index > 0:
                values = self._moved(walk, values, errors, 1.0)
                walk = walk.at(values)
        return self._descent(batch, found)

    def energy(self, batch: Batch, walk: ChainWalk, values: list[Tensor]) -> Tensor:
        """Return the mean of E_i over the rows, a scalar."""
        rows = self.problem.divisor(batch)
        energy = self.precision * self.problem.output_loss(walk.outputs, batch)
        for value, predicted in zip(values, walk.block_outputs[:-1], strict=True):
            energy = energy + 0.5 * (value - predicted).square().sum() / rows
        return energy.detach()

    def _probe(self, batch: Batch) -> Mapping[str, Tensor | float]:
        """Return the share of the energy that settling takes away, and how much of the slope it leaves."""
        with self.problem.same_noise():
            start = self.problem.walk(batch)
            values = start.block_outputs[:-1]
            before, first = self.energy(batch, start, values), self._slope(start, self._errors(batch, start, values))
            walk, errors = self.settled(batch, start, values, self.steps)
            taken = 1 - self.energy(batch, walk, values) / before
            return {"energy_settled": taken, "slope_left": self._slope(walk, errors) / first}

    def _slope(self, walk: ChainWalk, errors: list[Tensor]) -> Tensor:
        """Return the norm of dE/dv over all activities."""
        zeros = [torch.zeros_like(error) for error in errors[:-1]]
        found: Tensor = torch.stack(
            [s.norm() for s in self._moved(walk, zeros, errors, 1.0)] or [errors[-1].norm()]
        ).norm()
        return found

    @classmethod
    def oracles(cls) -> tuple[Oracle, ...]:
        """Check where the rule is backpropagation and where it must not be, and that it descends its energy."""

        def rule(variant: str, **options: float) -> "PredictiveCoding":
            return cls(sgd(), variant=variant, **options)  # type: ignore[arg-type]

        return (
            Oracle("fixed prediction is backprop", lambda: _apart(rule("fixed_prediction", steps=2, rate=1.0)), 1e-14),
            Oracle(
                "not after one step of two",
                lambda: _apart(rule("fixed_prediction", steps=1, rate=1.0)),
                0.05,
                differs=True,
            ),
            Oracle("zero divergence is backprop", lambda: _apart(rule("zero_divergence")), 1e-14),
            Oracle("not strict, settled", lambda: _apart(rule("strict", steps=150, rate=0.3)), 0.02, differs=True),
            Oracle("strict: log10 of the error over a decade of p, less 1", lambda: _order(cls), 0.1),
            Oracle("the direction is the energy's slope in the weights", lambda: _off_energy(rule("strict")), 1e-13),
            Oracle(
                "incremental: both descend in turn", lambda: _off_joint_descent(rule("incremental", steps=4)), 1e-14
            ),
            Oracle("not strict", lambda: _off_joint_descent(rule("strict", steps=4)), 1e-3, differs=True),
            Oracle("the energy never rises", lambda: _rise(rule("strict", steps=40, rate=0.3)), 0.0),
            Oracle(
                "it does at a rate beyond the stable one", lambda: _rise(rule("strict", rate=1.0)), 1e-3, differs=True
            ),
            Oracle("settled, no slope is left", lambda: _slope_left(rule("strict", steps=300, rate=0.3)), 1e-9),
            Oracle("not after 5 steps", lambda: _slope_left(rule("strict", steps=5)), 1e-3, differs=True),
        )


def _small() -> tuple[Problem, Batch]:
    """Return a problem whose weights are small enough to settle at a rate of 0.3 in a hundred steps or two."""
    problem, batch = toy()
    problem.assign(0.4 * problem.flat())
    return problem, batch


def _apart(rule: PredictiveCoding) -> float:
    problem, batch = _small()
    return against_backprop(set_up(rule, problem), batch)


def _order(kind: type[PredictiveCoding]) -> float:
    """Return how far the error against backprop is from falling tenfold where p does, in decades."""
    errors = [_apart(kind(sgd(), steps=150, rate=0.3, output_precision=p)) for p in (1e-2, 1e-3)]
    return abs(math.log10(errors[0] / errors[1]) - 1)


def _off_energy(rule: PredictiveCoding) -> float:
    """Return the relative error of the direction against autograd of the energy at the same activities."""
    problem, batch = toy()
    set_up(rule, problem)
    start = problem.walk(batch)
    values = start.block_outputs[:-1]
    rule.settled(batch, start, values, rule.steps)
    energy = _written_out(problem, batch, values)
    slopes = torch.autograd.grad(energy, list(problem.params.values()))
    return relative_error(rule.direction(batch)[1], dict(zip(problem.params, slopes, strict=True)))


def _written_out(problem: Problem, batch: Batch, values: list[Tensor]) -> Tensor:
    """Return the mean energy of a row for p = 1, which can be differentiated in activities and parameters."""
    energy, x = torch.zeros_like(problem.flat()[0]), batch.inputs
    for block, value in zip(problem.layered.blocks, values, strict=False):
        energy, x = energy + 0.5 * (value - block(x)).square().sum() / batch.rows, value
    return energy + problem.output_loss(problem.layered.blocks[-1](x), batch)


def _off_joint_descent(rule: PredictiveCoding, lr: float = 0.1) -> float:
    """Return the largest difference of a parameter from steps of activities and weights in turn, by autograd."""
    problem, batch = toy()
    set_up(rule, problem)
    start = problem.flat()
    values = problem.walk(batch).block_outputs[:-1]
    for _ in range(rule.steps):
        values = [value.requires_grad_() for value in values]
        slopes = torch.autograd.grad(_written_out(problem, batch, values), values)
        values = [(v - rule.rate * batch.rows * s).detach() for v, s in zip(values, slopes, strict=True)]
        found = torch.autograd.grad(_written_out(problem, batch, values), list(problem.params.values()))
        problem.assign(problem.flat() - lr * torch.cat([one.flatten() for one in found]))
    expected = problem.flat()
    problem.assign(start)
    return step_error(rule, batch, expected)


def _rise(rule: PredictiveCoding) -> float:
    """Return the largest rise of the energy in a step of the activities, 0 where there is none."""
    problem, batch = _small()
    walk = set_up(rule, problem).problem.walk(batch)
    values, worst = walk.block_outputs[:-1], 0.0
    before = float(rule.energy(batch, walk, values))
    for _ in range(rule.steps):
        walk, _ = rule.settled(batch, walk, values, 1)
        after = float(rule.energy(batch, walk, values))
        worst, before = max(worst, after - before), after
    return worst


def _slope_left(rule: PredictiveCoding) -> float:
    problem, batch = _small()
    return float(set_up(rule, problem)._probe(batch)["slope_left"])
